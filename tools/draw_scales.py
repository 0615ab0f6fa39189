"""Draw one image at all scales from all rates: what CMSR2 makes of it, beside what it was to make.

    python tools/draw_scales.py log/msifla_quickstart/split0/msifla path/to/images --out scales.png

Takes the folder of a trained run of ``msifla``, and any image or folder of high-resolution images. Of each image there
is a row of targets, then a row for each rate at which it is given; the columns are the input and the cascade's scales.
A table says how near each comes to its target: PSNR in dB, mean over the images, the input's own in brackets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from tabulate import tabulate

from torchreid_xres.data.datasets.reading import images_at
from torchreid_xres.data.io import picture_path, read_image, save_image
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.run import Run, model_options
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.msifla import MSIFLA
from torchreid_xres.models.weights import load_weights
from torchreid_xres.report.scales import draw_scales, scales_from_rates


def trained(run: Run) -> MSIFLA:
    """Return the network of a run as it was trained, without classifiers.

    Raises:
        ValueError: if the run is of another method.
    """
    if run.model_name != "msifla":
        raise ValueError(f"{run.folder} is a run of {run.model_name}, which has no scales to draw")
    model = MSIFLA(pretrained=False, **{**model_options(run.cfg, "msifla"), "reid_weights": ""})
    load_weights(model, run.folder / LAST, strict=True)
    return model.eval()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("images", type=Path, help="an image, or a folder of images")
    parser.add_argument("--out", type=picture_path, default=Path("scales.png"))
    parser.add_argument("--rates", type=float, nargs="+", default=[4, 3, 2, 1], help="at which the images are given")
    parser.add_argument("--count", type=int, default=4, help="of a folder, the first so many images")
    args = parser.parse_args(argv)
    try:
        if args.count < 1:
            raise ValueError(f"--count is {args.count}; at least 1 image is drawn")
        paths = images_at(args.images)[: args.count]
        run = Run.load(args.run)
        model = trained(run)
        data = run.cfg.data
        normalize = Normalization(data.norm_mean, data.norm_std)
        drawn = [
            scales_from_rates(
                model.cascade, read_image(path), (data.height, data.width), args.rates, data.kernel, normalize
            )
            for path in paths
        ]
    except (ValueError, LookupError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    save_image(draw_scales(drawn), args.out)
    quality = torch.stack([one.quality() for one in drawn]).mean(0)  # (rates, scales, 2)
    rows = [
        {"given at": f"x{rate:g}"}
        | {
            f"scale 1/{scale:g}": f"{made:.1f} ({given:.1f})"
            for scale, (given, made) in zip(model.scales, line.tolist(), strict=True)
        }
        for rate, line in zip(args.rates, quality, strict=True)
    ]
    print(tabulate(rows, headers="keys", tablefmt="github"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
