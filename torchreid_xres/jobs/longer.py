"""A job made longer: with a larger ``train.max_epoch`` and nothing else changed it goes on where it had ended."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from yacs.config import CfgNode

from torchreid_xres import checkpoint
from torchreid_xres.config import differing_keys, stage_configs
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.choosing import Choice
from torchreid_xres.jobs.run import Run

logger = logging.getLogger(__name__)

KEY = "train.max_epoch"
# What can differ: the key itself, of all or of a stage, or that the stage has keys of its own at all.
_LENGTH = re.compile(r"train\.max_epoch|stages\.[^.]+(\.train(\.max_epoch)?)?")


def is_longer(before: CfgNode, cfg: CfgNode) -> bool:
    """Return whether a configuration is another one with more epochs, of all or of some stages, and the same otherwise.

    Args:
        before: of the job that was run.
        cfg: of the one to run.

    Raises:
        ValueError: if it is the same with fewer epochs.

    Example:
        >>> from torchreid_xres.config import load_config
        >>> short, long = (load_config(None, [KEY, number]) for number in ("2", "4"))
        >>> is_longer(short, long), is_longer(short, load_config(None, [KEY, "4", "train.lr", "0.1"]))
        (True, False)
    """
    if not all(map(_LENGTH.fullmatch, differing_keys(before, cfg))):
        return False
    old, new = (
        {name: own.train.max_epoch for name, own in stage_configs(one).items()} | {"": one.train.max_epoch}
        for one in (before, cfg)
    )
    fewer = [name for name in new if new[name] < old[name]]
    if fewer:
        name = fewer[0]
        key = f"stages.{name}.{KEY}" if name else KEY
        raise ValueError(
            f"{cfg.data.save_dir} was run with {key} {old[name]}, and {new[name]} is fewer: a training can be made "
            "longer, not shorter. Name another data.save_dir, or start over with --fresh"
        )
    return old != new


def take_on(before: Iterable[Run], now: Iterable[Run], done: Mapping[str, Any]) -> dict[str, Any]:
    """Let the states of shorter runs be those of the longer ones to go on from; do it again after a stop.

    Args:
        before: runs of the job as it was.
        now: those of the longer one.
        done: results of the former, by name.

    Returns:
        Those that still hold.

    Raises:
        ValueError: if a run builds on one that would be trained longer.
    """
    old = {run.name: run for run in before}
    longer = {run.name: run for run in now if run.name in old and run.sha256 != old[run.name].sha256}
    folders = {run.folder: run for run in longer.values()}
    for run in longer.values():
        for base in map(folders.get, run.after):
            if base is not None:
                raise ValueError(
                    f"{run.name} builds on {base.name}, which would be trained longer: make only the last longer "
                    f"(stages.{run.stage}.{KEY}), or name another data.save_dir"
                )
    for name, run in longer.items():
        path = run.folder / LAST
        state = checkpoint.load(path) if path.is_file() else {}
        if state.get("config") == old[name].sha256:
            # Without its schedule: the engine makes that of the whole length.
            open_again = {"config": run.sha256, "schedulers": {}, "choice": asdict(Choice.of(state).reopened())}
            checkpoint.save_atomic({**state, **open_again}, path)
            told = name, state["epoch"], run.cfg.train.max_epoch, old[name].cfg.train.max_epoch
            logger.info("%s goes on after epoch %d to epoch %d, which was to be %d", *told)
    return {name: result for name, result in done.items() if name in old and name not in longer}
