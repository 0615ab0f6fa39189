"""Train a keypoint network and score it; run the same line again to go on where it stopped.

    python tools/train_keypoints.py --config-file configs/keypoints_synth_vehicle.yaml
    python tools/train_keypoints.py --config-file configs/keypoints_veri776.yaml --root /data train.batch_size 16
    python tools/train_keypoints.py --config-file configs/keypoints_synth_vehicle.yaml test.evaluate True
"""

import sys

from torchreid_xres.engine import ENGINES
from torchreid_xres.engine.keypoints import KeypointEngine
from torchreid_xres.jobs.command import tool, train


@tool("the same command goes on after the last finished epoch")
def main(argv: list[str] | None = None) -> int:
    models = [name for name in ENGINES if issubclass(ENGINES[name].build, KeypointEngine)]
    return train(__doc__, argv, models)


if __name__ == "__main__":
    sys.exit(main())
