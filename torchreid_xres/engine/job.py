"""A configuration becomes runs: every model of the comparison, every split, each once, resumable."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.config import (
    ConfigError,
    as_dict,
    config_hash,
    file_of,
    stage_configs,
    stages_used,
    with_folders,
)
from torchreid_xres.data.base import DATASETS
from torchreid_xres.data.manager import XresDataManager
from torchreid_xres.engine.base import ENGINES, LAST, SoftmaxEngine, TripletEngine, XresMixin
from torchreid_xres.engine.stages import Stages
from torchreid_xres.models import MODELS, build_model
from torchreid_xres.models.weights import load_weights
from torchreid_xres.registry import Registry

logger = logging.getLogger(__name__)

# What a stage does (the key ``task``): name -> function of a Run that returns its records.
TASKS = Registry("task")


def run_job(cfg: CfgNode, shared: Path | None = None) -> list[dict]:
    """Train and evaluate what a configuration asks for, or only evaluate it.

    Every model (those of ``compare.models``, then ``model.name`` with all its stages) and every split is a run with a
    folder of its own under ``data.save_dir``. Done runs are not repeated, a stopped one goes on after its last epoch.

    Args:
        cfg: a checked configuration.
        shared: a folder for all stages but the last; another job with the same stage takes it from there.

    Returns:
        The records of every run, in that order: one per target of an evaluation.

    Raises:
        ConfigError: for a model or an evaluation that cannot be.
        ValueError: if ``data.save_dir`` holds another experiment.
    """
    folder = Path(cfg.data.save_dir)
    splits = range(cfg.data.split_id, cfg.data.split_id + cfg.data.num_splits)
    if cfg.test.evaluate:
        return [rec for split in splits for rec in own_runs(cfg, split, folder)[-1].evaluate()]
    if cfg.test.rerank:
        logger.warning("test.rerank acts with test.evaluate True; this training is evaluated without it")
    stages = Stages(folder, config_hash(cfg))
    folder.joinpath("config.yaml").write_text(cfg.dump(), encoding="utf-8")
    records = []
    for split in splits:
        for run in [*compared_runs(cfg, split, folder), *own_runs(cfg, split, folder, shared)]:
            kept = Stages(run.folder, run.sha256) if folder not in run.folder.parents else stages
            records += kept.run(run.name, run.work)
    return records


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
    """Return the runs of ``model.name`` on one split, a run for each stage (see :func:`run_job`)."""
    runs: dict[str, Run] = {}
    stages = stage_configs(cfg)
    for stage, own in stages.items():
        used = {name: runs[name].sha256 for name in stages_used(own)}
        sha256 = hashlib.sha256(f"{config_hash(own)}{sorted(used.items())}".encode()).hexdigest()
        name = "/".join(part for part in (f"split{split}", cfg.model.name, stage) if part)
        home = folder / name
        if shared and stage != list(stages)[-1]:
            home = shared / f"split{split}-{stage}-{sha256[:12]}"
        own = with_folders(own, {name: runs[name].folder for name in used})
        runs[stage] = Run(own, split, home, sha256, name=name, stage=stage)
    return list(runs.values())


def clear(folder: Path) -> None:
    """Remove the runs of a job from its folder; a folder that is no job's is left alone.

    Raises:
        ValueError: if the folder has files, and none of them says that a job made it.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "stages.json").exists():
        raise ValueError(f"{folder} was not made by a run (it has no stages.json) and is not cleared")
    shutil.rmtree(folder)


class Run:
    """One stage of one model on one split.

    Args:
        cfg: the stage's configuration.
        split: split of the data sets.
        folder: where the run works.
        sha256: what its result depends on; a state in ``folder`` under another one is refused.
        name: how the run is named among those of its job.
        stage: the stage's name, if there are several.
        compared: a model of ``compare.models`` to train instead of ``model.name``.
    """

    def __init__(
        self, cfg: CfgNode, split: int, folder: Path, sha256: str, *, name: str, stage: str = "", compared: str = ""
    ) -> None:
        self.cfg, self.split, self.folder, self.sha256, self.name, self.stage = cfg, split, folder, sha256, name, stage
        self.compared = bool(compared)
        self.model_name = compared or cfg.model.name
        self.label = f"{self.model_name} ({cfg.sr.name})" if self.model_name == "sr_reid" else self.model_name
        if stage:
            self.label = f"{self.model_name} [{stage}]"

    def work(self) -> list[dict]:
        """Do the stage's task and return its records."""
        return TASKS[self.cfg.task].build(self)

    def train(self) -> list[dict]:
        """Train to the last epoch, evaluate, and return the records of the targets."""
        engine = self._engine()
        # What another run learned is this model's, not the compared ones'.
        resume = "" if self.compared else file_of(self.cfg, self.cfg.model.resume)
        engine.run(resume=resume, **self._run_options())
        seconds = round(engine.seconds(), 1)
        return [{**record, "train_seconds": seconds} for record in engine.records.values()]

    def evaluate(self) -> list[dict]:
        """Evaluate given weights, or those this run was trained to, and return the records of the targets.

        Raises:
            ConfigError: if there are no weights to evaluate.
        """
        engine = self._engine()
        if not self.cfg.model.load_weights:
            trained = self.folder / LAST
            if not trained.is_file():
                raise ConfigError(
                    f"test.evaluate needs weights: name model.load_weights, or a data.save_dir with a trained run "
                    f"(there is no {trained})"
                )
            load_weights(engine.model, trained, strict=True)
        engine.run(**self._run_options())
        return list(engine.records.values())

    def _engine(self) -> XresMixin:
        cfg = self.cfg
        host.set_random_seed(cfg.train.seed)
        datamanager = self._datamanager()
        model = self._model(datamanager.num_train_pids)
        if cfg.train.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if cfg.use_gpu:
            model = nn.DataParallel(model).cuda()
        optimizer = host.build_optimizer(model, **_optimizer_options(cfg))
        scheduler = build_scheduler(cfg, optimizer)
        stock = TripletEngine if cfg.loss.name == "triplet" else SoftmaxEngine
        engine = ENGINES[self.model_name].build if self.model_name in ENGINES else stock
        return engine(
            datamanager,
            model,
            optimizer,
            scheduler=scheduler,
            use_gpu=cfg.use_gpu,
            precision=cfg.train.precision,
            clip_grad=cfg.train.clip_grad,
            metric=cfg.test.metric,
            draws=cfg.test.draws,
            eval_seed=cfg.test.seed,
            query_rates=cfg.test.query_rates,
            flip=cfg.test.flip,
            run_facts={
                "model": self.label,
                "stage": self.stage,
                "config_sha256": self.sha256,
                "seed": cfg.train.seed,
                "epochs": cfg.train.max_epoch,
                "input": [cfg.data.height, cfg.data.width],
                "train_images": len(datamanager.train_loader.dataset),
                "train_identities": datamanager.num_train_pids,
            },
            **engine.engine_options(cfg),
        )

    def _datamanager(self) -> XresDataManager:
        cfg = self.cfg
        common: dict[str, Any] = {
            "kernel": cfg.data.kernel,
            "interpolation": cfg.data.interpolation,
            "seed": cfg.data.protocol_seed,
            "pictures": cfg.data.pictures,
            # The host's own models have no use for the second view.
            "pairs": cfg.data.pairs and not self.compared,
        }
        if cfg.data.rates:
            common["rates"] = list(cfg.data.rates)
        if cfg.data.pair_rates:
            common["pair_rates"] = list(cfg.data.pair_rates)
        manager = XresDataManager(
            options={"*": common, **as_dict(cfg.data.options)},
            root=cfg.data.root,
            sources=list(cfg.data.sources),
            targets=list(cfg.data.targets),
            height=cfg.data.height,
            width=cfg.data.width,
            transforms=list(cfg.data.transforms),
            pad=cfg.data.pad,
            k_tfm=cfg.data.k_tfm,
            norm_mean=list(cfg.data.norm_mean),
            norm_std=list(cfg.data.norm_std),
            use_gpu=cfg.use_gpu,
            split_id=self.split,
            combineall=cfg.data.combineall,
            load_train_targets=cfg.data.load_train_targets,
            # An evaluation builds the training set too, for its identities, but draws no batch from it.
            batch_size_train=1 if cfg.test.evaluate else cfg.train.batch_size,
            batch_size_test=cfg.test.batch_size,
            workers=cfg.data.workers,
            num_instances=cfg.sampler.num_instances,
            num_cams=cfg.sampler.num_cams,
            num_datasets=cfg.sampler.num_datasets,
            train_sampler="RandomSampler" if cfg.test.evaluate else cfg.sampler.train_sampler,
            train_sampler_t=cfg.sampler.train_sampler_t,
            num_low=cfg.sampler.num_low,
            cuhk03_labeled=cfg.cuhk03.labeled_images,
            cuhk03_classic_split=cfg.cuhk03.classic_split,
            market1501_500k=cfg.market1501.use_500k_distractors,
        )
        for target in manager.targets:
            if target in DATASETS:
                manifest = manager.test_loader[target]["gallery"].dataset.manifest
                manifest.save(self.folder / f"manifest_{target}.json")
        return manager

    def _model(self, num_classes: int) -> nn.Module:
        cfg = self.cfg
        if self.model_name in MODELS:
            options = {**ENGINES[self.model_name].build.model_options(cfg), **as_dict(cfg.model.options)}
            weights = cfg.model.load_weights
        else:
            options = {}
            weights = cfg.compare.weights if self.compared else cfg.model.load_weights
        model = build_model(
            self.model_name,
            num_classes=num_classes,
            loss=cfg.loss.name,
            pretrained=cfg.model.pretrained and not weights,
            use_gpu=cfg.use_gpu,
            **options,
        )
        if weights:
            load_weights(model, file_of(cfg, weights), strict=cfg.test.evaluate)
        return model

    def _run_options(self) -> dict[str, Any]:
        cfg = self.cfg
        return {
            "save_dir": str(self.folder),
            "max_epoch": cfg.train.max_epoch,
            "start_epoch": cfg.train.start_epoch,
            "fixbase_epoch": cfg.train.fixbase_epoch,
            "open_layers": list(cfg.train.open_layers),
            "start_eval": cfg.test.start_eval,
            "eval_freq": cfg.test.eval_freq,
            "test_only": cfg.test.evaluate,
            "print_freq": cfg.train.print_freq,
            "dist_metric": cfg.test.dist_metric,
            "normalize_feature": cfg.test.normalize_feature,
            "visrank": cfg.test.visrank,
            "visrank_topk": cfg.test.visrank_topk,
            "use_metric_cuhk03": cfg.cuhk03.use_metric_cuhk03,
            "ranks": list(cfg.test.ranks),
            "rerank": cfg.test.rerank and cfg.test.evaluate,
        }


TASKS.register("train")(lambda run: run.train())


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
                raise ConfigError(f"test.expected.{dataset} names {figure!r}; there are rank1, rank5, mAP, mINP")
            reached = sum(r[figure] for r in own) / len(own)
            if reached < least:
                missed.append(f"{dataset} {figure}: {reached:.2f} %, expected at least {least:.2f} %")
    return missed


def build_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the host's learning-rate schedule, after a warm-up if ``train.warmup_epochs`` asks for one."""
    schedule = host.build_lr_scheduler(
        optimizer,
        lr_scheduler=cfg.train.lr_scheduler,
        stepsize=cfg.train.stepsize,
        gamma=cfg.train.gamma,
        max_epoch=cfg.train.max_epoch,
    )
    if not cfg.train.warmup_epochs:
        return schedule
    factor, epochs = cfg.train.warmup_factor, cfg.train.warmup_epochs
    if cfg.train.warmup_shape == "constant":
        warmup = lr_scheduler.ConstantLR(optimizer, factor=factor, total_iters=epochs)
    else:
        warmup = lr_scheduler.LinearLR(optimizer, start_factor=factor, total_iters=epochs)
    return lr_scheduler.ChainedScheduler([schedule, warmup], optimizer=optimizer)


def _optimizer_options(cfg: CfgNode) -> dict[str, Any]:
    return {
        "optim": cfg.train.optim,
        "lr": cfg.train.lr,
        "weight_decay": cfg.train.weight_decay,
        "momentum": cfg.sgd.momentum,
        "sgd_dampening": cfg.sgd.dampening,
        "sgd_nesterov": cfg.sgd.nesterov,
        "rmsprop_alpha": cfg.rmsprop.alpha,
        "adam_beta1": cfg.adam.beta1,
        "adam_beta2": cfg.adam.beta2,
        "staged_lr": cfg.train.staged_lr,
        "new_layers": list(cfg.train.new_layers),
        "base_lr_mult": cfg.train.base_lr_mult,
    }
