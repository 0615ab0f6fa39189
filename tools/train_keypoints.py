"""Train a keypoint network and score it; run the same line again to go on where it stopped.

    python tools/train_keypoints.py --config-file configs/keypoints_synth_vehicle.yaml
    python tools/train_keypoints.py --config-file configs/keypoints_veri776.yaml --root /data train.batch_size 16
    python tools/train_keypoints.py --config-file configs/keypoints_synth_vehicle.yaml test.evaluate True
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from torchreid_xres.config import load_config
from torchreid_xres.engine.job import clear, missed_figures, run_job
from torchreid_xres.engine.logs import logged_to
from torchreid_xres.report.keypoints import keypoint_table


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="YAML file whose model.name is a keypoint network")
    parser.add_argument("--root", help="folder that holds the data sets")
    parser.add_argument("--fresh", action="store_true", help="throw away what an earlier run left in data.save_dir")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="further keys and their values")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        cfg = load_config(args.config_file, [*(["data.root", args.root] if args.root else []), *args.opts])
        if args.fresh:
            clear(Path(cfg.data.save_dir))
        with logged_to(cfg.data.save_dir, "test" if cfg.test.evaluate else "train"):
            print(f"Configuration\n{cfg}\n")
            records = run_job(cfg)
            print("\n" + keypoint_table(records))
            missed = missed_figures(cfg, records)
            for line in missed:
                print(f"MISSED {line}")
            print(json.dumps({"save_dir": cfg.data.save_dir, "records": len(records), "missed": len(missed)}))
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last finished epoch", file=sys.stderr)
        return 130
    except (ValueError, TypeError, LookupError, OSError, ArithmeticError, RuntimeError, ImportError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error  # a KeyError quotes its message
        print(f"{type(error).__name__}: {text}", file=sys.stderr)
        return 2
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
