"""Golden values: numbers of networks filled from their parameters' names, kept in ``golden/<name>.json``.

They are those of double precision, in which a network and a batch are computed whatever the processor, and its rounding
is far below the digits that are kept. The same numbers in single precision, as runs compute them, are compared with
these, too: the difference is the single precision's own rounding on the machine of the test.
"""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import doubles_kept

GOLDEN = Path(__file__).parents[1] / "golden"
# Relative. Seven digits are kept of double precision. The largest gap of single precision that golden/make.py has shown
# is 6.3e-5; other instruction sets round otherwise, and no more.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
gaps = {}  # of single from double precision, relative, by name and number


def noise(key, *shape):
    """Return standard normal numbers that depend on a text alone; NumPy guarantees this generator's numbers."""
    return torch.from_numpy(np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)).float()


def fill(model):
    """Fill a model from its parameters' names: what torch draws at the start is another matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = noise(name, *parameter.shape)
            if parameter.ndim > 1:
                values *= parameter[0].numel() ** -0.5
            else:
                values = 0.05 * values + (0.0 if name.endswith("bias") else 1.0)
            parameter.copy_(values)


def probed(said):
    """Return four numbers on each of which all that was said acts, and its norm."""
    said = said.double()
    return [*(noise("probes", 4, len(said)).double() @ said / said.norm()).tolist(), said.norm().item()]


def agree_with_kept(name: str, measure: Callable[[torch.dtype], dict]) -> None:
    """Compare numbers in both precisions with those kept under a name; where XRES_WRITE_GOLDEN is set, keep them first.

    Args:
        name: of the file.
        measure: returns the numbers in a precision.
    """
    path = GOLDEN / f"{name}.json"
    with doubles_kept():
        double = measure(torch.float64)
    if os.environ.get("XRES_WRITE_GOLDEN"):
        path.write_text(json.dumps(_rounded(double), indent=1) + "\n", encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    single = measure(torch.float32)
    gaps.update(_gaps(single, double, name))
    _agree(double, kept, TOLERANCE[torch.float64], f"{name} in double precision")
    _agree(single, kept, TOLERANCE[torch.float32], f"{name} in single precision")


def _agree(found, kept, tolerance, *where):
    if isinstance(kept, dict):
        assert found.keys() == kept.keys(), " ".join(where)
        for key, value in kept.items():
            _agree(found[key], value, tolerance, *where, key)
    else:
        assert found == pytest.approx(kept, rel=tolerance, abs=1e-2 * tolerance), " ".join(where)


def _gaps(single, double, *where):
    if isinstance(double, dict):
        return {k: v for key in double for k, v in _gaps(single[key], double[key], *where, key).items()}
    pairs = zip(single, double, strict=True) if isinstance(double, list) else [(single, double)]
    return {" ".join(where): max(abs(a - b) / max(abs(b), 1e-2) for a, b in pairs)}


def _rounded(found):
    if isinstance(found, dict):
        return {key: _rounded(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_rounded(value) for value in found]
    return found if isinstance(found, int) else float(f"{found:.7g}")
