"""Training and evaluation of a keypoint network in the host's loop.

A. Zheng et al., "Keypoint-guided feature enhancement and alignment for cross-resolution vehicle re-identification"
(KGNet), Engineering Applications of Artificial Intelligence 2025, Section 3.2, Gaussian keypoint localisation. The
network is to find points in pictures as captured and in pictures that were 1/8 of the side. So half of each
training batch goes down and up again, and both kinds are evaluated.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from yacs.config import CfgNode

from torchreid_xres.data.degrade import check_rate, low_size, round_trip
from torchreid_xres.devices.parallel import to_device
from torchreid_xres.engine.base import ENGINES, XresEngine
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.keypoints import KEYPOINTS, TARGETS, KeypointTable, flip_points, heatmap_loss, hidden, to_points
from torchreid_xres.keypoints.scores import pck, pck_by_point, visibility_accuracy
from torchreid_xres.losses.pixelwise import PIXELWISE

logger = logging.getLogger(__name__)

# Steps of the host's training transform that leave every pixel where it is.
_STAYS_IN_PLACE = ("Resize", "ToNormalized", "ColorJitter", "RandomPatch", "RandomErasing")


@ENGINES.register("hourglass_vehicle20")
class KeypointEngine(XresEngine):
    """Minimise the heat map loss on pictures of which half are at low resolution and half are mirrored.

    Pictures are mirrored here and not by the loader, so that their points go with them. Pictures without annotation
    are left out, in the evaluation also those that the protocol makes low.

    Args:
        *args: see :class:`XresEngine`; the data sets have keypoints (``keypoints_file``).
        loss: ``l1`` (Eq. 2) or ``mse``.
        rates: low-resolution pictures are at one of these rates of the network's input, 8: 128 -> 16 -> 128.
        kernel: of the way down, one of ``data.degrade.KERNELS``.
        interpolation: of the way back.
        alpha: of PCK.
        tolerance: of the filter of invisible points, in cells (Eq. 3).
        **kwargs: see :class:`XresEngine`.

    Raises:
        ValueError: for a data set without keypoints, a training transform that moves pixels, or an unknown loss.
    """

    figures = r"(pck|visibility)(_x[\d.]+)?"

    def __init__(
        self,
        *args: Any,
        loss: str = "l1",
        rates: Sequence[float] = (8.0,),
        kernel: str = "bicubic",
        interpolation: str = "bilinear",
        alpha: float = 0.1,
        tolerance: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if loss not in PIXELWISE:
            raise ValueError(f"no heat map loss {loss!r}; there are: {', '.join(PIXELWISE)}")
        if not rates:
            raise ValueError("rates is empty; pictures at low resolution need at least one, such as 8")
        self.loss, self.kernel, self.interpolation = loss, kernel, interpolation
        self.rates = tuple(check_rate(rate) for rate in rates)
        self.alpha, self.tolerance = alpha, tolerance
        dataset = self.train_loader.dataset
        moving = [name for name in _steps(dataset) if name not in _STAYS_IN_PLACE]
        if moving:
            raise ValueError(
                f"the training transforms {', '.join(moving)} would move pictures away from their keypoints; leave "
                "random_flip and random_crop out of data.transforms (this engine mirrors pictures and points itself)"
            )
        self.table = KeypointTable(dataset)
        self._test_tables: dict[str, KeypointTable] = {}
        known = [index for index, (path, *_) in enumerate(dataset.train) if path in self.table]
        if len(known) < len(dataset):
            self.train_loader = _without_the_others(self.train_loader, known)

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what the network takes from a configuration beside ``model.options``: nothing."""
        return {}

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {
            "loss": cfg.loss.heatmap.name,
            "rates": tuple(cfg.data.pair_rates) or (8.0,),
            "kernel": cfg.data.kernel,
            "interpolation": cfg.data.interpolation,
        }

    # -- training --------------------------------------------------------------------------------------------

    def losses(self, data: dict) -> dict[str, Tensor]:
        img, points = self.augment(data["img"], self.table.points(data["impath"]).to(data["img"].device))
        outputs = self.model(img)  # a stack's maps (N, 20, H/4, W/4) each
        network = unwrap(self.model)
        target = TARGETS[network.targets](points, tuple(outputs[-1].shape[-2:]))
        last = outputs[-1].detach().float()
        return {
            "loss": heatmap_loss(outputs, target, self.loss),
            "pck": pck(to_points(last), points, self.alpha).nan_to_num(),
            "visible": visibility_accuracy(self._hidden(last), points),
        }

    def augment(self, img: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mirror each picture with a chance of a half, and take half of them through a low resolution.

        Args:
            img: (N, 3, H, W), normalised.
            points: (N, 20, 2), as :meth:`KeypointTable.points` gives them.

        Returns:
            Pictures and points of the same shapes.
        """
        mirrored = (torch.rand(len(img)) < 0.5).to(img.device)
        img = torch.where(mirrored[:, None, None, None], img.flip(-1), img)
        points = torch.where(mirrored[:, None, None], flip_points(points), points)
        order = torch.randperm(len(img))
        low = order[: len(img) // 2]
        img = img.clone()
        for rate, rows in zip(self.rates, low.chunk(len(self.rates)), strict=False):
            img[rows] = self.lowered(img[rows], rate)
        return img, points

    def lowered(self, img: Tensor, rate: float) -> Tensor:
        """Return pictures (N, 3, H, W) at 1/rate of the side, brought back to their size."""
        return round_trip(img, low_size(*img.shape[-2:], rate), self.kernel, self.interpolation)

    def _hidden(self, maps: Tensor) -> Tensor:
        return hidden(maps, unwrap(self.model).targets, self.tolerance)

    # -- evaluation ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _evaluate(
        self, dataset_name: str = "", query_loader: Any = None, gallery_loader: Any = None, save_dir: str = "", **_: Any
    ) -> tuple[float, float]:
        """Score the test pictures of one data set, plain and at each rate, and keep the record.

        The host logs the two figures that come back as rank-1 and mAP; they are PCK plain and at the first rate.
        """
        start = time.perf_counter()
        truth, found = self._predictions(dataset_name, (query_loader, gallery_loader))
        figures, by_point = {}, {}
        for kind, (points, unseen) in found.items():
            figures[f"pck{kind}"] = pck(points, truth, self.alpha).item()
            figures[f"visibility{kind}"] = visibility_accuracy(unseen, truth).item()
            by_point[f"pck{kind}"] = pck_by_point(points, truth, KEYPOINTS, self.alpha)
        protocol = {
            "pck": self.alpha,
            "rates": list(self.rates),
            "kernel": self.kernel,
            "interpolation": self.interpolation,
            "tolerance": self.tolerance,
        }
        self.keep_record(
            dataset_name,
            gallery_loader.dataset,
            save_dir,
            start,
            protocol=protocol,
            test_images=len(truth),
            visible_points=int((truth[..., 0] >= 0).sum()),
            **figures,
            by_point=by_point,
        )
        logger.info("%s: %s", dataset_name, ", ".join(f"{name} {value:.1f} %" for name, value in figures.items()))
        return figures["pck"] / 100, figures[f"pck_x{self.rates[0]:g}"] / 100

    def _predictions(self, name: str, loaders: Sequence[Any]) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the true points (N, 20, 2), and for each kind of picture the predicted ones and which are hidden."""
        if name not in self._test_tables:
            self._test_tables[name] = KeypointTable(*(loader.dataset for loader in loaders))
        table, device = self._test_tables[name], next(self.model.parameters()).device
        kinds = {"": None, **{f"_x{rate:g}": rate for rate in self.rates}}
        truth: list[Tensor] = []
        points, unseen = ({kind: [] for kind in kinds} for _ in range(2))
        done: set[str] = set()
        for loader in loaders:
            for batch in loader:
                rows = []
                for row, (path, low) in enumerate(zip(batch["impath"], batch["low"].tolist(), strict=True)):
                    # VeRi's queries are in its gallery, too.
                    if path in table and not low and os.path.basename(path) not in done:
                        rows.append(row)
                        done.add(os.path.basename(path))
                if not rows:
                    continue
                img = to_device(batch, device)["img"][rows]
                truth.append(table.points([batch["impath"][row] for row in rows]))
                for kind, rate in kinds.items():
                    seen = img if rate is None else self.lowered(img, rate)
                    maps = self.at_precision(partial(self.model, seen), seen.shape).float().cpu()
                    points[kind].append(to_points(maps))
                    unseen[kind].append(self._hidden(maps))
        if not truth:
            raise ValueError(
                f"{name} has no test pictures with keypoints that the protocol leaves as captured; the set's option "
                "query_rate: 1 leaves the queries so"
            )
        return torch.cat(truth), {kind: (torch.cat(points[kind]), torch.cat(unseen[kind])) for kind in kinds}


def _without_the_others(loader: DataLoader, known: Sequence[int]) -> DataLoader:
    """Return a loader of some of the pictures only, in random order."""
    return DataLoader(
        Subset(loader.dataset, known),
        shuffle=True,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=True,
    )


def _steps(dataset: Any) -> list[str]:
    """Return the names of the steps of the training transforms of a set, or of the sets of a sum."""
    members = getattr(dataset, "members", [dataset])
    return sorted({type(step).__name__ for member in members for step in member.transform.transforms})
