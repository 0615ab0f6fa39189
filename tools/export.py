"""Write a trained network as ONNX: pixels in, descriptors out, compared with torch before it is kept.

    xres export log/msifla_quickstart/split0/msifla --out msifla.onnx
    xres export log/sr_reid_vehicle2cam/split0/sr_reid --out car.onnx     # car.query.onnx, car.gallery.onnx
    xres export RUN --out small.onnx --precision int8 --images path/to/training/images
    xres export RUN --out model.onnx --dataset vehicle2cam --root /path/to/data   # and rank with it
    xres export osnet.pth --model osnet_x0_25 --size 256 128 --out osnet.onnx     # torchreid's networks
    xres export RUN --query-encoder log/gallery/query_encoder --out model.onnx    # with what search adapt learned

The input is (N, 3, h, w), RGB, uint8 (or with --input float32: 0 to 1), of any size and number: resizing and
normalisation are in the file. A method that treats low-resolution queries and high-resolution gallery images
differently becomes two files, whose descriptors are compared with each other: the first is for low-resolution images,
the second for others (KGNet with route "role": for all queries, and for the gallery; with a query encoder both hold as
"threshold" how many times the network must enlarge a picture's height for the first to answer). If the answers of a
file are not torch's, or their least cosine is under the bound, nothing is kept and the exit status is 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from choices import BOUNDS, INPUTS, LEAST_OPSET, ROLES
from program import ending, new_parser, tool

if TYPE_CHECKING:
    import torch


def parser() -> argparse.ArgumentParser:
    parser = new_parser("export", __doc__)
    parser.add_argument("run", type=Path, help="folder of a trained run, or a checkpoint in one; with --model any")
    parser.add_argument("--out", type=ending("such files", (".onnx",)), required=True, help="the file, .onnx")
    parser.add_argument("--role", choices=ROLES, help="of a method with two files, only this one")
    parser.add_argument("--low-size", type=int, nargs=2, metavar=("H", "W"), help="DGRL, PRPR: queries' own size, "
                        "from which they are restored; default: a third of the network's")  # fmt: skip
    parser.add_argument("--query-encoder", type=Path, metavar="DIR", help="what search adapt learned for a gallery of "
                        "this network: becomes the file for queries")  # fmt: skip
    parser.add_argument("--precision", choices=BOUNDS, default="fp32")
    parser.add_argument("--input", choices=INPUTS, default="uint8", help="type of the pixels; default: uint8")
    parser.add_argument("--opset", type=int, default=LEAST_OPSET)
    parser.add_argument("--images", type=Path, help="image or folder to compare on; int8 also sets its ranges by them")
    parser.add_argument("--count", type=int, default=64, help="of a folder, so many images, evenly spread")
    bounds = ", ".join(f"{name} {bound:g}" for name, bound in BOUNDS.items())
    parser.add_argument("--bound", type=float, help=f"least cosine to torch that is accepted; default: {bounds}")
    parser.add_argument("--dataset", default="", help="rank this data set with torch and with the files")
    parser.add_argument("--root", default="", help="folder that holds the data sets; default: where the run had them")
    parser.add_argument("--model", help="network of torchreid that the checkpoint is of")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("H", "W"), help="its input")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    reader = parser()
    args = reader.parse_args(argv)
    if args.count < 2:
        reader.error(f"--count must be at least 2, not {args.count}")
    if args.dataset and (args.model or args.role or args.query_encoder or args.run.is_file()):
        reader.error("--dataset ranks the network of a run's folder with all its files: leave out --model, --role and "
                     "--query-encoder")  # fmt: skip
    return args


def pictures(path: Path | None, count: int, grey_bits: int) -> list[torch.Tensor]:
    """Return images (3, h, w), uint8; of many, evenly spread ones."""
    from torchvision.transforms.functional import pil_to_tensor

    from torchreid_xres.data.io import read_image
    from torchreid_xres.data.walk import images_at
    from torchreid_xres.jobs.ending import tell_of_others

    found = tell_of_others(images_at(path)) if path else []
    return [pil_to_tensor(read_image(file, grey_bits)) for file in found[:: max(1, len(found) // count)][:count]]


@tool(parse, "no file is half written")
def main(args: argparse.Namespace) -> int:
    from torchreid_xres.files import require_place
    from torchreid_xres.inference.accuracy import compare_accuracy
    from torchreid_xres.inference.export import Recipe, export_onnx
    from torchreid_xres.inference.network import find_run, host_config, load_network
    from torchreid_xres.inference.query_encoder import QueryEncoder
    from torchreid_xres.text import text_table

    require_place(args.out)
    run, weights = find_run(args.run, host_config(args.model, tuple(args.size)) if args.model else None)
    model, _ = load_network(run, weights)
    if args.query_encoder:
        model = QueryEncoder.read(args.query_encoder).beside(model, (run.cfg.data.height, run.cfg.data.width))
    files = export_onnx(
        model,
        args.out,
        Recipe.of(run.cfg, args.low_size),
        roles=(args.role,) if args.role else ROLES,
        precision=args.precision,
        input_type=args.input,
        opset=args.opset,
        images=pictures(args.images, args.count, run.cfg.data.grey_bits),
        bound=args.bound,
        facts={"model": run.label},
    )
    rows = [
        {
            "file": file.path,
            "for": file.role or "all images",
            "descriptor": file.dim,
            "MB": f"{file.size / 1e6:.2f}",
            "largest difference": f"{file.difference:.2g}",
            "least cosine": f"{file.cosine:.6f}",
        }
        for file in files
    ]
    print(text_table(rows))
    if args.dataset:
        found = compare_accuracy(args.run, files, args.dataset, args.root)
        found["difference"] = {key: found["onnx"][key] - value for key, value in found["torch"].items()}
        table = [{args.dataset: name, **figures} for name, figures in found.items()]
        print("\n" + text_table(table, floatfmt=".2f", disable_numparse=[0]))
    print(f"next: onnxruntime.InferenceSession({str(files[0].path)!r}) takes pixels and gives descriptors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
