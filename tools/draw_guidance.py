"""Draw what keypoints do in a trained KGNet: low resolution, recovery, alignment, original, heat maps and faces.

    python tools/draw_guidance.py log/kgnet_synth_vehicle/split0/kgnet/kgnet path/to/images --out guidance.png

Takes the folder of a trained run of ``kgnet`` (of its stage kgnet), and any image or folder of high-resolution images,
of which it takes some at equal distances in the order of their names. A row for each; a table says how many points were
found in it, and how near it comes to the original: PSNR in dB as enlarged, and as restored.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from torchreid_xres.data.datasets.reading import images_at
from torchreid_xres.data.io import picture_path, read_image, save_image
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.run import Run, model_options
from torchreid_xres.models.kgnet import KGNet
from torchreid_xres.models.weights import load_weights
from torchreid_xres.report.guidance import draw_guidance, guidance_images


def trained(run: Run) -> KGNet:
    """Return the network of a run as it was trained, without classifiers.

    Raises:
        ValueError: if the run is of another method.
    """
    if run.model_name != "kgnet":
        raise ValueError(f"{run.folder} is a run of {run.model_name}, which has no keypoints to draw")
    files = {"reid_weights": "", "hourglass_weights": ""}  # all weights are in the run's own file
    model = KGNet(pretrained=False, **{**model_options(run.cfg, "kgnet"), **files})
    load_weights(model, run.folder / LAST, strict=True)
    return model.eval()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("images", type=Path, help="an image, or a folder of images")
    parser.add_argument("--out", type=picture_path, default=Path("guidance.png"))
    parser.add_argument("--rate", type=float, help="at which the images are given; default: the largest in training")
    parser.add_argument("--count", type=int, default=6, help="of a folder, so many images")
    args = parser.parse_args(argv)
    try:
        if args.count < 1:
            raise ValueError(f"--count is {args.count}; at least 1 image is drawn")
        paths = images_at(args.images)
        count = min(args.count, len(paths))
        paths = [paths[i * len(paths) // count] for i in range(count)]
        run = Run.load(args.run)
        model = trained(run)
        data = run.cfg.data
        rate = args.rate or max(data.pair_rates, default=model.scale)
        size = (data.height, data.width)
        vehicles = [guidance_images(model, read_image(path), size, rate, data.kernel) for path in paths]
    except (ValueError, LookupError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    save_image(draw_guidance(vehicles), args.out)
    rows = []
    for path, one in zip(paths, vehicles, strict=True):
        enlarged, restored = (f"{figure:.1f}" for figure in one.quality())
        rows.append({"image": path.name, "points": one.visible(), "enlarged": enlarged, "restored": restored})
    print(tabulate(rows, headers="keys", tablefmt="github"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
