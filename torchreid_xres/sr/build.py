"""Front ends by name, and checkpoints into them: strict, and clear about what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from torchreid_xres.image import resize
from torchreid_xres.metrics.image import psnr
from torchreid_xres.registry import refuse_unknown_options
from torchreid_xres.sr.base import FRONT_ENDS, FrontEnd
from torchreid_xres.tensors import misfits, read_tensors, require_finite

logger = logging.getLogger(__name__)

# Where training programs put the state dict inside a checkpoint; EMA weights before raw ones.
_WRAPPERS = ("state_dict", "model_state_dict", "params_ema", "params", "models", "model")


def build_front_end(name: str, scale: int = 4, weights: str | Path = "", **options: Any) -> FrontEnd:
    """Build a front end by its registered name.

    Args:
        name: one of ``list(FRONT_ENDS)``.
        scale: magnification; the allowed ones are in ``FRONT_ENDS[name].meta["info"].scales``.
        weights: a published checkpoint or one of our own; empty for an untrained net.
        options: sizes and the like, as the front end's class documents them.

    Returns:
        The front end, in training mode, on the CPU.

    Raises:
        KeyError: if there is no front end of that name.
        TypeError: if it does not take one of the options; the message lists those it takes.
        ValueError: if an option or the scale has no allowed value, or the checkpoint does not fit.
        FileNotFoundError: if there is no such checkpoint.

    Example:
        >>> import torch
        >>> vdsr = build_front_end("vdsr", depth=3, features=8)
        >>> tuple(vdsr(torch.rand(2, 3, 20, 9), size=(256, 128)).shape)
        (2, 3, 256, 128)
    """
    require_front_end_options(name, options)
    entry = FRONT_ENDS[name]
    if entry.meta["info"].reads_weights:
        return entry.build(scale=scale, weights=weights, **options)
    front_end = entry.build(scale=scale, **options)
    if weights:
        load_weights(front_end, weights)
    return front_end


def require_front_end_options(name: str, options: Iterable[str]) -> None:
    """Refuse options that a front end does not take.

    Raises:
        KeyError: if there is no front end of that name.
        TypeError: listing those it takes.
    """
    refuse_unknown_options(FRONT_ENDS[name], FRONT_ENDS.kind, options, shown=("scale",), hidden=("weights",))


def load_weights(front_end: FrontEnd, path: str | Path) -> None:
    """Load a checkpoint into a front end; every name and shape must fit.

    Args:
        front_end: changed in place.
        path: a file that :func:`read_state` reads.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if names or shapes differ, listing them; if a tensor is not finite, or the weights are of another
            scale.
    """
    state = front_end.rename(read_state(path))
    told = misfits(front_end.state_dict(), state)
    if told:
        raise ValueError(
            f"{path} does not fit {type(front_end).__name__}({front_end.extra_repr()}): {told}. "
            "Build the front end with the sizes, channels and scale of the checkpoint"
        )
    require_finite(state, path)
    front_end.load_state_dict(state)
    require_scale(front_end, path)
    logger.info("loaded %d tensors of %s from %s", len(state), type(front_end).__name__, path)


def require_scale(network: nn.Module, path: str | Path) -> None:
    """Refuse a network with a front end whose weights are of another scale.

    Where shapes do not tell it (FSRCNN), a smooth picture is magnified: at its own scale a trained net gives about what
    bicubic interpolation gives, at another one the brightness is off by the ratio of the scales, squared. Weights that
    do so at no scale (untrained ones, say) are left alone. That costs some milliseconds.

    Args:
        network: a front end, or a network that may have some.
        path: where its weights were read.

    Raises:
        ValueError: naming both scales.
    """
    for part in network.modules():
        if not isinstance(part, FrontEnd):
            continue
        twins = {scale: part.at_scale(scale) for scale in part.info.scales}
        likeness = {scale: _likeness(twin) for scale, twin in twins.items() if twin is not None}
        best = max(likeness, key=lambda scale: likeness[scale], default=part.scale)
        if best != part.scale and likeness[part.scale] < _NONSENSE and likeness[best] > _LIKE:
            raise ValueError(
                f"{path} is of {type(part).__name__} at scale {best}, not {part.scale}: a smooth picture comes out at "
                f"{likeness[best]:.1f} dB of the bicubic one there, {likeness[part.scale]:.1f} here. Set scale {best}"
            )


_NONSENSE, _LIKE = 15.0, 20.0  # dB


@torch.no_grad()
def _likeness(front_end: FrontEnd) -> float:
    """Return the PSNR in dB of what a front end and bicubic interpolation make of a smooth, bright picture."""
    wave = torch.linspace(0, 6, 24).cos() / 10
    small = (0.7 + wave[:, None] + wave).expand(1, 3, 24, 24).to(next(front_end.parameters()))
    found = front_end.train()(small)  # in evaluation it would be clamped
    return float(psnr(found.float(), resize(small, tuple(found.shape[-2:])).float()).mean())


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read names and tensors from a checkpoint, without running code that it might hold.

    Args:
        path: a file of ``torch.save`` (checked against its checksums; plain tensors, possibly inside the usual wrappers
            ``state_dict``, ``params_ema`` and the like, possibly saved under ``DataParallel``), or
            a ``.safetensors`` file, which has no checksums.

    Returns:
        Name to tensor, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read as plain tensors, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else read_tensors(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read; it may be damaged: {error}") from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(map(torch.is_tensor, state.values())):
        raise ValueError(f"{path} holds no state dict (names to tensors), bare or under {', '.join(_WRAPPERS)}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)
