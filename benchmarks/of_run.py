"""What benchmarks of a trained run share: which folder is meant, and the command that shows and keeps its rows."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import measure

from torchreid_xres.config import load_config
from torchreid_xres.jobs.ending import USER_ERRORS, tell
from torchreid_xres.jobs.job import own_runs


def trained_folder(job: Path, split: int) -> Path:
    """Return the folder of a finished job's own model on one split; of several stages the last one's."""
    return own_runs(load_config(job / "config.yaml"), split, job)[-1].folder


def command(
    description: str | None,
    measured: Callable[[Path, str], tuple[list[dict], dict]],
    title: str,
    argv: list[str] | None,
) -> int:
    """Measure the run that a command line names, and show and keep its rows.

    Args:
        description: of the program.
        measured: a run's folder and the data sets' to rows, and what they are of.
        title: over the rows; fields in braces are of what they are of.
        argv: the command line; None: the program's own.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished job, or of one of its runs")
    parser.add_argument("--root", required=True)
    parser.add_argument("--split", type=int, default=0, help="of a job")
    parser.add_argument("--keep", type=Path, help="also write the rows and the facts to this JSON file")
    args = parser.parse_args(argv)
    try:
        folder = args.run if (args.run / "run.json").is_file() else trained_folder(args.run, args.split)
        rows, about = measured(folder, args.root)
    except USER_ERRORS as error:
        return tell(error)
    measure.finish(args, title.format(**about), rows, of=about)
    return 0
