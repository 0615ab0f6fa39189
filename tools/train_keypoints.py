"""Train a keypoint network and score it; run the same line again to go on where it stopped.

    python tools/train_keypoints.py --config-file configs/keypoints_synth_vehicle.yaml
    python tools/train_keypoints.py --config-file configs/keypoints_veri776.yaml --root /data train.batch_size 16
    python tools/train_keypoints.py --config-file configs/keypoints_synth_vehicle.yaml test.evaluate True
"""

import sys

from torchreid_xres.engine.command import train


def main(argv: list[str] | None = None) -> int:
    return train(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
