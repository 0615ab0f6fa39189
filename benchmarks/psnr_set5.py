"""Luminance PSNR of the published super-resolution weights on Set5.

    python benchmarks/psnr_set5.py --root <folder with set5/ and weights/sr/> [--json out.json]

The rule is the literature's: the bicubic low-resolution images that come with the set, RGB through
the front end as a user would call it, 8-bit rounding, BT.601 luminance, a border of ``scale`` pixels
left out, mean over the five images.

VDSR stands in two rows. Its named figures were taken on images that had been enlarged to 8-bit RGB
first: ``vdsr_8bit`` does the same and meets them. The front end enlarges in floating point, which
spares the net the rounding and is worth 0.05 to 0.2 dB: row ``vdsr``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torchreid_xres.data.io import read_image
from torchreid_xres.metrics.image import psnr, ssim
from torchreid_xres.sr import build_front_end
from torchreid_xres.version import __version__

SCALES = (2, 3, 4)


class Method(NamedTuple):
    """A row of the table: a front end, its weights by scale, and what PSNR (dB) is named for them."""

    front_end: str
    files: dict[int, str]
    named: dict[int, float]
    enlarged_first: bool = False


_VDSR = dict.fromkeys(SCALES, "vdsr_state_dict.pth")
_VDSR_NAMED = {2: 37.55, 3: 33.72, 4: 31.25}
METHODS = {
    "bicubic": Method("bicubic", {}, {2: 33.67, 3: 30.40, 4: 28.43}),
    "fsrcnn": Method(
        "fsrcnn", {scale: f"fsrcnn_x{scale}.pth" for scale in SCALES}, {2: 37.14, 3: 32.61, 4: 30.52}
    ),
    "vdsr": Method("vdsr", _VDSR, _VDSR_NAMED),
    "vdsr_8bit": Method("vdsr", _VDSR, _VDSR_NAMED, enlarged_first=True),
}


def read_pairs(root: Path, scale: int) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return name, small image and original, (1, 3, H, W) in [0, 1]; the original is cut to fit the scale."""
    pairs = []
    for path in sorted((root / "set5" / "Set5").glob("*.bmp")):
        small = _read(root / "set5" / "Set5_LR" / f"x{scale}" / f"{path.stem}x{scale}.bmp")
        height, width = small.shape[-2] * scale, small.shape[-1] * scale
        pairs.append((path.stem, small, _read(path)[..., :height, :width]))
    if not pairs:
        raise FileNotFoundError(f"no images at {root / 'set5' / 'Set5'}/*.bmp")
    return pairs


def _read(path: Path) -> torch.Tensor:
    return _tensor(read_image(path))


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0) / 255


def _enlarge(small: torch.Tensor, scale: int) -> torch.Tensor:
    pixels = (small[0] * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    return _tensor(image.resize((image.width * scale, image.height * scale), Image.BICUBIC))


@torch.inference_mode()
def measure(name: str, scale: int, root: Path) -> dict:
    """Return one record: method, scale, PSNR (dB) and SSIM per image and their means."""
    method = METHODS[name]
    file = method.files.get(scale)
    weights = root / "weights" / "sr" / file if file else ""
    front_end = build_front_end(method.front_end, scale=scale, weights=weights).eval()
    images = {}
    for stem, small, original in read_pairs(root, scale):
        given = _enlarge(small, scale) if method.enlarged_first else small
        restored = (front_end(given, size=original.shape[-2:]) * 255).round() / 255
        images[stem] = {
            "psnr": psnr(restored, original, shave=scale, luminance=True).item(),
            "ssim": ssim(restored, original, shave=scale, luminance=True).item(),
        }
    means = {m: sum(image[m] for image in images.values()) / len(images) for m in ("psnr", "ssim")}
    return {"method": name, "scale": scale, **means, "named_psnr": method.named[scale], "images": images}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root",
        type=Path,
        default=os.environ.get("XRES_DATA"),
        help="folder with set5/ and weights/sr/; XRES_DATA if left out",
    )
    parser.add_argument("--json", type=Path, help="write the records here as well")
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=SCALES)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    args = parser.parse_args(argv)
    if args.root is None:
        parser.error("name the data folder with --root or XRES_DATA")

    records = [measure(name, scale, args.root) for name in args.methods for scale in args.scales]
    rows = [
        [r["method"], f"x{r['scale']}", r["psnr"], r["named_psnr"], r["psnr"] - r["named_psnr"], r["ssim"]]
        for r in records
    ]
    headers = ["method", "scale", "PSNR dB", "named", "difference", "SSIM"]
    print(tabulate(rows, headers, floatfmt=("", "", ".2f", ".2f", "+.2f", ".4f")))
    if args.json:
        result = {
            "set": "Set5",
            "rule": "8-bit RGB, BT.601 luminance, border of scale pixels left out, mean over images",
            "machine": {"platform": platform.platform(), "processor": platform.machine()},
            "versions": {
                "torchreid_xres": __version__,
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "python": platform.python_version(),
            },
            "records": records,
        }
        unfinished = args.json.with_name(args.json.name + ".part")
        unfinished.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
