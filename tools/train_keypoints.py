"""Train a keypoint network and score it; run the same line again to go on where it stopped.

    xres train-keypoints --config-file keypoints_synth_vehicle
    xres train-keypoints --config-file keypoints_veri776 --root /data train.batch_size 16
    xres train-keypoints --config-file keypoints_synth_vehicle test.evaluate True
"""

import argparse
import sys

from program import tool, training_parser


def parser() -> argparse.ArgumentParser:
    return training_parser("train-keypoints", __doc__)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    return parser().parse_args(argv)


@tool(parse, "the same command goes on after the last finished epoch")
def main(args: argparse.Namespace) -> int:
    from torchreid_xres.engine import ENGINES
    from torchreid_xres.engine.keypoints import KeypointEngine
    from torchreid_xres.jobs.command import train

    return train(args, [name for name in ENGINES if issubclass(ENGINES[name].build, KeypointEngine)])


if __name__ == "__main__":
    sys.exit(main())
