"""The work of the two programs that train."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, load_config
from torchreid_xres.config_keys import get_config
from torchreid_xres.devices import distributed
from torchreid_xres.devices.memory import keep_freed_memory
from torchreid_xres.features.tables import record_tables
from torchreid_xres.files import require_place, write_json
from torchreid_xres.jobs.check import check_names, check_networks, check_weights
from torchreid_xres.jobs.fresh import JOB_FILES, require_jobs_own
from torchreid_xres.jobs.job import missed_figures, own_runs, run_job
from torchreid_xres.jobs.logs import logged_to


def part_pairs(args: argparse.Namespace, lists: Sequence[str]) -> None:
    """Move the KEY VALUE pairs that flags of several values took into ``args.opts``, and refuse flags among pairs.

    Args:
        args: what argparse read, ``opts`` by ``argparse.REMAINDER``; changed in place.
        lists: the flags of several values. None of their values has a dot, or is the name of a key without one.

    Raises:
        ConfigError: for a flag among the pairs.
    """
    bare = {key for key, held in get_config().items() if not isinstance(held, CfgNode) or held.is_new_allowed()}
    for name in lists:
        values = getattr(args, name) or []
        first_key = next((i for i, value in enumerate(values) if "." in value or value in bare), len(values))
        args.opts = values[first_key:] + args.opts
        setattr(args, name, values[:first_key] or None)
    flag = next((key for key in args.opts[::2] if key.startswith("-")), None)
    if flag:
        raise ConfigError(f"{flag} stands behind KEY VALUE pairs; flags go before them")


def told(cfg: CfgNode) -> str:
    """Return in a few lines what a job is about to do.

    Example:
        >>> cfg = load_config(None, ["data.sources", ["folder"], "data.targets", ["folder"], "model.name", "sr_reid"])
        >>> print(told(cfg).splitlines()[0])
        sr_reid at 256x128, trained on folder, tested on folder
    """
    models = ", ".join([*cfg.compare.models, cfg.model.name])
    stages = f" in the stages {', '.join(cfg.stages)}" if cfg.stages else ""
    sources, targets = (", ".join(names) for names in (cfg.data.sources, cfg.data.targets))
    done = "evaluated only" if cfg.test.evaluate else f"trained{stages} on {sources}"
    return (
        f"{models} at {cfg.data.height}x{cfg.data.width}, {done}, tested on {targets}\n"
        f"{'GPU' if cfg.use_gpu else 'CPU'}, threads: {torch.get_num_threads()}, precision: {cfg.train.precision}, "
        f"seed: {cfg.train.seed}\n"
        + f"all settings: {Path(cfg.data.save_dir) / JOB_FILES[0]}\n" * (not cfg.test.evaluate)
    )


def configuration(args: argparse.Namespace) -> CfgNode:
    """Return the configuration that the command line of a training describes.

    Args:
        args: as ``training_parser`` of ``tools/program.py`` reads them; changed in place.

    Raises:
        ConfigError: for keys or values that are none, or no data sets.
    """
    part_pairs(args, ("sources", "targets", "transforms"))
    if not args.config_file:
        keys = args.opts[::2]
        if any(not getattr(args, name) and f"data.{name}" not in keys for name in ("sources", "targets")):
            raise ConfigError("without --config-file the data sets are needed: -s for training, -t for testing")
    flags: list = []
    for key in ("sources", "targets", "transforms", "root"):
        value = getattr(args, key)
        if value is not None:
            flags += [f"data.{key}", value]
    if args.liveness:
        flags += ["train.liveness", True]
    cfg = load_config(args.config_file or None, [*flags, *args.opts])
    check_names(cfg)
    return cfg


def train(args: argparse.Namespace, models: Sequence[str] = ()) -> int:
    """Run the job that a command line describes and print its tables.

    Args:
        args: as ``training_parser`` of ``tools/program.py`` reads them.
        models: what ``model.name`` may be; empty for any.

    Returns:
        The exit status: 0, or 1 if figures of ``test.expected`` were missed.
    """
    cfg = configuration(args)
    if models and cfg.model.name not in models:
        raise ConfigError(
            f"model.name is {cfg.model.name!r}, but this program trains: {', '.join(models)}. For others there is "
            "xres train"
        )
    folder = Path(cfg.data.save_dir)
    if args.json:
        require_place(args.json)
    if args.fresh:
        require_jobs_own(folder)
    begins = args.fresh or not (folder / "stages.json").is_file()  # one that goes on has read and built all before
    if begins:
        check_weights(cfg)
    keep_freed_memory()
    with distributed.processes(cfg.use_gpu):
        if begins:
            distributed.on_main(lambda: check_networks(cfg))
        with logged_to(folder, "test" if cfg.test.evaluate else "train"):
            print(told(cfg))
            records = run_job(cfg, fresh=args.fresh)
            missed = missed_figures(cfg, records)
            if args.json and distributed.is_main():
                result = {"save_dir": cfg.data.save_dir, "records": len(records), "missed": len(missed)}
                write_json(result, args.json)
            for table in record_tables(records, ranks=cfg.test.ranks[:3]):
                print("\n" + table)
            for line in missed:
                print(f"MISSED {line}")
            print("\n" + what_next(cfg, records))
    return 1 if missed else 0


def what_next(cfg: CfgNode, records: Sequence[dict]) -> str:
    """Return what to do with a job's last network, a line each; with one of somebody's own images search comes last.

    Args:
        cfg: the job's.
        records: its records; one of keypoints has ``pck``.
    """
    run = shlex.quote(str(own_runs(cfg, cfg.data.split_id, Path(cfg.data.save_dir))[-1].folder))
    if any("pck" in record for record in records):
        return f"next: KGNet takes {run}/last.pth.tar as hourglass_weights of its model.options"
    if cfg.data.targets != ["folder"]:
        return f"next: xres report {run} --out report.html"
    folder = Path(cfg.data.save_dir)
    both = shlex.quote(str(folder / f"split{cfg.data.split_id}")) if cfg.compare.models else run
    gallery = shlex.quote(str(folder / "gallery"))
    return f"next: xres report {both} --out report.html\nnext: xres search build {run} PICTURES --gallery {gallery}"
