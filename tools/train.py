"""Train and evaluate what a configuration says; run the same line again to go on where it stopped.

    python tools/train.py --config-file configs/quickstart.yaml
    python tools/train.py --config-file configs/sr_reid_mlr_market.yaml --root /data train.batch_size 64
    python tools/train.py --config-file configs/sr_reid_mlr_market.yaml test.evaluate True
"""

import sys

from torchreid_xres.jobs.command import tool, train


@tool("the same command goes on after the last finished epoch")
def main(argv: list[str] | None = None) -> int:
    return train(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
