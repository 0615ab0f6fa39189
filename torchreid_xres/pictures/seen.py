"""A trained network, and an image as cameras of several resolutions would have seen it: where drawings start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize, to_tensor
from yacs.config import CfgNode

from torchreid_xres.data.degrade import check_rate, degrade_image
from torchreid_xres.data.io import read_image
from torchreid_xres.inference.network import find_run, load_network
from torchreid_xres.models.layers import Normalization


class Trained(NamedTuple):
    """A network as a run trained it, without classifier, in evaluation mode, and what it was trained on."""

    name: str
    model: nn.Module
    data: CfgNode  # the section ``data`` of the run's configuration
    normalize: Normalization

    def read(self, path: str | Path) -> PIL.Image.Image:
        """Return a picture's file as the run's data sets read it, 8-bit RGB."""
        return read_image(path, self.data.grey_bits)


class Seen(NamedTuple):
    """An image as cameras of several resolutions would have seen it.

    Attributes:
        pictures: what each saw, 8 bit, at its own size.
        original: the image at the network's size, (3, H, W) in [0, 1].
        batch: of them all, as a loader would give them: those at rate 1 as gallery, the others as queries.
    """

    pictures: list[PIL.Image.Image]
    original: Tensor
    batch: dict[str, Any]


def trained_model(folder: str | Path, wanted: Sequence[str] = ()) -> Trained:
    """Return the network of a trained run; its data are not needed.

    Args:
        folder: where the run was trained, or a checkpoint in it.
        wanted: names of models; empty for any.

    Raises:
        FileNotFoundError: if no run was trained there.
        ValueError: if the run is of another model, or its weights do not fit.
    """
    run, weights = find_run(folder)
    if wanted and run.model_name not in wanted:
        raise ValueError(f"{run.folder} is a run of {run.model_name}; this drawing is of {', '.join(wanted)} only")
    model, _ = load_network(run, weights)
    data = run.cfg.data
    return Trained(run.model_name, model, data, Normalization(data.norm_mean, data.norm_std))


def seen_at(img: PIL.Image.Image, rates: Sequence[float], data: CfgNode, normalize: Normalization) -> Seen:
    """Down-sample an image in 8 bits, as the protocol does with queries, and bring all to the network's size.

    Args:
        img: high-resolution image, 8-bit RGB.
        rates: of each camera; 1 = as it is.
        data: the section ``data`` of a configuration: height, width, kernel and interpolation.
        normalize: as the network was trained.

    Raises:
        ValueError: for a rate below 1.

    Example:
        >>> from torchreid_xres.config import load_config
        >>> seen = seen_at(PIL.Image.new("RGB", (40, 80)), (1, 4), load_config(None, []).data, Normalization())
        >>> seen.batch["img"].shape, seen.batch["size"].tolist(), seen.batch["role"]
        (torch.Size([2, 3, 256, 128]), [[80, 40], [20, 10]], ['gallery', 'query'])
    """
    size, how = [data.height, data.width], InterpolationMode(data.interpolation)
    pictures = [degrade_image(img, check_rate(rate), data.kernel) for rate in rates]
    low = [rate > 1 for rate in rates]
    return Seen(
        pictures,
        to_tensor(resize(img, size, how)),
        {
            "img": normalize(torch.stack([to_tensor(resize(picture, size, how)) for picture in pictures])),
            "rate": torch.tensor(rates, dtype=torch.float64),
            "low": torch.tensor(low),
            "size": torch.tensor([[picture.height, picture.width] for picture in pictures]),
            "role": ["query" if one else "gallery" for one in low],
        },
    )


def squares(img: PIL.Image.Image, height: int) -> PIL.Image.Image:
    """Enlarge a small picture to at least a height in pixels, each of its pixels a square; a larger one stays."""
    factor = -(-height // img.height)
    return img if factor == 1 else img.resize((factor * img.width, factor * img.height), PIL.Image.Resampling.NEAREST)
