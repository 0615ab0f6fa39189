"""Say what networks cost: parameters, multiply-adds, memory and time, by their parts.

    xres complexity --model resnet50 --num-classes 751
    xres complexity --model sr_reid osnet_x1_0 mlfn --latency --json cost.json
    xres complexity --front-end vdsr rcan edsr --low-size 64 32
    xres complexity --config-file sr_reid_rcan_mlr_market --rate 4 --depth 2
    xres complexity --front-end spandrel sr.options "{arch: SwinIR}"

One model is shown by its parts, several as one table with a row each. The networks are built without weights; what is
counted, and what not, is written at torchreid_xres.comparison.complexity.complexity.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from program import new_parser, tool

if TYPE_CHECKING:
    from torch import nn
    from yacs.config import CfgNode


def parser() -> argparse.ArgumentParser:
    parser = new_parser("complexity", __doc__)
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME", help="models, ours or torchreid's")
    parser.add_argument("--front-end", nargs="+", default=[], metavar="NAME", help="front ends on their own")
    parser.add_argument("--config-file", default="", metavar="NAME|FILE", help="a configuration; "
                        "without --model all its models are counted")  # fmt: skip
    parser.add_argument("--num-classes", type=int, default=0, help="training identities; 0: no classifier of ours")
    parser.add_argument("--height", type=int, help="pixels of the network's input; default: data.height")
    parser.add_argument("--width", type=int, help="pixels; default: data.width")
    parser.add_argument("--low-size", type=int, nargs=2, default=(64, 32), metavar=("H", "W"), help="front ends: input")
    parser.add_argument("--rate", type=float, help="take what an image of this rate takes (a model's extract)")
    parser.add_argument("--pair", action="store_true", help="an LR and an HR view, where a model takes both")
    parser.add_argument("--batch", type=int, default=1, help="images; all figures are for the whole batch")
    parser.add_argument("--depth", type=int, help="levels of parts; 0: one row; default: 1 for a single model, else 0")
    parser.add_argument("--latency", action="store_true", help="time it, too, whole and by parts")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, while timing; one counts processor time")
    parser.add_argument("--runs", type=int, default=20, help="timed passes")
    parser.add_argument("--warmup", type=int, default=5, help="passes before them")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="further keys and their values")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    reader = parser()
    args = reader.parse_args(argv)
    for name in ("model", "front_end"):
        # A flag that takes several names also takes the KEY VALUE pairs behind it; keys have a dot, names have none.
        values = getattr(args, name)
        first_key = next((i for i, value in enumerate(values) if "." in value), len(values))
        args.opts = values[first_key:] + args.opts
        setattr(args, name, values[:first_key])
    if not (args.model or args.front_end or args.config_file):
        reader.error("name a --model, a --front-end or a --config-file")
    for name in ("height", "width", "batch", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            reader.error(f"--{name} must be at least 1, not {value}")
    return args


def subjects(args: argparse.Namespace, cfg: CfgNode) -> Iterator[tuple[str, Callable[[], nn.Module], Any]]:
    """Give the name of each network asked for, a function that builds it, and what it is run on."""
    import torch

    from torchreid_xres.config import as_dict, file_of, stage_configs
    from torchreid_xres.data.degrade import low_size
    from torchreid_xres.sr import build_front_end

    height, width = args.height or cfg.data.height, args.width or cfg.data.width
    images = torch.rand(args.batch, 3, height, width, device=args.device)
    batch = {"img": images, **({"img_hr": images} if args.pair else {})}
    if args.rate is not None:
        low = args.rate != 1
        batch |= {
            "rate": torch.full((args.batch,), args.rate, dtype=torch.float64),
            "low": torch.full((args.batch,), low),
            "role": ["query" if low else "gallery"] * args.batch,
            "size": torch.tensor([low_size(height, width, args.rate)] * args.batch),
        }
    configured = bool(args.config_file or args.opts)
    for name in args.model:
        yield name, partial(model_of, cfg, name, args, configured), batch
    if args.config_file and not args.model and not args.front_end:
        for name in cfg.compare.models:
            yield name, partial(model_of, cfg, name, args, True), batch
        for stage, own in stage_configs(cfg).items():
            if own.task == "train":
                label = f"{own.model.name} [{stage}]" if stage else own.model.name
                yield label, partial(model_of, own, own.model.name, args, True), batch
    small = torch.rand(args.batch, 3, *args.low_size, device=args.device)
    scale = max(1, round(height / args.low_size[0]))
    for name in args.front_end:
        options: dict[str, Any] = {}
        if not args.config_file or name == cfg.sr.name:  # a file's options are those of its own front end
            options = existing({"weights": file_of(cfg, cfg.sr.weights), **as_dict(cfg.sr.options)})
        build = partial(build_front_end, name, scale=scale, **options)
        yield name, build, (small, (height, width))


def model_of(cfg: CfgNode, name: str, args: argparse.Namespace, configured: bool) -> nn.Module:
    """Build a model without fetching weights: by a configuration, or at its own default sizes."""
    from torchreid_xres.jobs.run import model_options
    from torchreid_xres.models import MODELS, build_model

    options: dict[str, Any] = {}
    if configured and name in MODELS:
        options = existing(model_options(cfg, name))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element")  # torchreid's classifier of no class
        return build_model(
            name,
            num_classes=args.num_classes,
            loss=cfg.loss.name,
            pretrained=False,
            use_gpu=args.device.startswith("cuda"),
            **options,
        )


def check_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error


def existing(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out files of weights that are not there (yet): they change no count."""
    return {
        key: value
        for key, value in options.items()
        if not (key.endswith("weights") and isinstance(value, str)) or Path(value).is_file()
    }


def measure(args: argparse.Namespace, name: str, build: Callable[[], nn.Module], batch: Any, depth: int) -> tuple:
    """Return complexity and latencies (by part, the whole's under the empty name) of a network; a failure names it."""
    from torchreid_xres.comparison.complexity import complexity
    from torchreid_xres.comparison.latency import latency, latency_by_part

    try:
        model = build().to(args.device)
        inputs = batch
        if isinstance(batch, dict) and not ("rate" in batch and hasattr(model, "extract")):
            inputs = (batch["img"], batch["img_hr"]) if "img_hr" in batch else batch["img"]
        found = complexity(model, inputs, depth)
        if not args.latency:
            return found, {}
        times = latency_by_part(model, inputs, depth, args.runs, args.warmup) if depth else {}
        return found, times | {"": latency(model, inputs, args.runs, args.warmup)}
    except (AssertionError, RuntimeError) as error:  # how networks of fixed input size refuse another one
        reason = str(error).splitlines()[0] if str(error) else "it refuses this size"
        raise RuntimeError(f"{name} cannot run on {args.batch} image(s) of this size: {reason}") from error


@tool(parse, "no file is half written")
def main(args: argparse.Namespace) -> int:
    import torch

    from torchreid_xres.comparison.complexity import comparison_table, complexity_table
    from torchreid_xres.config import load_config
    from torchreid_xres.config_files import config_path
    from torchreid_xres.features.record import versions
    from torchreid_xres.files import require_other_file, require_place, write_json

    if args.json:
        require_place(args.json)
    torch.set_num_threads(args.threads)
    cfg = load_config(args.config_file or None, args.opts)
    if args.json and args.config_file:
        require_other_file(args.json, [config_path(args.config_file)], "--json")
    check_device(args.device)
    wanted = list(subjects(args, cfg))
    depth = args.depth if args.depth is not None else int(len(wanted) == 1)
    height, width = args.height or cfg.data.height, args.width or cfg.data.width
    told, counts, times = [f"{args.batch} image(s), {height}x{width}, evaluation mode, without gradients"], {}, {}
    for name, build, batch in wanted:
        counts[name], times[name] = measure(args, name, build, batch, depth)
        if depth:
            in_layers, held = counts[name].in_layers / 1e9, counts[name].tensor_bytes / 2**20
            told.append(f"\n{name}: {in_layers:.3f} G of the multiply-adds are in convolutions and linear layers;")
            told.append(f"{held:.1f} MiB of tensors at once besides the weights")
            told.append(complexity_table(counts[name], times[name]))
        if args.latency:
            told.append(f"{name}: {times[name]['']}")
    if len(wanted) > 1 or not depth:
        told.append("\n" + comparison_table(counts, {name: took[""] for name, took in times.items() if took}))
    if args.json:
        record = {
            "input": {"batch": args.batch, "height": height, "width": width, "low_size": list(args.low_size)},
            "rate": args.rate,
            "num_classes": args.num_classes,
            "versions": versions(),
            "models": {
                name: {**found.as_dict(), "latency": {part: vars(took) for part, took in times[name].items()}}
                for name, found in counts.items()
            },
        }
        write_json(record, args.json)
    print("\n".join(told))
    print(f"\nnext: {'--json FILE keeps all figures' if args.latency else '--latency measures the time, too'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
