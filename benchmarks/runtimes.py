"""What each runtime ranks on persons of CUHK03 by the features of one network, and what int8 costs and gains.

    python benchmarks/runtimes.py --root DATA --keep benchmarks/results/runtimes.json

Queries are the first image of each camera, degraded; the gallery holds the others, and images of the query's own camera
do not count. "int8" is OpenVINO's graph with its weights and ranges by NNCF (post-training), calibrated on images of
other persons. Times are of the bare network on pictures that are read already. Needs ``cuhk03_p1`` and
``weights/osnet_x0_25_msmt17.pth`` below --root, the extras ``cpu`` and ``export``, and for int8 ``nncf``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from strangers import WEIGHTS, cuhk03
from torch import Tensor, nn

from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.data.split import shuffled
from torchreid_xres.inference import Extractor
from torchreid_xres.inference.backends import RUNTIMES, TORCH
from torchreid_xres.metrics.rank import rank_features

FP32, INT8 = "openvino", "openvino, int8"


class Network(nn.Module):
    """A network of the host, as a runtime is handed one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, img: Tensor) -> Tensor:
        return self.model(img)


def prepared(extractor: Extractor, files: list[Path], rate: float) -> list[Tensor]:
    """Return files, degraded, as batches of what the network takes."""
    pictures = [extractor.prepare(degrade_image(extractor.image(path), rate)).pixels for path in files]
    return list(torch.stack(pictures).split(extractor.batch_size))


def quantised(network: Network, images: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the network in 8 bits, with ranges by some images."""
    os.environ.setdefault("NNCF_CI", "1")  # or it tells its makers over the network that it was used
    import nncf
    import openvino

    graph, _decoder = RUNTIMES[FP32].converted(network, images[:2])
    numbers = nncf.quantize(graph, nncf.Dataset(images.split(1), lambda one: one.numpy()), subset_size=len(images))
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(numbers, "CPU", options)
    return lambda img: torch.from_numpy(compiled([img.numpy()])[0].copy())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set and weights")
    parser.add_argument("--persons", type=int, default=50, help="that are asked for; as many others calibrate")
    parser.add_argument("--rate", type=float, default=2.0, help="of the queries")
    parser.add_argument("--calibrate", type=int, default=64, help="images that set the ranges of int8")
    measure.options(parser, repeats=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    on = {"backend": TORCH, "device": "cpu", "precision": "fp32"}
    extractor = Extractor.of_host("osnet_x0_25", args.root / WEIGHTS, (256, 128), **on)
    both = cuhk03(args.root, 2 * args.persons)
    owner = both.identity
    asked = set(shuffled({owner(path.name) for path in both.queries}, "dimensions")[: args.persons])
    files = [[path for path in of if owner(path.name) in asked] for of in (both.queries, both.archive)]
    others = [path for path in both.archive if owner(path.name) not in asked]
    labels = [[(owner(path.name), path.name.split("_")[2]) for path in of] for of in files]
    (q_pids, q_cams), (g_pids, g_cams) = (map(list, zip(*of, strict=True)) for of in labels)
    asking, archive = (prepared(extractor, of, rate) for of, rate in zip(files, (args.rate, 1.0), strict=True))
    sides: dict[str, Callable[[Tensor], Tensor]] = {TORCH: (network := Network(extractor.model).eval())}
    with torch.no_grad():
        for name, runtime in RUNTIMES.items():
            if runtime.is_installed():
                sides[name] = runtime.loaded(runtime.handed(network, asking[0][:2], "fp32"), "fp32")
        if FP32 in sides and importlib.util.find_spec("nncf"):
            step = max(1, len(others) // args.calibrate)
            sides[INT8] = quantised(network, torch.cat(prepared(extractor, others[::step][: args.calibrate], 1.0)))
        work = {
            name: lambda side=side: [torch.cat([side(img) for img in of]) for of in (asking, archive)]
            for name, side in sides.items()
        }
        rows, features = measure.by_turns(work, args.repeats)
    told = []
    for row in rows:
        result = rank_features(*features[row["side"]], q_pids, g_pids, q_cams, g_cams, metric="cosine")
        found = {"rank-1": 100 * float(result.cmc()[0]), "mAP": 100 * float(result.mAP())}
        first = told[0] if told else found
        found |= {f"{key} moved": found[key] - first[key] for key in ("rank-1", "mAP")}
        found["times torch"] = rows[0]["seconds"] / row["seconds"]
        told.append({"network": "osnet_x0_25", "side": row["side"], **found})
    images = {"queries": len(files[0]), "gallery": len(files[1]), "calibrated on": args.calibrate}
    measure.finish(args, "Runtimes on CUHK03", told, images=images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
