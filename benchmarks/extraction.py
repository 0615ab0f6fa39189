"""Images a second of extraction on a CPU: torch with one option after the other, and the runtimes beside it.

    python benchmarks/extraction.py --network osnet_x0_25 osnet_x1_0 resnet50 --batch 1 8 64
    python benchmarks/extraction.py --config-file dgrl_quickstart --batch 8
    python benchmarks/extraction.py --build DATA/images --weights osnet.pth

Networks have random weights. Normalised images at the input's size go in, drawn ones; a method's go half by the way of
queries and half by that of the gallery. All sides share a process and take turns. "compile" is torch.compile on top of
the channels' layout. "bf16" stands where the processor has instructions for it. With ``ONEDNN_MAX_CPU_ISA`` oneDNN does
without the newer instructions, as on an older processor. ``--build`` measures a gallery's build on real pictures,
beside the bare network on as many drawn ones; with one thread both count the processor's time, in which reading stands
beside the network, though another core does it meanwhile.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import measure
import torch
from throughput import last_run
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres import host
from torchreid_xres.config import load_config
from torchreid_xres.devices.compiled import compile_network
from torchreid_xres.devices.memory import keep_freed_memory
from torchreid_xres.devices.precision import precision_on
from torchreid_xres.devices.proof import Proof
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.inference import Extractor
from torchreid_xres.inference.backends import RUNTIMES, Backend
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.search import Gallery

COMPILED = "torch, compile"


def drawn(count: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return a batch of which every other picture is a query at half its size."""
    low = torch.arange(count) % 2 == 0
    rates = torch.where(low, 2.0, 1.0).double()
    return {
        "img": torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count)),
        "low": low,
        "rate": rates,
        "size": (torch.tensor(size) / rates[:, None]).long(),
        "role": ["query" if one else "gallery" for one in low.tolist()],
    }


def networks(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, nn.Module, tuple[int, int]]]:
    """Give each network with its name and the size of its input."""
    for name in args.network:
        yield name, host.build_model(name, num_classes=2, pretrained=False).eval(), tuple(args.size)
    for number, config in enumerate(args.config_file):
        place = folder / str(number)
        common = ["data.root", args.root or str(folder), "data.workers", 0, "data.save_dir", str(place)]
        run = last_run(load_config(config, [*common, *args.set]), "", place)
        model = unwrap(run.engine().model).eval()
        yield run.label, model, (run.cfg.data.height, run.cfg.data.width)


def sides_of(name: str, model: nn.Module, size: tuple[int, int], compile_too: bool) -> dict[str, Callable]:
    """Return what computes features of a batch, by its name."""
    precisions = dict.fromkeys(("fp32", precision_on("cpu")))
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def backend(wanted: str, of: nn.Module, precision: str) -> Backend:
        return Backend(wanted, of, size, Proof("cpu", precision), {"benchmark": name})

    sides: dict[str, Callable] = {"torch": backend("torch", model, "fp32")}
    for precision in precisions:
        told = ", bf16" if precision == "bf16" else ""
        sides[f"torch, channels last{told}"] = backend("torch", last, precision)
    if compile_too:
        compiled = copy.deepcopy(last)
        compile_network(compiled, name)
        sides[COMPILED] = backend("torch", compiled, "fp32")
    for wanted, runtime in RUNTIMES.items():
        for precision in precisions:
            if runtime.is_installed() and precision in runtime.precisions:
                told = ", bf16" if precision == "bf16" else ""
                sides[f"{wanted}{told}"] = backend(wanted, model, precision)
    return sides


def rows_of(name: str, model: nn.Module, size: tuple[int, int], args: argparse.Namespace) -> list[dict]:
    """Return the rows of one network: for each batch and side images a second, and how many times torch's."""
    sides, rows = sides_of(name, model, size, args.compile), []
    for count in args.batch:
        batch, calls = drawn(count, size), max(1, args.images // count)

        def work(side: Callable[[Mapping], Tensor], batch: Mapping = batch, calls: int = calls) -> Tensor:
            return [side(batch) for _ in range(calls)][-1]

        timed = {label: lambda side=side, work=work: work(side) for label, side in sides.items()}
        measured, found = measure.by_turns(timed, args.repeats)
        first = measured[0]["seconds"]
        for row in measured:
            cosine = F.cosine_similarity(found[row["side"]].double(), found["torch"].double()).min().item()
            rows.append({
                "network": name, "work": "extraction", "batch": count, "side": row["side"],
                "img/s": count * calls / row["seconds"],
                "lower quartile": count * calls / row["upper quartile"],
                "upper quartile": count * calls / row["lower quartile"], "times the first": first / row["seconds"],
                "cosine": round(cosine, 6), "MB": row["MB"],
            })  # fmt: skip
    return rows


def build_rows(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Return what a build of a gallery reaches of the bare network's images a second."""
    images = folder / "images"
    images.mkdir()
    pictures = sorted(path for path in args.build.iterdir() if path.suffix in (".png", ".jpg"))[: args.pictures]
    for path in pictures:
        (images / path.name).symlink_to(path.absolute())
    rows = []
    for wanted in ("torch", *(name for name in ("openvino",) if RUNTIMES[name].is_installed())):
        extractor = Extractor.of_host(args.network[0], args.weights, tuple(args.size), backend=wanted, device="cpu")
        batch, numbers = drawn(extractor.batch_size, extractor.size), iter(range(100))

        def bare(extractor: Extractor = extractor, batch: Mapping = batch) -> None:
            for _ in range(len(pictures) // extractor.batch_size):
                extractor.backend(batch)

        def built(extractor: Extractor = extractor, numbers: Iterator[int] = numbers, side: str = wanted) -> None:
            Gallery(folder / f"{side}{next(numbers)}", extractor).update(images)

        measured, _ = measure.by_turns({"network": bare, "build": built}, args.repeats)
        (network, gallery) = (row["seconds"] for row in measured)
        network *= len(pictures) / (len(pictures) // extractor.batch_size * extractor.batch_size)
        rows.append({
            "network": args.network[0], "backend": extractor.backend.name, "network img/s": len(pictures) / network,
            "build img/s": len(pictures) / gallery, "share of the network": network / gallery,
        })  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=[], help="networks of the host")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("H", "W"), help="of their input")
    parser.add_argument("--config-file", nargs="+", default=[], help="methods, by their configurations")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", help="keys changed in every configuration")
    parser.add_argument("--root", help="folder that holds the data sets; a temporary one if left out")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--images", type=int, default=16, help="images of each timed run, at least a batch")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--build", type=Path, help="folder of pictures: measure a gallery's build of them")
    parser.add_argument("--weights", type=Path, help="of the first network, for --build")
    parser.add_argument("--pictures", type=int, default=512, help="of the folder")
    measure.options(parser, repeats=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    keep_freed_memory()
    rows: list[dict] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if args.build:
                rows = build_rows(args, Path(scratch))
            else:
                for name, model, size in networks(args, Path(scratch)):
                    rows += rows_of(name, model, size, args)
    except USER_ERRORS as error:
        return tell(error)
    instructions = {
        "torch": torch.backends.cpu.get_cpu_capability(), "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    }  # fmt: skip
    runtimes = {name: version(name) for name, runtime in RUNTIMES.items() if runtime.is_installed()}
    measure.finish(args, "Images a second", rows, instructions=instructions, runtimes=runtimes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
