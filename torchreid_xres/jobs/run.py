"""One stage of one model on one split: its loaders, its network, its engine."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from yacs.config import CfgNode

from torchreid_xres import checkpoint, host
from torchreid_xres.config import (
    ConfigError,
    as_dict,
    config_text,
    file_of,
    load_config,
    padding_of,
    value_of,
    with_changes,
)
from torchreid_xres.data.base import DATASETS, CrossResolutionDataset
from torchreid_xres.data.manager import XresDataManager
from torchreid_xres.data.protocol import Manifest
from torchreid_xres.devices import distributed, parallel
from torchreid_xres.devices.compiled import compile_network
from torchreid_xres.engine.base import ENGINES, LAST, SoftmaxEngine, TripletEngine, XresEngine, XresMixin
from torchreid_xres.engine.choosing import FOLDER as VALIDATION
from torchreid_xres.engine.choosing import Choice
from torchreid_xres.files import remove_scratch, whole_file, write_json, write_text
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.optimizers import build_scheduler, optimizer_options, part_front_end
from torchreid_xres.models import MODELS, build_model
from torchreid_xres.models.weights import load_weights, without_starts
from torchreid_xres.registry import Registry

logger = logging.getLogger(__name__)

# What a stage does (the key ``task``): name -> function of a Run that returns its records.
TASKS = Registry("task")

# What a run on the network of another one (model.gallery_run) takes over besides it.
OF_GALLERY = (
    "data.height", "data.width", "data.interpolation", "data.grey_bits", "data.norm_mean", "data.norm_std",
    "test.dist_metric", "test.normalize_feature", "test.flip",
)  # fmt: skip


class Run:
    """One stage of one model on one split.

    Args:
        cfg: the stage's configuration.
        split: split of the data sets.
        folder: where the run works.
        sha256: what its result depends on; a state in ``folder`` under another one is refused.
        name: how the run is named among those of its job.
        stage: the stage's name, if there are several.
        compared: a model of ``compare.models`` to train instead of ``model.name``.
        after: folders of the earlier stages whose results it uses.
    """

    def __init__(
        self,
        cfg: CfgNode,
        split: int,
        folder: Path,
        sha256: str,
        *,
        name: str,
        stage: str = "",
        compared: str = "",
        after: Iterable[Path] = (),
    ) -> None:
        self.cfg, self.split, self.folder, self.sha256, self.name, self.stage = cfg, split, folder, sha256, name, stage
        self.compared, self.after = compared, tuple(after)
        self.model_name = compared or cfg.model.name
        self.label = f"{self.model_name} ({cfg.sr.name})" if self.model_name == "sr_reid" else self.model_name
        if stage:
            self.label = f"{self.model_name} [{stage}]"

    def work(self) -> list[dict]:
        """Do the stage's task and return its records; of several processes all do it only if it says so."""
        distributed.on_main(lambda: remove_scratch(self.folder))
        task = TASKS[self.cfg.task]
        if task.meta.get("together"):
            return task.build(self)
        return distributed.on_main(lambda: task.build(self))

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Return the run that was trained in a folder.

        Raises:
            FileNotFoundError: if none was.
        """
        folder = Path(folder)
        path = folder / "run.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is no folder of a run: it has no {path.name}")
        return cls(load_config(folder / "config.yaml"), folder=folder, **json.loads(path.read_text(encoding="utf-8")))

    def save(self) -> None:
        """Write what :meth:`load` needs into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(config_text(self.cfg), self.folder / "config.yaml")
        kept = ("split", "sha256", "name", "stage", "compared")
        write_json({key: getattr(self, key) for key in kept}, self.folder / "run.json")

    def adopt(self, other: Run) -> None:
        """Put another run's trained state in place of this one's, so that only the evaluation is left to do.

        Args:
            other: the same training on another split; if its state was removed, this run has to train.
        """
        trained = other.folder / LAST
        if not trained.is_file():
            return
        logger.info("%s has the training images of %s: its weights are taken", self.name, other.name)
        with whole_file(self.folder / LAST, needed=trained.stat().st_size) as scratch:
            shutil.copyfile(trained, scratch)

    def train(self, prepare: Callable[[XresMixin], None] | None = None) -> list[dict]:
        """Train to the last epoch, evaluate, and return the records of the targets.

        Args:
            prepare: what is done with the engine before the first epoch.

        Raises:
            ValueError: if the training is to go on with other images than it began with.
        """
        self.cfg = self._on_gallery_run()
        if distributed.is_main():
            self.save()
        engine = self.engine()
        distributed.on_main(lambda: self._require_same_images(engine.datamanager))
        if prepare is not None and not (self.folder / LAST).is_file():
            prepare(engine)
        # What another run learned is this model's, not the compared ones'.
        resume = "" if self.compared else file_of(self.cfg, self.cfg.model.resume)
        engine.run(resume=resume, **self._run_options())
        took = {f"train_{key}": round(value, 1) for key, value in engine.stopwatch.read().items()}
        return [record | took for record in engine.records.values()]

    def evaluate(self) -> list[dict]:
        """Evaluate given weights, or those this run was trained to, and return the records of the targets.

        Raises:
            ConfigError: if there are no weights to evaluate.
        """
        if TASKS[self.cfg.task].meta.get("again"):  # it reads from its folder what it has learned
            return self.work()
        if self.cfg.task == "fuse" and (self.folder / "run.json").is_file():  # weights may have been chosen there
            self.cfg.fusion.weights = Run.load(self.folder).cfg.fusion.weights
        engine = self.engine()
        if not self.cfg.model.load_weights:
            trained = self.folder / LAST
            if not trained.is_file():
                raise ConfigError(
                    f"test.evaluate needs weights: name model.load_weights, or a data.save_dir with a trained run "
                    f"(there is no {trained})"
                )
            load_weights(unwrap(engine.model), trained, strict=True)
            engine.choice = Choice.of(checkpoint.load(trained))
        distributed.on_main(lambda: self._tell_other_images(engine.datamanager))
        engine.run(**self._run_options())
        return list(engine.records.values())

    def engine(self) -> XresMixin:
        """Return the engine with loaders, network and optimiser, seeded, as before the first epoch."""
        cfg = self.cfg = self._on_gallery_run()
        seed = (cfg.train.seed + cfg.train.seed_offset) % 2**32
        host.set_random_seed(seed)
        datamanager = self.datamanager()
        model = self._model(datamanager.num_train_pids)
        if cfg.train.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if cfg.train.compile:
            compile_network(model, self.model_name)
        stock = TripletEngine if cfg.loss.name == "triplet" else SoftmaxEngine
        engine = ENGINES[self.model_name].build if self.model_name in ENGINES else stock
        model = parallel.parallel(model, cfg.use_gpu, whole_step=issubclass(engine, XresEngine))
        optimizer = host.build_optimizer(model, **optimizer_options(cfg))
        own = None if self.compared else part_front_end(cfg, model, optimizer)
        scheduler = build_scheduler(cfg, optimizer)
        return engine(
            datamanager,
            model,
            optimizer,
            scheduler=scheduler,
            use_gpu=cfg.use_gpu,
            precision=cfg.train.precision,
            clip_grad=cfg.train.clip_grad,
            metric=cfg.test.metric,
            draws=cfg.test.draws,
            eval_seed=cfg.test.seed,
            query_rates=cfg.test.query_rates,
            flip=cfg.test.flip,
            patience=cfg.train.patience,
            liveness=cfg.train.liveness,
            run_facts={
                "model": self.label,
                "stage": self.stage,
                "config_sha256": self.sha256,
                "seed": seed,
                "epochs": cfg.train.max_epoch,
                "input": [cfg.data.height, cfg.data.width],
                "train_images": len(datamanager.train_loader.dataset),
                "train_identities": datamanager.num_train_pids,
            },
            **engine.engine_options(cfg),
            **({"front_end": own} if own else {}),
        )

    def _on_gallery_run(self) -> CfgNode:
        """Return the configuration with what ``model.gallery_run`` stands for in its place, so that it stands alone."""
        cfg = self.cfg
        if not cfg.model.gallery_run or self.compared:
            return cfg
        if cfg.test.evaluate and (self.folder / "config.yaml").is_file():  # the other run may be gone
            other = load_config(self.folder / "config.yaml")
            changes = {"model": {key: as_dict(other.model)[key] for key in ("reid", "reid_weights", "options")}}
        else:
            run = Run.load(file_of(cfg, cfg.model.gallery_run))
            other, ours = run.cfg, run.model_name in MODELS
            options = {"reid_options": without_starts(model_options(other, run.model_name))} if ours else {}
            weights = str(run.folder / LAST)
            changes = {"model": {"reid": run.model_name, "reid_weights": weights, "options": options}}
        changes["model"]["gallery_run"] = ""
        for key in OF_GALLERY:
            group, name = key.split(".")
            changes.setdefault(group, {})[name] = value_of(other, key)
        return with_changes(cfg, changes, str(cfg.model.gallery_run))

    def _require_same_images(self, manager: XresDataManager) -> None:
        for name, dataset in manager.sets().items():
            found = {self.folder: self._keep_manifest(dataset)}
            for folder in self.after:
                path = folder / f"manifest_{name}.json"
                found[folder] = Manifest.load(path).changed(dataset.manifest) if path.is_file() else ""
            for folder, told in found.items():
                if told:
                    raise ValueError(
                        f"{name} is not what the run in {folder} began with: {told}. Put that back to go on, start "
                        "over with --fresh, or evaluate what was trained as it is with test.evaluate True"
                    )

    def _tell_other_images(self, manager: XresDataManager) -> None:
        for name in manager.targets:
            dataset = manager.test_loader[name]["gallery"].dataset
            told = self._keep_manifest(dataset)
            if told:
                path = self.folder / "results" / f"manifest_{name}.json"
                dataset.manifest.save(path)
                logger.warning("%s is not as in the training: %s. What it is now is in %s", name, told, path)

    def _keep_manifest(self, dataset: Dataset) -> str:
        """Leave a set's manifest in the folder; return in what it differs from the one that a training left there."""
        if not isinstance(dataset, CrossResolutionDataset):
            return ""
        path = self.folder / f"manifest_{dataset.name}.json"
        if path.is_file() and (self.folder / LAST).is_file():
            return Manifest.load(path).differences(dataset.manifest)
        dataset.manifest.save(path)
        return ""

    @distributed.in_turn()
    def datamanager(self) -> XresDataManager:
        """Return the loaders, and leave the targets' manifests in the folder, but for those of a training there."""
        cfg = self.cfg
        common: dict[str, Any] = {
            "kernel": cfg.data.kernel,
            "interpolation": cfg.data.interpolation,
            "grey_bits": cfg.data.grey_bits,
            "seed": cfg.data.protocol_seed,
            "pictures": file_of(cfg, cfg.data.pictures),
            "cache_mb": cfg.data.cache_mb,
            # The host's own models have no use for the second view.
            "pairs": cfg.data.pairs and not self.compared,
        }
        if cfg.data.originals:
            common["originals"] = True
        if cfg.data.random_rates:
            common |= {"random_rates": list(cfg.data.random_rates), "random_share": cfg.data.random_share}
        if cfg.data.validation:
            common |= {"validation": cfg.data.validation, "part": cfg.data.part}
        if cfg.data.rates:
            common["rates"] = list(cfg.data.rates)
        if cfg.data.pair_rates:
            common["pair_rates"] = list(cfg.data.pair_rates)
        parts = [name for name in (self.model_name, cfg.model.reid) if name in MODELS]
        manager = XresDataManager(
            options={"*": common, **as_dict(cfg.data.options)},
            native=any(getattr(MODELS[name].build, "takes_native", False) for name in parts),
            root=cfg.data.root,
            sources=list(cfg.data.sources),
            targets=list(cfg.data.targets),
            height=cfg.data.height,
            width=cfg.data.width,
            transforms=list(cfg.data.transforms),
            pad=cfg.data.pad,
            padding_mode="reflect" if padding_of(cfg, common["pairs"]) == "reflect" else "constant",
            k_tfm=cfg.data.k_tfm,
            norm_mean=list(cfg.data.norm_mean),
            norm_std=list(cfg.data.norm_std),
            use_gpu=cfg.use_gpu,
            split_id=self.split,
            combineall=cfg.data.combineall,
            load_train_targets=cfg.data.load_train_targets,
            # An evaluation builds the training set too, for its identities, but draws no batch from it.
            batch_size_train=1 if cfg.test.evaluate else cfg.train.batch_size,
            batch_size_test=cfg.test.batch_size,
            workers=cfg.data.workers,
            num_instances=cfg.sampler.num_instances,
            num_cams=cfg.sampler.num_cams,
            num_datasets=cfg.sampler.num_datasets,
            train_sampler="RandomSampler" if cfg.test.evaluate else cfg.sampler.train_sampler,
            train_sampler_t=cfg.sampler.train_sampler_t,
            num_low=cfg.sampler.num_low,
            cuhk03_labeled=cfg.cuhk03.labeled_images,
            cuhk03_classic_split=cfg.cuhk03.classic_split,
            market1501_500k=cfg.market1501.use_500k_distractors,
        )
        for target in manager.targets:
            if distributed.is_main():
                self._keep_manifest(manager.test_loader[target]["gallery"].dataset)
        return manager

    @distributed.in_turn()
    def _model(self, num_classes: int) -> nn.Module:
        cfg = self.cfg
        if self.model_name in MODELS:
            options = model_options(cfg, self.model_name)
            options = without_starts(options) if cfg.test.evaluate else options
            weights = cfg.model.load_weights
        else:
            options = {}
            weights = cfg.compare.weights if self.compared else cfg.model.load_weights
        model = build_model(
            self.model_name,
            num_classes=num_classes,
            loss=cfg.loss.name,
            pretrained=cfg.model.pretrained and not weights and not cfg.test.evaluate,
            use_gpu=cfg.use_gpu,
            **options,
        )
        if weights:
            load_weights(model, file_of(cfg, weights), strict=cfg.test.evaluate)
        return model

    def _run_options(self) -> dict[str, Any]:
        cfg = self.cfg
        beside = cfg.test.evaluate and cfg.data.part == "validation"  # the records of the test stay
        return {
            "save_dir": str(self.folder / VALIDATION if beside else self.folder),
            "max_epoch": cfg.train.max_epoch,
            "start_epoch": cfg.train.start_epoch,
            "fixbase_epoch": cfg.train.fixbase_epoch,
            "open_layers": list(cfg.train.open_layers),
            "start_eval": cfg.test.start_eval,
            "eval_freq": cfg.test.eval_freq,
            "test_only": cfg.test.evaluate,
            "print_freq": cfg.train.print_freq,
            "dist_metric": cfg.test.dist_metric,
            "normalize_feature": cfg.test.normalize_feature,
            "visrank": cfg.test.visrank,
            "visrank_topk": cfg.test.visrank_topk,
            "use_metric_cuhk03": cfg.cuhk03.use_metric_cuhk03,
            "ranks": list(cfg.test.ranks),
            "rerank": cfg.test.rerank and cfg.test.evaluate,
        }


TASKS.register("train", together=True)(lambda run: run.train())


def model_options(cfg: CfgNode, name: str) -> dict[str, Any]:
    """Return what a configuration says of the sizes and parts of a model of ours.

    Raises:
        ConfigError: if a front end is to stay as loaded, and the model has no such choice.
    """
    options = ENGINES[name].build.model_options(cfg)
    if cfg.sr.frozen and "freeze_sr" not in options:
        raise ConfigError(f"sr.frozen is for models that leave the choice, as sr_reid does; {name} does not")
    return {**options, **as_dict(cfg.model.options)}


def ranking_options(cfg: CfgNode, dataset: str) -> dict[str, Any]:
    """Return how a configuration has a data set ranked, as records hold it.

    Args:
        cfg: the configuration.
        dataset: registered name.
    """
    test = cfg.test
    own = DATASETS[dataset].build.metric if dataset in DATASETS else "market"
    return {
        "protocol": test.metric or ("single_shot" if cfg.cuhk03.use_metric_cuhk03 else own),
        "draws": test.draws,
        "seed": test.seed,
        "distance": test.dist_metric,
        "normalize": test.normalize_feature,
        "rerank": test.rerank,
    }
