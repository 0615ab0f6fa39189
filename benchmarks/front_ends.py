"""The price of a front end: size, multiply-adds, and milliseconds a crop beside a re-ID network's; PSNR on real crops.

    python benchmarks/front_ends.py
    python benchmarks/front_ends.py --root DATA --keep benchmarks/results/front_ends.json

A crop of 64x32 becomes one of 256x128. All front ends and the re-ID network take turns in one process. PSNR (RGB, 8
bits) is over images of a data set, as captured, brought to 256x128, down by 4 with the bicubic kernel, and up again;
only front ends with published weights in ``<root>/weights/sr``, and those that need none, have it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import measure
import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from torchreid_xres.comparison.complexity import complexity
from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.data.io import read_image
from torchreid_xres.data.walk import images_at
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.metrics.image import psnr
from torchreid_xres.models import build_model
from torchreid_xres.sr import build_front_end

LOW, HIGH, SCALE = (64, 32), (256, 128), 4


class Side(NamedTuple):
    """A row: a front end, its sizes, and the file of its published weights for this scale."""

    front_end: str
    options: Mapping[str, Any] = MappingProxyType({})
    weights: str = ""


SIDES = {
    "bicubic": Side("bicubic"),
    "srcnn": Side("srcnn"),
    "fsrcnn": Side("fsrcnn", weights="fsrcnn_x4.pth"),
    "vdsr": Side("vdsr", weights="vdsr_state_dict.pth"),
    "vdsr, 8 x 32": Side("vdsr", {"depth": 8, "features": 32, "channels": 3}),
    "vdsr_ca": Side("vdsr_ca"),
    "edsr_baseline": Side("edsr_baseline"),
    "edsr": Side("edsr"),
    "rcan": Side("rcan"),
    "rcan, 5 x 10": Side("rcan", {"groups": 5, "blocks": 10}),
    "rcan, 2 x 3 of 16": Side("rcan", {"groups": 2, "blocks": 3, "features": 16, "reduction": 4}),
    "SPAN": Side("spandrel", {"arch": "SPAN"}),
    "Compact": Side("spandrel", {"arch": "Compact"}),
    "SAFMN": Side("spandrel", {"arch": "SAFMN"}),
    "PLKSR": Side("spandrel", {"arch": "PLKSR"}),
    "OmniSR": Side("spandrel", {"arch": "OmniSR"}),
    "SwinIR": Side("spandrel", {"arch": "SwinIR"}),
}


def crops(root: Path, folder: str, count: int) -> Tensor:
    """Return real crops (N, 3, 256, 128) in [0, 1], evenly chosen from the images under a folder.

    Raises:
        FileNotFoundError: if there are none.
    """
    files = list(images_at(root / folder).images.values())
    chosen = files[:: max(1, len(files) // count)][:count]
    return torch.stack([_tensor(read_image(path).resize(HIGH[::-1])) for path in chosen])


def _tensor(img: Any) -> Tensor:
    return torch.from_numpy(np.array(img)).permute(2, 0, 1) / 255


def reached(front_end: nn.Module, originals: Tensor) -> float:
    """Return the mean PSNR in dB of the originals brought down by the scale and up by the front end."""
    found = []
    with torch.no_grad():
        for original in originals.split(1):
            picture = (original[0].permute(1, 2, 0) * 255).round().byte().numpy()
            small = _tensor(degrade_image(PIL.Image.fromarray(picture), SCALE, "bicubic"))[None]
            restored = (front_end(small, HIGH).clamp(0, 1) * 255).round() / 255
            found.append(float(psnr(restored, original)))
    return sum(found) / len(found)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), metavar="NAME")
    parser.add_argument("--reid", default="resnet50", help="network of the host beside which they are timed")
    parser.add_argument("--batch", type=int, default=4, help="crops at once")
    parser.add_argument("--root", type=Path, help="folder that holds weights/sr and the crops")
    parser.add_argument("--crops", default="cuhk03_p1", help="folder of images in it")
    parser.add_argument("--count", type=int, default=200, help="images for the PSNR")
    measure.options(parser, repeats=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        originals = crops(args.root, args.crops, args.count) if args.root else None
        small, large = torch.rand(args.batch, 3, *LOW), torch.rand(args.batch, 3, *HIGH)
        reid = build_model(args.reid, num_classes=1, pretrained=False).eval()
        rows, calls = {}, {args.reid: lambda: reid(large)}
        found = complexity(reid, large[:1])
        rows[args.reid] = {"parameters (M)": found.parameters / 1e6, "multiply-adds (G)": found.multiply_adds / 1e9}
        for name in args.only:
            side = SIDES[name]
            weights = args.root / "weights" / "sr" / side.weights if args.root and side.weights else ""
            front_end = build_front_end(side.front_end, scale=SCALE, weights=str(weights), **side.options).eval()
            found = complexity(front_end, (small[:1], HIGH))
            rows[name] = {"parameters (M)": found.parameters / 1e6, "multiply-adds (G)": found.multiply_adds / 1e9}
            calls[name] = lambda front_end=front_end: front_end(small, HIGH)
            if originals is not None and (weights or not found.parameters):
                rows[name]["PSNR (dB)"] = reached(front_end, originals)
        with torch.no_grad():
            times, _ = measure.by_turns(calls, args.repeats)
    except USER_ERRORS as error:
        return tell(error)
    beside = times[0]["seconds"]
    table = []
    for row in times:
        name, seconds = row["side"], row["seconds"]
        table.append({
            "front end": name, **{key: rows[name].get(key) for key in ("parameters (M)", "multiply-adds (G)")},
            "ms a crop": 1e3 * seconds / args.batch, f"times {args.reid}": seconds / beside,
            "PSNR (dB)": rows[name].get("PSNR (dB)"), "MB": row["MB"],
        })  # fmt: skip
    measure.finish(args, f"{LOW[0]}x{LOW[1]} to {HIGH[0]}x{HIGH[1]}", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
