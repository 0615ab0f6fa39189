"""The files by which queries to a gallery are described without torch, made of the network that the gallery is of."""

from __future__ import annotations

import copy
import logging
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_xres.devices.proof import Proof
from torchreid_xres.files import whole_file, write_json
from torchreid_xres.inference.backends import RUNTIMES, TORCH, Backend
from torchreid_xres.inference.branches import general_ways, ways
from torchreid_xres.inference.extractor import Extractor
from torchreid_xres.inference.light import FORMAT, LIGHT, LIGHT_ABOUT, LIGHT_IMAGES, checksum_of, light_ways, read_light
from torchreid_xres.models.asymmetric import Asymmetric
from torchreid_xres.models.restored import has_front_end

logger = logging.getLogger(__name__)

RUNTIME = "onnxruntime"
# Whatever a runtime's passes raise: torch can answer.
_REFUSED = (ArithmeticError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def write_light(extractor: Extractor, folder: Path) -> float | None:
    """Keep a gallery's network, or its query encoder, so that queries are described without torch.

    Its features of drawn pictures are held beside torch's first (:class:`~torchreid_xres.inference.backends.Backend`).
    What is there already of this network stays as it is.

    Args:
        extractor: the gallery's; with a query encoder that is kept, in its own folder.
        folder: the gallery's.

    Returns:
        The seconds that it took; None where nothing was made: onnxruntime, or what writes for it, is not installed, the
        network looks at a picture's own pixels, or it cannot be written, which is logged.
    """
    start, model, encoder = time.perf_counter(), extractor.model, extractor.query_encoder
    roles = general_ways(model).keys()
    if not RUNTIMES[RUNTIME].is_installed() or not roles or roles != ways(model, (1, 1)).keys():
        return None
    about: dict[str, Any] = {
        "format": FORMAT,
        "threshold": model.threshold.item() if isinstance(model, Asymmetric) else None,
    }
    if encoder is None:
        about |= {
            "about": extractor.about,
            "weights": checksum_of(extractor.weights),
            "drawn_sources": extractor.drawn_sources,
            "has_front_end": has_front_end(model),
        }
    else:
        folder, roles = encoder.folder, {"query"}
        about["query_encoder"] = [encoder.about["weights_sha256"], encoder.about["gallery_sha256"]]
        with whole_file(folder / LIGHT / LIGHT_IMAGES) as scratch, scratch.open("wb") as file:
            np.save(file, encoder.images.numpy())
    if _there(folder / LIGHT, about):
        return None
    copied = copy.deepcopy(model).cpu().float()
    try:
        backend = Backend(TORCH, copied, extractor.size, Proof("cpu", "fp32"), extractor.about)
        kept = backend.proved(RUNTIME, sorted(roles))
    except _REFUSED as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        logger.warning("queries to this gallery need torch: %s", reason)
        return None
    about["files"] = {}
    for role, network in kept.items():
        name = f"{role or 'network'}.onnx"
        with whole_file(folder / LIGHT / name) as scratch:
            scratch.write_bytes(network)
        about["files"][role] = [name, zlib.crc32(network)]
    write_json(about, folder / LIGHT / LIGHT_ABOUT)
    return time.perf_counter() - start


def _there(folder: Path, about: dict[str, Any]) -> bool:
    """Return whether a folder holds what is to be made, whole."""
    try:
        told = read_light(folder)
        return about.items() <= told.items() and bool(light_ways(folder, told["files"]))
    except Exception:  # whatever is wrong with it, it is made anew
        return False
