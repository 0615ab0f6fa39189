"""What networks compute in: single precision, or half of it where the device has instructions for that."""

from __future__ import annotations

import torch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
UNCHECKED = "bf16_unchecked"  # bf16 even where a processor's results are wrong (see proof.py)
PRECISIONS = ("auto", "fp32", "bf16", UNCHECKED, "fp16")


def precision_on(device: torch.device | str, wanted: str = "auto") -> str:
    """Return the precision that is meant by ``wanted`` on a device.

    ``auto`` is bf16 where it is faster: on GPUs since Ampere, and on processors with AVX-512 BF16 or AMX. Others
    would have to imitate it.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        wanted: ``auto``, ``fp32``, ``bf16``, ``bf16_unchecked`` or ``fp16``.

    Returns:
        ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ValueError: for another name.

    Example:
        >>> precision_on("cpu") in ("fp32", "bf16"), precision_on("cpu", "fp32")
        (True, 'fp32')
    """
    if wanted not in PRECISIONS:
        raise ValueError(f"precision {wanted!r} is not one of {', '.join(PRECISIONS)}")
    if wanted != "auto":
        return wanted.removesuffix("_unchecked")
    if torch.device(device).type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # Before 2.5 torch does not tell.
        asked = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
        fast = any(ask is not None and ask() for ask in asked)
    return "bf16" if fast else "fp32"


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Return the context in which a network runs on a device at ``fp32``, ``bf16`` or ``fp16``."""
    return torch.autocast(torch.device(device).type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)
