"""Train and evaluate what a configuration says; run the same line again to go on where it stopped.

    xres train --config-file quickstart
    xres train --config-file sr_reid_mlr_market --root /data train.batch_size 64
    xres train --config-file sr_reid_mlr_market test.evaluate True
    python tools/train.py --config-file configs/psh_rnet_mlr_market.yaml     # the same program, in a checkout
"""

import argparse
import sys

from program import tool, training_parser


def parser() -> argparse.ArgumentParser:
    return training_parser("train", __doc__)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    return parser().parse_args(argv)


@tool(parse, "the same command goes on after the last finished epoch")
def main(args: argparse.Namespace) -> int:
    from torchreid_xres.jobs.command import train

    return train(args)


if __name__ == "__main__":
    sys.exit(main())
