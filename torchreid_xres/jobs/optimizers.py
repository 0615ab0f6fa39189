"""The optimisers and learning-rate schedules that a configuration asks for."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer, lr_scheduler
from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.host_mends.training import unwrap


def build_scheduler(cfg: CfgNode, optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    """Return the host's learning-rate schedule, after a warm-up if ``train.warmup_epochs`` asks for one."""
    schedule = _host_schedule(cfg, optimizer)
    if not cfg.train.warmup_epochs:
        return schedule
    factor, epochs = cfg.train.warmup_factor, cfg.train.warmup_epochs
    if cfg.train.warmup_shape == "constant":
        warmup = lr_scheduler.ConstantLR(optimizer, factor=factor, total_iters=epochs)
    else:
        warmup = lr_scheduler.LinearLR(optimizer, start_factor=factor, total_iters=epochs)
    return lr_scheduler.ChainedScheduler([schedule, warmup], optimizer=optimizer)


def _host_schedule(cfg: CfgNode, optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return host.build_lr_scheduler(
        optimizer,
        lr_scheduler=cfg.train.lr_scheduler,
        stepsize=cfg.train.stepsize,
        gamma=cfg.train.gamma,
        max_epoch=cfg.train.max_epoch,
    )


def part_front_end(
    cfg: CfgNode, model: nn.Module, optimizer: Optimizer
) -> tuple[Optimizer, lr_scheduler.LRScheduler] | None:
    """Take a front end out of the network's optimiser into one of its own, ``train.sr_optimizer``.

    Its rate is ``train.sr_lr`` on the network's schedule without the warm-up, and its weights do not decay.

    Args:
        cfg: a configuration.
        model: a network with a part ``front_end``.
        optimizer: of the whole network; changed in place.

    Returns:
        The front end's own optimiser and schedule; None if none is asked for, or the front end learns nothing.
    """
    if not cfg.train.sr_optimizer:
        return None
    front_end = unwrap(model).front_end
    if not any(parameter.requires_grad for parameter in front_end.parameters()):
        return None
    taken = set(front_end.parameters())
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in taken]
    plain = {"optim": cfg.train.sr_optimizer, "lr": cfg.train.sr_lr, "weight_decay": 0.0, "staged_lr": False}
    own = host.build_optimizer(front_end, **optimizer_options(cfg) | plain)
    return own, _host_schedule(cfg, own)


def optimizer_options(cfg: CfgNode) -> dict[str, Any]:
    """Return the host's keywords for building an optimiser."""
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
