"""A configuration becomes runs: every model of the comparison, every split, each once, resumable."""

from __future__ import annotations

import hashlib
import logging
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path

from yacs.config import CfgNode

from torchreid_xres.config import (
    ConfigError,
    as_dict,
    config_hash,
    config_text,
    differing_keys,
    load_config,
    stage_configs,
    stages_used,
    with_folders,
)
from torchreid_xres.data.options import DATASETS
from torchreid_xres.devices import distributed
from torchreid_xres.files import write_text
from torchreid_xres.jobs.fresh import done_names, set_aside, settle
from torchreid_xres.jobs.lock import sole_use
from torchreid_xres.jobs.longer import is_longer, take_on
from torchreid_xres.jobs.run import Run
from torchreid_xres.jobs.stages import Stages

logger = logging.getLogger(__name__)


def run_job(cfg: CfgNode, shared: Path | None = None, fresh: bool = False) -> list[dict]:
    """Train and evaluate what a configuration asks for, or only evaluate it.

    Every model (those of ``compare.models``, then ``model.name`` with all its stages) and every split is a run with a
    folder of its own under ``data.save_dir``. Done runs are not repeated, a stopped one goes on after its last epoch.
    A larger ``train.max_epoch``, and nothing else changed, makes a job longer: it goes on where it had ended.
    Where all splits have the same training images, the first one's weights are evaluated on the others.
    With ``vpfa.enabled`` a run of VPFA follows for each trained model (for ``model.name``: its last stage).

    Args:
        cfg: a checked configuration.
        shared: a folder for all stages but the last; another job with the same stage takes it from there.
        fresh: start over. What an earlier job left in ``data.save_dir`` is set aside, and removed when this one has
            something of its own.

    Returns:
        The records of every run, in that order: one per target of an evaluation.

    Raises:
        ConfigError: for a model or an evaluation that cannot be.
        ValueError: if ``data.save_dir`` holds another experiment, or a run that is to go on learned from other images.
        OSError: if another job works in ``data.save_dir``, or nothing can be written there.
    """
    folder = Path(cfg.data.save_dir)
    with sole_use(folder):
        distributed.on_main(lambda: settle(folder))
        with set_aside(folder, _known(folder), _names(cfg, folder)) if fresh else nullcontext():
            return _run_job(cfg, folder, shared)


def _names(cfg: CfgNode, folder: Path) -> list[str]:
    return sorted({run.name for split in _splits(cfg) for run in _runs(cfg, split, folder, None)})


def _known(folder: Path) -> list[str]:
    """Return the names of the runs that an earlier job in a folder may have left there."""
    before = _kept_config(folder / "config.yaml")
    return [*done_names(folder), *(_names(before, folder) if before else ())]


def _splits(cfg: CfgNode) -> range:
    return range(cfg.data.split_id, cfg.data.split_id + cfg.data.num_splits)


def _run_job(cfg: CfgNode, folder: Path, shared: Path | None) -> list[dict]:
    splits = _splits(cfg)
    if cfg.test.evaluate:
        last = [own_runs(cfg, split, folder)[-1] for split in splits]
        return [rec for run in [*last, *after_training(cfg, last)] for rec in run.evaluate()]
    if cfg.test.rerank:
        logger.warning("test.rerank acts with test.evaluate True; this training is evaluated without it")
    runs = [_runs(cfg, split, folder, shared) for split in splits]

    def goes_on(key: str, done: dict) -> dict | None:
        before = _kept_config(folder / "config.yaml")
        if before is None or config_hash(before) != key or not is_longer(before, cfg):
            return None
        return take_on(chain(*(_runs(before, split, folder, shared) for split in splits)), chain(*runs), done)

    stages = Stages(folder, config_hash(cfg), lambda: _difference(cfg, folder / "config.yaml"), goes_on)
    distributed.require_seen(stages.path)
    if distributed.is_main():
        write_text(config_text(cfg), folder / "config.yaml")
    alike = all(_same_training(run.cfg) for run in runs[0])
    records: dict[str, list[dict]] = {}  # by run: a stage without further splits is among the runs of each
    for of_split in runs:
        for run, first in zip(of_split, runs[0], strict=True):
            work = partial(_adopted, run, first) if alike and run.name != first.name else run.work
            if folder in run.folder.parents:
                records[run.name] = stages.run(run.name, work, run.folder)
            else:
                with sole_use(run.folder):
                    records[run.name] = Stages(run.folder, run.sha256).run(run.name, work)
    return [record for of_run in records.values() for record in of_run]


def _runs(cfg: CfgNode, split: int, folder: Path, shared: Path | None) -> list[Run]:
    compared, own = compared_runs(cfg, split, folder), own_runs(cfg, split, folder, shared)
    return [*compared, *own, *after_training(cfg, [*compared, own[-1]])]


def _same_training(cfg: CfgNode) -> bool:
    """Return whether a configuration's training images are the same in all splits."""
    data = cfg.data
    if data.combineall:  # queries and gallery are trained on
        return False
    names = [*data.sources, *(data.targets if data.load_train_targets else ())]
    sets = [DATASETS[name].build for name in names if name in DATASETS]
    return len(sets) == len(names) and all(one.splits_share_training or one.num_splits == 1 for one in sets)


def _adopted(run: Run, first: Run) -> list[dict]:
    if run.cfg.task == "train":
        distributed.on_main(lambda: run.adopt(first))
    return run.work()


def _difference(cfg: CfgNode, path: Path) -> str:
    before = _kept_config(path)
    keys = differing_keys(before, cfg) if before else []
    return f"it differs in {', '.join(keys)}" if keys else ""


def _kept_config(path: Path) -> CfgNode | None:
    try:
        return load_config(path) if path.is_file() else None
    except ConfigError:  # written by another version
        return None


def compared_runs(cfg: CfgNode, split: int, folder: Path) -> list[Run]:
    """Return the runs of ``compare.models`` on one split: each trained by the host's own engine."""
    plain = cfg.clone()
    plain.stages = CfgNode(new_allowed=True)
    runs = []
    for name in cfg.compare.models:
        home = f"split{split}/{name}"
        runs.append(Run(plain, split, folder / home, config_hash(plain), name=home, compared=name))
    return runs


def own_runs(cfg: CfgNode, split: int, folder: Path, shared: Path | None = None) -> list[Run]:
    """Return the runs of ``model.name`` on one split, a run for each stage (see :func:`run_job`).

    An earlier stage on sets that have one split only is the same run whatever the split.
    """
    runs: dict[str, Run] = {}
    stages = stage_configs(cfg)
    for stage, own in stages.items():
        used = {name: runs[name].sha256 for name in stages_used(own)}
        sha256 = hashlib.sha256(f"{config_hash(own)}{sorted(used.items())}".encode()).hexdigest()
        last = stage == list(stages)[-1]
        its_split = split if last or has_splits(own) else 0
        name = "/".join(part for part in (f"split{its_split}", cfg.model.name, stage) if part)
        home = folder / name
        if shared and not last:
            home = shared / f"split{its_split}-{stage}-{sha256[:12]}"
        earlier = {before: runs[before].folder for before in used}
        own = with_folders(own, earlier)
        runs[stage] = Run(own, its_split, home, sha256, name=name, stage=stage, after=earlier.values())
    return list(runs.values())


def has_splits(cfg: CfgNode) -> bool:
    """Return whether one of a configuration's sets has several splits, as torchreid's own may."""
    names = {*cfg.data.sources, *cfg.data.targets}
    return any(name not in DATASETS or DATASETS[name].build.num_splits > 1 for name in names)


def after_training(cfg: CfgNode, trained: list[Run]) -> list[Run]:
    """Return the runs of VPFA for trained ones if ``vpfa.enabled``; other settings of it work in another folder."""
    runs = []
    for run in trained:
        if not cfg.vpfa.enabled or run.cfg.task == "vpfa":
            continue
        own = run.cfg.clone()
        own.task = "vpfa"
        sha256 = hashlib.sha256(f"{config_hash(own)}{run.sha256}".encode()).hexdigest()
        own.vpfa.run = str(run.folder)
        part = f"vpfa-{sha256[:8]}"
        name = f"{run.name}/{part}"
        runs.append(Run(own, run.split, run.folder / part, sha256, name=name, stage="vpfa", compared=run.compared))
    return runs


def missed_figures(cfg: CfgNode, records: list[dict]) -> list[str]:
    """Return a line for each figure of ``test.expected`` that the configuration's own model did not reach.

    Args:
        cfg: the configuration; ``test.expected`` is {data set: {figure: least value in per cent}}.
        records: what :func:`run_job` returned; splits are averaged.

    Raises:
        ConfigError: if an expected data set or figure was not evaluated.
    """
    missed = []
    for dataset, figures in as_dict(cfg.test.expected).items():
        last = list(stage_configs(cfg))[-1]
        own = [r for r in records if r.get("dataset") == dataset and r["model"].split(" ")[0] == cfg.model.name]
        own = [r for r in own if r["stage"] == last]
        if not own:
            raise ConfigError(f"test.expected names {dataset!r}, which is not among data.targets {cfg.data.targets}")
        for figure, least in figures.items():
            if figure not in own[0]:
                there = ", ".join(key for key, value in own[0].items() if isinstance(value, float))
                raise ConfigError(f"test.expected.{dataset} names {figure!r}; there are {there}")
            reached = sum(r[figure] for r in own) / len(own)
            if not reached >= least:  # NaN is missed
                missed.append(f"{dataset} {figure}: {reached:.2f} %, expected at least {least:.2f} %")
    return missed
