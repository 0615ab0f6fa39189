"""Features of training images in high and in low resolution, by one trained network: what a resolution costs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torchreid_xres.config import ConfigError
from torchreid_xres.data.base import CrossResolutionDataset
from torchreid_xres.data.batches import collated
from torchreid_xres.data.degrade import check_rate, degrade_image
from torchreid_xres.data.restored import members_of
from torchreid_xres.engine.base import XresMixin
from torchreid_xres.features.features import FeatureSet
from torchreid_xres.features.record import weights_hash
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.extraction import labelled
from torchreid_xres.jobs.run import Run


class RatedViews(Dataset):
    """The training images that are there at full resolution, each as captured and down-sampled by some rates.

    An item is a list of the 1 + R views of an image, which is decoded once: dictionaries as a test loader has them, the
    one as captured in the role of the gallery, those down-sampled in that of low queries.

    Args:
        dataset: a set of this package, in training mode.
        transform: PIL image -> tensor, without augmentation.
        rates: R down-sampling rates; 1 among them adds nothing.
        native: views hold the camera's own pixels, too (``data/batches.py``).

    Raises:
        ValueError: if the low resolution of all training images is their own, or no rate is above 1.
    """

    def __init__(
        self,
        dataset: CrossResolutionDataset,
        transform: Callable[[PIL.Image.Image], Tensor],
        rates: Sequence[float],
        native: bool = False,
    ) -> None:
        self.dataset, self.transform, self.native = dataset, transform, native
        self.rates = (1.0, *sorted({check_rate(rate) for rate in rates} - {1.0}))
        if len(self.rates) == 1:
            raise ValueError(f"low views need a rate above 1, not {list(rates)}")
        self.images = [image for image in dataset.train if dataset.rate_of[image[0]] != "native"]
        if not self.images:
            raise ValueError(f"{dataset.name}: no training image is there at full resolution")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        path, pid, camid, _ = self.images[index]
        captured = self.dataset.read(path)
        views = []
        for rate in self.rates:
            seen = degrade_image(captured, rate, self.dataset.options["kernel"])
            low = rate > 1
            role = "query" if low else "gallery"
            view = {"img": self.transform(seen), "size": torch.tensor([seen.height, seen.width])}
            view |= {"native": np.asarray(seen)} if self.native else {}
            views.append(view | {"pid": pid, "camid": camid, "impath": path, "rate": rate, "low": low, "role": role})
        return views


def pair_features(run: Run, engine: XresMixin, rates: Sequence[float] = ()) -> FeatureSet:
    """Return features of the first source's training images, as captured and at some rates.

    They are kept in the run's folder and read from there when weights, rates and images are the same.

    Args:
        run: a trained run.
        engine: its engine with the weights as trained (:func:`torchreid_xres.jobs.extraction.trained_engine`).
        rates: of the low views; none: those above 1 that the set makes pairs with, or else that its images have.

    Returns:
        Of N images and R rates N * (1 + R) rows, the views of an image next to each other. ``rate`` 1 is the image as
        captured, the others are ``low``.

    Raises:
        ConfigError: for a run on restored pictures, from which no low views can be made.
        TypeError: for a set of the host.
        ValueError: if no training image is there at full resolution.
    """
    if run.cfg.data.pictures:
        raise ConfigError(f"{run.folder} was trained on data.pictures: its pairs cannot be made from the sets' files")
    dataset = members_of(engine.datamanager.train_loader.dataset)[0]
    own = [rate for rate in dataset.options["pair_rates"] if rate > 1] or dataset.options["rates"]
    manager = engine.datamanager
    views = RatedViews(dataset, manager.transform_te, rates or own, manager.native)
    digest = weights_hash(unwrap(engine.model))
    path = run.folder / "features" / "pairs.npz"
    if path.is_file():
        kept = FeatureSet.load(path)
        known = (kept.weights_sha256, kept.manifest_sha256, kept.dataset, set(kept.rate.tolist()))
        if known == (digest, dataset.manifest.sha256, dataset.name, set(views.rates)):
            return kept
    loader = DataLoader(
        views,
        batch_size=max(1, run.cfg.test.batch_size // len(views.rates)),
        num_workers=run.cfg.data.workers,
        collate_fn=_side_by_side,
    )
    pairs = labelled(run, engine, loader, dataset, name=dataset.name, role="train", digest=digest)
    pairs.save(path)
    return pairs


def _side_by_side(items: list[list[dict]]) -> dict[str, Any]:
    return collated(list(chain.from_iterable(items)))


@dataclass(frozen=True)
class Rates:
    """What rates the images of a run are at: those that the protocol made, or what natural low images' sizes tell.

    A natural image that is made smaller still (``query_rate``) is at more than that rate, which its size tells, too.

    Args:
        reference: side of an image of full resolution in pixels, the root of height times width.
        natural: names of the data sets whose low resolution is in the pictures.

    Example:
        >>> facts = {"features": torch.zeros(3, 2), "pid": [0] * 3, "camid": [0] * 3, "names": "abc"}
        >>> about = {"role": "query", "model": "m", "weights_sha256": "", "size": [[64, 16], [32, 8], [128, 128]]}
        >>> low = {"rate": [1, 2, 1], "low": [True, True, False]}
        >>> Rates(96, {"caviar"}).of(FeatureSet(dataset="caviar", **low, **facts, **about))
        array([3., 6., 1.])
        >>> Rates(96, {"caviar"}).of(FeatureSet(dataset="mlr_viper", **low, **facts, **about))
        array([1., 2., 1.])
    """

    reference: float = 1.0
    natural: Collection[str] = ()

    def of(self, features: FeatureSet) -> np.ndarray:
        """Return the rate (N,) of each image, 1 or more; 1 for those that are not low."""
        if features.dataset not in self.natural:
            return np.where(features.low, features.rate, 1.0)
        side = np.sqrt(features.size.prod(axis=1))
        return np.where(features.low, np.maximum(1, self.reference / side), 1.0)


def resolution_direction(pairs: FeatureSet, threshold: float = 0.4) -> dict[str, dict[str, float]]:
    """Return how far the loss of resolution is one direction for all identities.

    As the authors of VPFA test it (arXiv 2510.00936): the mean difference of each identity, correlated (Pearson) with
    the mean of these over all identities.

    Args:
        pairs: as :func:`pair_features` returns them.
        threshold: from which on an identity counts as going the common way.

    Returns:
        For each rate ``share`` of the identities above the threshold in per cent, their mean correlation ``pearson``,
        and ``cosine``, the mean similarity of an image's low and high feature.
    """
    high, low = views_by_rate(pairs)
    pid = pairs.pid[pairs.rate == 1]
    which = torch.as_tensor(np.unique(pid, return_inverse=True)[1])
    found = {}
    for rate, x in low.items():
        means = identity_means((high - x).double(), which)  # (P, D)
        joined = torch.stack([means, means.mean(dim=0).expand_as(means)])  # (2, P, D)
        joined = joined - joined.mean(dim=2, keepdim=True)
        pearson = torch.cosine_similarity(joined[0], joined[1], dim=1)  # (P,)
        found[f"{rate:g}"] = {
            "share": 100 * (pearson > threshold).double().mean().item(),
            "pearson": pearson.mean().item(),
            "cosine": torch.cosine_similarity(high, x, dim=1).mean().item(),
        }
    return found


def camera_gap(pairs: FeatureSet, low_cameras: Collection[int]) -> dict[str, float]:
    """Return how far what down-sampling does to features is what tells low cameras' images from the others.

    VPFA moves low images back by the offset of the training images' down-sampled copies. That helps as far as an
    identity's images by low cameras and by sharp ones lie that way apart, which they need not: a network trained on
    both has closed the gap of the images it saw, not that of copies it never saw. No image of the test is asked.

    Args:
        pairs: as :func:`pair_features` returns them.
        low_cameras: those whose images the protocol has in low resolution.

    Returns:
        ``cosine`` of the mean ``offset`` of copies and the mean ``gap`` between cameras (within identities), and the
        lengths of both as shares of a feature's; nothing where no identity was seen by cameras of both kinds.

    Example:
        >>> views = torch.tensor([[1.0, 0], [0.5, 0], [1, 0], [0.5, 0]])  # of the sharp camera 0 and the low camera 1
        >>> about = {"role": "train", "dataset": "d", "model": "m", "weights_sha256": "", "size": [[64, 64]] * 4}
        >>> by_image = {"pid": [0] * 4, "camid": [0, 0, 1, 1], "rate": [1.0, 2.0, 1.0, 2.0], "names": "aabb"}
        >>> camera_gap(FeatureSet(features=views, low=[False, True] * 2, **by_image, **about), {1})
        {'cosine': 1.0, 'offset': 0.5, 'gap': 0.5}
    """
    high, low = views_by_rate(pairs)
    captured = pairs.rate == 1
    pid, by_low = pairs.pid[captured], np.isin(pairs.camid[captured], list(low_cameras))
    both = np.intersect1d(pid[by_low], pid[~by_low])
    if not len(both):
        return {}
    high = high.double()
    copies = torch.stack(list(low.values())).double().mean(dim=0)  # (N, D)
    offset = (high - copies).mean(dim=0)
    sharp, blurred = (torch.as_tensor(np.isin(pid, both) & rows) for rows in (~by_low, by_low))
    which = torch.as_tensor(np.searchsorted(both, pid))
    gap = (identity_means(high[sharp], which[sharp]) - identity_means(copies[blurred], which[blurred])).mean(dim=0)
    length = high.norm(dim=1).mean()
    return {
        "cosine": torch.cosine_similarity(offset, gap, dim=0).item(),
        "offset": (offset.norm() / length).item(),
        "gap": (gap.norm() / length).item(),
    }


def views_by_rate(pairs: FeatureSet) -> tuple[Tensor, dict[float, Tensor]]:
    """Return the features as captured (N, D), and by rate those of the same images at it (N, D)."""
    parts = {rate: pairs.features[torch.as_tensor(pairs.rate == rate)] for rate in sorted(set(pairs.rate.tolist()))}
    return parts.pop(1.0), parts


def identity_means(features: Tensor, identity: Tensor) -> Tensor:
    """Return the mean feature (P, D) of each identity.

    Args:
        features: (N, D).
        identity: (N,), from 0 to P - 1, each of which occurs.
    """
    counts = torch.bincount(identity).to(features)
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, identity, features)
    return sums / counts[:, None]
