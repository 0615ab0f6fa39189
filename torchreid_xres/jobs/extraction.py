"""Features of a trained run, as files that fusion and other tools read."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from torchreid_xres import checkpoint, host
from torchreid_xres.data.base import DATASETS, ROLES, dataset_options
from torchreid_xres.data.batches import with_native
from torchreid_xres.data.io import image_size
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.engine.choosing import Choice
from torchreid_xres.features.features import FeatureSet
from torchreid_xres.features.record import weights_hash
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.run import Run, model_options
from torchreid_xres.models import MODELS, build_model
from torchreid_xres.models.weights import load_weights, without_starts
from torchreid_xres.registry import did_you_mean

logger = logging.getLogger(__name__)

OF_VALIDATION = ("validation_query", "validation_gallery")

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def run_features(folder: str | Path, roles: Sequence[str] = ROLES) -> dict[str, FeatureSet]:
    """Extract the features of a trained run's images, by role: what its first target and its first source hold.

    They are kept in the run's folder, if it can be written to, and read from there when weights, data set and manifest
    are the same.

    Args:
        folder: where the run was trained (it holds ``last.pth.tar``).
        roles: of train, query and gallery, and of ``OF_VALIDATION``: queries and gallery of its first source that are
            made of the identities kept out of the training. Training images are taken as the camera saw them, without
            augmentation.

    Raises:
        FileNotFoundError: if no run was trained there.
    """
    return engine_features(*trained_engine(folder), roles)


def roles_to_choose_on(folder: str | Path) -> tuple[str, ...]:
    """Return the roles of a run's images on which something may be chosen: its validation part, or else training ones.

    Raises:
        FileNotFoundError: if no run was trained there.
    """
    return OF_VALIDATION if Run.load(folder).cfg.data.validation else ("train",)


def require_trained(folder: str | Path) -> Run:
    """Return the run that was trained in a folder, whose network was built and loaded to see that it can be.

    Raises:
        FileNotFoundError: if no run was trained there.
        ValueError: if the weights there do not fit.
    """
    run = Run.load(folder)
    load_network(run, run.folder / LAST)
    return run


def load_network(run: Run, weights: str | Path) -> tuple[nn.Module, dict]:
    """Build the network of a run and load its weights; classifiers, which only training needs, are left out.

    Args:
        run: what :func:`find_run` found.
        weights: the checkpoint.

    Returns:
        The network in evaluation mode, on the CPU, and the options it was built with, without files of weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another network.
    """
    name, ours = run.model_name, run.model_name in MODELS
    options = without_starts(model_options(run.cfg, name)) if ours else {}
    # The host's zoo has no network without a classifier.
    classes = 0 if ours else 1
    model = build_model(name, num_classes=classes, loss=run.cfg.loss.name, pretrained=False, **options)
    with torch.no_grad():
        for missing in load_weights(model, weights, strict=True):
            model.state_dict()[missing].zero_()  # a classifier's random weights must not tell two copies apart
    options.pop("sr_weights", None)
    return model.eval(), options


def trained_engine(folder: str | Path, dataset: str = "", root: str | Path = "") -> tuple[Run, XresMixin]:
    """Return a trained run and its engine, with loaders, ready to evaluate; on the CPU where there is no GPU.

    Args:
        folder: where the run was trained (it holds ``last.pth.tar``).
        dataset: registered name of the data set to evaluate on; empty: the run's first target.
        root: folder that holds the data sets now; empty: where the run had them.

    Raises:
        FileNotFoundError: if no run was trained there, or the data set is not there.
        ValueError: if the weights there do not fit, or there is no such data set; before images are read.
    """
    run = require_trained(folder)
    if dataset and dataset not in host.image_datasets():
        raise ValueError(f"no data set is called {dataset!r}{did_you_mean(dataset, host.image_datasets())}")
    run.cfg.test.evaluate = True
    run.cfg.use_gpu = run.cfg.use_gpu and torch.cuda.is_available()
    if run.cfg.train.precision == "fp16" and not run.cfg.use_gpu:
        run.cfg.train.precision = "fp32"
    if dataset:
        run.cfg.data.targets = [dataset]
    if root:
        run.cfg.data.root = str(root)
    # All weights are in the run's own file.
    run.cfg.model.load_weights = run.cfg.compare.weights = ""
    engine = run.engine()
    load_weights(unwrap(engine.model), run.folder / LAST, strict=True)
    engine.choice = Choice.of(checkpoint.load(run.folder / LAST))
    engine.set_model_mode("eval")
    return run, engine


def engine_features(run: Run, engine: XresMixin, roles: Sequence[str] = ROLES) -> dict[str, FeatureSet]:
    """Do the work of :func:`run_features` with the engine of :func:`trained_engine`."""
    digest = weights_hash(unwrap(engine.model))
    sets = engine.datamanager.sets()
    found = {}
    for role in roles:
        apart = role in OF_VALIDATION
        name = (run.cfg.data.sources if role == "train" or apart else run.cfg.data.targets)[0]
        part = "test" if role == "train" else "validation" if apart else run.cfg.data.part
        path = run.folder / "features" / f"{role}.npz"
        if path.is_file():
            found[role] = FeatureSet.load(path)
            kept = (found[role].weights_sha256, found[role].dataset, found[role].manifest_sha256, found[role].part)
            if kept == (digest, name, _manifest_of(sets.get(name), name), part):
                continue
        own = role.removeprefix("validation_")
        loaders = engine.datamanager.validation_loaders()[name] if apart else {}
        loader = loaders.get(own) or _loader(run, engine, name, role)
        found[role] = labelled(run, engine, loader, loader.dataset, name=name, role=own, digest=digest)
        try:
            found[role].save(path)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            logger.warning("%s cannot be kept for the next time: %s", path, error.strerror)
    return found


def _loader(run: Run, engine: XresMixin, name: str, role: str) -> DataLoader:
    manager = engine.datamanager
    if role != "train":
        return manager.test_loader[name][role]
    dataset = training_images(run, engine, name)
    loader = DataLoader(dataset, batch_size=run.cfg.test.batch_size, num_workers=run.cfg.data.workers)
    return with_native(loader) if manager.native else loader


def training_images(run: Run, engine: XresMixin, name: str) -> Dataset:
    """Return the training images of a data set as the camera saw them, without augmentation."""
    manager = engine.datamanager
    plain = {"*": {"pairs": False}, **({name: {"pairs": False}} if name in DATASETS else {})}
    with dataset_options(manager.options), dataset_options(plain):
        return host.init_image_dataset(
            name, transform=manager.transform_te, mode="train", verbose=False,
            root=run.cfg.data.root, split_id=run.split, cuhk03_labeled=run.cfg.cuhk03.labeled_images,
            cuhk03_classic_split=run.cfg.cuhk03.classic_split,
        )  # fmt: skip


def _manifest_of(dataset: Dataset | None, name: str) -> str:
    return dataset.manifest.sha256 if name in DATASETS else ""


def labelled(
    run: Run, engine: XresMixin, loader: DataLoader, dataset: Dataset, *, name: str, role: str, digest: str
) -> FeatureSet:
    """Return the features of a loader's images, with what says of which images and which model they are.

    Args:
        run: the trained run.
        engine: its engine.
        loader: over the data set, or views of its images.
        dataset: the data set.
        name: its registered name.
        role: ``train``, ``query`` or ``gallery``.
        digest: hash of the model's weights.
    """
    with torch.no_grad():
        features, facts = engine._features(loader, False)
    paths = [str(path) for path in facts["impath"]]
    if "size" not in facts:
        facts["size"] = np.array([image_size(path) for path in paths])
    home = dataset.split.folder if name in DATASETS else os.path.commonpath([os.path.dirname(p) for p in paths])
    return FeatureSet(
        features=features,
        names=[os.path.relpath(path, home).replace(os.sep, "/") for path in paths],
        role=role,
        dataset=name,
        model=run.label,
        weights_sha256=digest,
        manifest_sha256=_manifest_of(dataset, name),
        part="test" if role == "train" or name not in DATASETS else dataset.options["part"],
        **{key: facts[key] for key in ("pid", "camid", "rate", "low", "size")},
    )
