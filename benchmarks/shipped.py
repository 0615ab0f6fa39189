"""What the network of vehicles that is shipped with the package is worth, beside others that need no labels either.

    python benchmarks/shipped.py --root path/to/data --keep benchmarks/results/shipped_vehicles.json

The test vehicles of ``vehicle2cam``, of which none was learned from: the one camera asks for those of the other, as
captured and with the queries at half, a quarter and an eighth of the side. Beside it stand an untrained network and the
one of people that galleries take by default, at its own input and at that of vehicles.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import measure
from yacs.config import CfgNode

from torchreid_xres.config import load_config
from torchreid_xres.inference.network import host_config
from torchreid_xres.inference.published import DEFAULT, fetch_network
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.jobs.job import run_job

SHIPPED = "osnet_x0_25_vehicles"
NETWORK = "osnet_x0_25"


def row(label: str, weights: str, config: CfgNode, root: str, folder: Path) -> dict:
    """Return the figures of a network on the test vehicles, queries as captured and at three rates."""
    size = config.data.height, config.data.width
    keys = {
        "model.name": NETWORK, "model.pretrained": False, "model.load_weights": weights, "data.root": root,
        "data.sources": ["vehicle2cam"], "data.targets": ["vehicle2cam"], "data.pairs": False, "data.workers": 0,
        "data.height": size[0], "data.width": size[1], "data.interpolation": config.data.interpolation,
        "data.save_dir": str(folder), "compare.models": [], "train.max_epoch": 0, "train.precision": "fp32",
        "test.dist_metric": "cosine", "test.query_rates": [1.0, 2.0, 4.0, 8.0],
    }  # fmt: skip
    (record,) = run_job(load_config(None, [part for pair in keys.items() for part in pair]))
    found = {"network": label, "input": "x".join(map(str, size)), "rank-1": record["rank1"], "mAP": record["mAP"]}
    return found | {f"rank-1 at x{rate}": part["rank1"] for rate, part in record["curve"].items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds the data sets, and weights/")
    parser.add_argument("--keep", type=Path, help="also write the rows and the facts to this JSON file")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            people = str(Path(args.root) / "weights" / f"{DEFAULT}.pth")
            own, config = fetch_network(SHIPPED, scratch)
            upright, square = (host_config(NETWORK, size) for size in ((256, 128), (128, 128)))
            sides = [("untrained", "", square), ("of people", people, upright), ("of people", people, square)]
            sides += [(SHIPPED, str(own), config)]
            rows = [row(*side, args.root, Path(scratch, str(number))) for number, side in enumerate(sides)]
    except USER_ERRORS as error:
        return tell(error)
    measure.finish(args, "Vehicles of two cameras, by networks that saw none of them", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
