"""The command line of a training: a configuration, a few flags of the host's, further keys and values."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torchreid_xres.config import load_config
from torchreid_xres.engine import distributed
from torchreid_xres.engine.job import clear, missed_figures, run_job
from torchreid_xres.engine.logs import logged_to
from torchreid_xres.engine.memory import keep_freed_memory
from torchreid_xres.report.tables import record_tables


def parse(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; ``opts`` are the alternating keys and values."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", help="YAML file; without one the defaults hold")
    parser.add_argument("-s", "--sources", nargs="+", help="training sets")
    parser.add_argument("-t", "--targets", nargs="+", help="test sets")
    parser.add_argument("--transforms", nargs="+", help="training augmentations")
    parser.add_argument("--root", help="folder that holds the data sets")
    parser.add_argument("--fresh", action="store_true", help="throw away what an earlier run left in data.save_dir")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="further keys and their values")
    args = parser.parse_args(argv)
    for name in ("sources", "targets", "transforms"):
        # A flag that takes several names also takes the KEY VALUE pairs behind it; keys have a dot, names have none.
        values = getattr(args, name) or []
        first_key = next((i for i, value in enumerate(values) if "." in value), len(values))
        args.opts = values[first_key:] + args.opts
        setattr(args, name, values[:first_key] or None)
    return args


def train(description: str, argv: Sequence[str] | None = None) -> int:
    """Run the job that a command line describes and print its tables.

    Args:
        description: shown as help.
        argv: the command line; None for the process's own.

    Returns:
        The exit status: 0, 1 if figures of ``test.expected`` were missed, 2 for a user's error, 130 if interrupted.
    """
    args = parse(description, argv)
    flags: list = []
    for key in ("sources", "targets", "transforms", "root"):
        value = getattr(args, key)
        if value is not None:
            flags += [f"data.{key}", value]
    try:
        cfg = load_config(args.config_file or None, [*flags, *args.opts])
        keep_freed_memory()
        with distributed.processes(cfg.use_gpu):
            if args.fresh:
                distributed.on_main(lambda: clear(Path(cfg.data.save_dir)))
            with logged_to(cfg.data.save_dir, "test" if cfg.test.evaluate else "train"):
                print(f"Configuration\n{cfg}\n")
                records = run_job(cfg)
                for table in record_tables(records, ranks=[r for r in (1, 5, 10) if r in cfg.test.ranks]):
                    print("\n" + table)
                missed = missed_figures(cfg, records)
                for line in missed:
                    print(f"MISSED {line}")
                print(json.dumps({"save_dir": cfg.data.save_dir, "records": len(records), "missed": len(missed)}))
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last finished epoch", file=sys.stderr)
        return 130
    except (ValueError, TypeError, LookupError, OSError, ArithmeticError, RuntimeError, ImportError) as error:
        # A message that names the key, path or value; the traceback is in the log.
        text = error.args[0] if isinstance(error, KeyError) else error  # a KeyError quotes its message
        print(f"{distributed.label()}{type(error).__name__}: {text}", file=sys.stderr)
        return 2
    return 1 if missed else 0
