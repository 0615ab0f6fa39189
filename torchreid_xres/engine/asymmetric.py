"""Training of ``models/asymmetric.py``: the query encoder follows the gallery encoder from degraded views.

With labels or without: without the terms ``id`` and ``triplet`` no identity is read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SubsetRandomSampler
from yacs.config import CfgNode

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError, as_dict, file_of
from torchreid_xres.data.base import CrossResolutionDataset, summands
from torchreid_xres.data.camera import SMALLEST, Camera
from torchreid_xres.data.io import read_image
from torchreid_xres.data.samplers import IdentitySampler
from torchreid_xres.data.split import shuffled
from torchreid_xres.devices import distributed
from torchreid_xres.devices.parallel import shared, to_device
from torchreid_xres.engine.base import ENGINES, XresEngine, has_original
from torchreid_xres.engine.restorer import full_flags
from torchreid_xres.engine.rounds import Rounds
from torchreid_xres.engine.routing import LEAST, calibrate
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.losses.asymmetric import AsymmetricLoss
from torchreid_xres.models.asymmetric import NEVER, AsymmetricOutput, described
from torchreid_xres.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalization

logger = logging.getLogger(__name__)

MOST_HELD_OUT = 128  # images for finding the threshold


@ENGINES.register("asymmetric")
class AsymmetricEngine(XresEngine):
    """Minimise :class:`~torchreid_xres.losses.asymmetric.AsymmetricLoss` over degraded views made in each step.

    The sharp views are the training images, or where there are pairs their originals. A frozen gallery encoder is asked
    of them once, before the first step, as an index has them: neither cropped nor mirrored. An image that is low
    resolution by nature has no sharp view: without labels it is left out, with labels it is learned from as one of its
    identity. Before each evaluation of a training the threshold is found anew, on images kept out of it.

    Args:
        *args: see :class:`XresEngine`.
        camera: makes the degraded views.
        momentum: of a mean of the gallery encoder that the query encoder follows instead, above 0 only where the
            gallery encoder learns.
        held_out: share of the training images that are kept for the threshold, at most 128; at 0 it stays where it is.
        caution: see :func:`~torchreid_xres.engine.routing.counted`.
        epoch_batches: batches of an epoch.
        mean, std: the loader's normalisation.
        loss: settings of the loss.
        **kwargs: see :class:`XresEngine`.

    Raises:
        ConfigError: for a sampler that cannot leave images out, or nothing to learn.
        ValueError: if no batch of sharp images can be filled.
    """

    def __init__(
        self,
        *args: Any,
        camera: Camera | None = None,
        momentum: float = 0.0,
        held_out: float = 0.1,
        caution: float = 1.0,
        epoch_batches: int = 250,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        loss: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        network = unwrap(self.model)
        device = next(network.parameters()).device
        self.camera, self.caution = camera or Camera(), caution
        self.normalize = Normalization(mean, std).to(device)
        self.loss = AsymmetricLoss(network.dim, **dict(loss or {})).to(device)
        self.average = None
        if momentum:
            self.average = AveragedModel(
                network.gallery, multi_avg_fn=get_ema_multi_avg_fn(momentum), use_buffers=True
            ).requires_grad_(False)
            self.average.update_parameters(network.gallery)  # the first one copies
        self.routing: dict[str, Any] = {}
        self._told = False
        plain = self.train_loader
        sharp = [i for i, full in enumerate(full_flags(plain.dataset)) if full]
        self._sharp = sharp
        self._indexed: dict[str, Tensor] = {}
        self.held_out = kept_out(plain.dataset, sharp, held_out)
        usable = range(len(plain.dataset)) if self.loss.labelled else sharp
        self.train_loader = Rounds(_among(plain, set(usable) - set(self.held_out)), epoch_batches)
        self.run_facts |= {
            "train_images": len(set(usable) - set(self.held_out)),
            "epoch_batches": epoch_batches,
            "labels": self.loss.labelled,
        }

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what the model takes from a configuration besides ``model.options``."""
        own = cfg.loss.asymmetric
        return {
            "reid": cfg.model.reid,
            "reid_weights": file_of(cfg, cfg.model.reid_weights),
            "size": [cfg.data.height, cfg.data.width],
            "mode": own.gallery,
            "classifier": own.classifier if own.id else "none",
        }

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration.

        Raises:
            ConfigError: for a gallery encoder that was never trained, or settings that do not go together.
        """
        own = as_dict(cfg.loss.asymmetric)
        weights = cfg.model.gallery_run or cfg.model.reid_weights
        if own["gallery"] == "frozen" and not (
            weights or cfg.model.pretrained or cfg.model.load_weights or cfg.test.evaluate
        ):
            raise ConfigError(
                "asymmetric with a frozen gallery encoder needs one that was trained: set model.gallery_run to the "
                "folder of its run, or model.reid_weights to its weights"
            )
        if own["id"] and own["classifier"] == "frozen" and not (weights or cfg.test.evaluate):
            raise ConfigError("loss.asymmetric.classifier frozen needs the gallery encoder's: set model.gallery_run")
        if own["gallery"] == "frozen" and own["momentum"]:
            raise ConfigError("loss.asymmetric.momentum is of a gallery encoder that learns, and it is frozen")
        terms = ("absolute", "relational", "temperature", "bank", "id", "triplet")
        if not any(own[name] for name in ("absolute", "relational", "id", "triplet")):
            raise ConfigError("asymmetric needs a loss: one of loss.asymmetric.absolute, relational, id and triplet")
        return {
            "camera": Camera(**as_dict(cfg.data.camera), enlargement=cfg.data.interpolation),
            "momentum": own["momentum"],
            "held_out": 0.0 if cfg.test.evaluate else own["held_out"],
            "caution": own["caution"],
            "epoch_batches": cfg.train.epoch_batches,
            "mean": cfg.data.norm_mean,
            "std": cfg.data.norm_std,
            "loss": {
                **{name: own[name] for name in terms},
                "margin": cfg.loss.triplet.margin,
                "smoothing": 0.1 if cfg.loss.softmax.label_smooth else 0.0,
            },
        }

    def losses(self, data: dict) -> dict[str, Tensor]:
        sharp = data.get("img_hr", data["img"])
        sizes = _captured(data, sharp)
        self._tell_range(sizes)
        seen, _ = self.camera.views(self.normalize.undo(sharp), sizes)
        frozen = unwrap(self.model).mode == "frozen"
        indexed = self._of_index(data["impath"]) if frozen else None
        output: AsymmetricOutput = self.model(self.normalize(seen), sharp, indexed)
        target = None
        if self.average is not None:
            with torch.no_grad():
                target = shared(partial(described, self.average.module.eval()), sharp)
        # Among several processes what is gathered seems to have a graph.
        gallery = output.gallery.detach() if frozen else output.gallery
        known = has_original(data) if "img_hr" in data else ~data["low"] if "low" in data else None
        logits = output.query_logits
        if output.gallery_logits is not None:
            logits = torch.cat((logits, output.gallery_logits))
        pids = data["pid"] if self.loss.labelled else None
        found = self.loss(output.query, gallery, target, known, logits, pids)
        if logits is not None:
            found["acc"] = 100 * (output.query_logits.argmax(1) == pids).float().mean()
        return found

    def step(self, data: dict) -> dict:
        """Take one step, and let the mean gallery encoder follow."""
        summary = super().step(data)
        if self.average is not None:
            self.average.update_parameters(unwrap(self.model).gallery)
        return summary

    def before_epoch(self) -> None:
        """Ask a frozen gallery encoder of all sharp images, once."""
        if unwrap(self.model).mode == "frozen":
            self._ask_gallery_encoder()

    def _ask_gallery_encoder(self) -> None:
        if self._indexed:
            return
        network = unwrap(self.model)
        with checkpoint.random_state_kept(), torch.no_grad():
            for batch in self.as_captured(self._sharp):
                img = batch["img"].to(next(network.parameters()))
                found = self.at_precision(lambda img=img: network.describe_gallery(img), img.shape)
                self._indexed.update(zip(batch["impath"], found.float().cpu(), strict=True))
        logger.info("the gallery encoder has described %d sharp images", len(self._sharp))

    def _of_index(self, paths: Sequence[str]) -> Tensor:
        """Return what the frozen gallery encoder says of sharp images (N, D); zeros of one that has no sharp view."""
        self._ask_gallery_encoder()
        network = unwrap(self.model)
        unknown = torch.zeros(network.dim)
        return torch.stack([self._indexed.get(path, unknown) for path in paths]).to(network.length.device)

    def as_captured(self, indices: Sequence[int]) -> DataLoader:
        """Return batches of training images as captured, without augmentation."""
        loader = self.datamanager.train_loader
        plain = _Plain(loader.dataset, indices, self.datamanager.transform_te)
        return DataLoader(plain, batch_size=32, num_workers=loader.num_workers)

    def _tell_range(self, sizes: Tensor) -> None:
        if self._told:
            return
        self._told = True
        least, largest = self.camera.rates
        small = (sizes[:, 0] < SMALLEST * largest).sum().item()
        logger.info(
            "queries are made at rates %g to %g and have at least %d pixels of height, which limits the rate of %d of "
            "the first %d images", least, largest, SMALLEST, small, len(sizes),
        )  # fmt: skip

    def test(self, *args: Any, **kwargs: Any) -> float:
        """Evaluate; a training first finds the threshold, and keeps it in its state."""
        if self.writer is not None and self.held_out:
            self._calibrate()
            distributed.on_main(self._save_state)
        return super().test(*args, **kwargs)

    def _calibrate(self) -> None:
        self.set_model_mode("eval")
        device = "cuda" if self.use_gpu else "cpu"
        self.routing = calibrate(
            unwrap(self.model),
            (to_device(batch, device) for batch in self.as_captured(self.held_out)),
            self.camera,
            self.normalize,
            lambda work, img: self.at_precision(work, img.shape),
            self.caution,
        )
        told = self.routing["threshold"]
        logger.info(
            "found on %d images that were kept out: %s", self.routing["images"],
            "the query encoder nowhere finds the sharp image better, and answers no query" if told is None
            else f"queries that are enlarged at least {told:.2f} times go to the query encoder",
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Return what each record repeats, and how queries are shared between the encoders."""
        threshold = unwrap(self.model).threshold.item()
        routing = {"threshold": None if threshold == NEVER else round(threshold, 4)}
        return {**super().facts(), "routing": routing | self.routing}

    def _state(self) -> dict:
        own = {"loss": self.loss.state_dict()}
        if self.average is not None:
            own["average"] = self.average.state_dict()
        return super()._state() | {"asymmetric": own}

    def _restore(self, state: dict) -> int:
        own = state.get("asymmetric", {})
        if "loss" in own:
            self.loss.load_state_dict(own["loss"])
        if "average" in own and self.average is not None:
            self.average.load_state_dict(own["average"])
        return super()._restore(state)


class _Plain(Dataset):
    """Training images as captured, without augmentation: ``img`` (3, H, W), ``size`` and ``impath``."""

    def __init__(self, dataset: Dataset, indices: Sequence[int], transform: Any) -> None:
        every = [(member, path) for member in summands(dataset) for path, *_ in member.train]
        self.images, self.transform = [every[i] for i in indices], transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        member, path = self.images[index]
        read = member.read if isinstance(member, CrossResolutionDataset) else read_image
        img: PIL.Image.Image = read(path)
        return {"img": self.transform(img), "size": torch.tensor([img.height, img.width]), "impath": path}


def kept_out(dataset: Dataset, sharp: Sequence[int], share: float) -> list[int]:
    """Return the images that are kept out, by a hash of their names, whatever their labels or folder."""
    count = min(MOST_HELD_OUT, round(share * len(sharp)))
    if share and count < LEAST:
        logger.warning(
            "%g of %d sharp images are too few to find the threshold on, %d at least: it stays as it is",
            share, len(sharp), LEAST,
        )  # fmt: skip
        return []
    return sorted(shuffled(sharp, "asymmetric", key=lambda i: Path(dataset.train[i][0]).name)[:count])


def _among(loader: DataLoader, indices: set[int]) -> DataLoader:
    """Return a loader that draws only some of the images, as the given one draws all."""
    sampler = loader.sampler
    if isinstance(sampler, IdentitySampler):
        sampler = sampler.without(set(range(len(loader.dataset))) - indices)
    elif isinstance(sampler, RandomSampler):
        sampler = SubsetRandomSampler(sorted(indices))
    else:
        raise ConfigError(
            f"asymmetric leaves images out, which {type(sampler).__name__} cannot; sampler.train_sampler may be "
            "RandomSampler, IdentitySampler or MixedIdentitySampler"
        )
    return DataLoader(
        loader.dataset,
        sampler=sampler,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=True,
    )


def _captured(data: Mapping[str, Any], sharp: Tensor) -> Tensor:
    """Return height and width of the sharp views as captured, (N, 2): a batch has those of what the camera saw."""
    if "size" not in data:  # of a set of the host
        return torch.tensor([tuple(sharp.shape[-2:])] * len(sharp))
    if "img_hr" not in data:
        return data["size"]
    return (data["size"] * data["rate"][:, None]).round().to(data["size"].dtype)
