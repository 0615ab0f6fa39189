"""Mends of what the host builds and steps: models, optimizers, frozen layers, the triplet loss, the log."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from torchreid_xres import host
from torchreid_xres.host_mends.table import mend
from torchreid_xres.registry import did_you_mean


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel and ``torch.compile``, however nested.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(layer)) is layer, unwrap(layer) is layer
        (True, True)
    """
    while True:
        if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._orig_mod
        else:
            return model


@mend(
    "build-model",
    "models/__init__.py:90: a model without a classifier cannot be asked for; a misspelt name gets a list of all",
    "models:build_model",
)
def _build_model(original: Callable) -> Callable:
    def build_model(
        name: str,
        num_classes: int | None = None,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = True,
    ) -> nn.Module:
        table = host.model_factory()
        if name not in table:
            raise KeyError(f"no model named {name!r}{did_you_mean(name, table)} There are: {', '.join(sorted(table))}")
        if num_classes is None:
            if not getattr(table[name], "_xres", False):
                raise TypeError(
                    f"build_model({name!r}) needs num_classes, the number of training identities: torchreid's own "
                    "models always have a classifier (only models of torchreid_xres can do without)"
                )
            num_classes = 0
        return original(name, num_classes, loss=loss, pretrained=pretrained, use_gpu=use_gpu)

    # Else the original's would be shown, in which num_classes is required.
    build_model.__signature__ = inspect.signature(build_model)
    return build_model


def _own_parts(model: nn.Module) -> list[str]:
    return [name for name, _ in (*model.named_children(), *model.named_parameters(recurse=False))]


def _refuse_unknown(layers: Iterable[str], model: nn.Module, argument: str) -> None:
    parts = _own_parts(model)
    for layer in layers:
        if layer not in parts:
            raise ValueError(
                f"{argument} names {layer!r}, which {type(model).__name__} does not have{did_you_mean(layer, parts)} "
                f"It has: {', '.join(parts)}"
            )


@mend(
    "open-layers",
    "utils/torchtools.py:208: under DDP or torch.compile no layer is found; parameters held by the model itself "
    "stay trainable when everything else is frozen",
    "utils.torchtools:open_specified_layers",
)
def _open_specified_layers(original: Callable) -> Callable:
    def open_specified_layers(model: nn.Module, open_layers: str | Sequence[str]) -> None:
        if isinstance(model, DistributedDataParallel) and not model.find_unused_parameters:
            raise ValueError(
                "open_layers freezes parameters whose gradients DistributedDataParallel waits for; wrap the model "
                "with find_unused_parameters=True"
            )
        layers = [open_layers] if isinstance(open_layers, str) else list(open_layers)
        network = unwrap(model)
        _refuse_unknown(layers, network, "open_layers")
        original(network, layers)
        for name, parameter in network.named_parameters(recurse=False):
            parameter.requires_grad = name in layers

    return open_specified_layers


@mend(
    "staged-lr",
    "optim/optimizer.py:93: under DDP or torch.compile all layers count as base layers; parameters held by the "
    "model itself are in no group; a misspelt new layer is trained as a base layer",
    "optim.optimizer:build_optimizer",
)
def _build_optimizer(original: Callable) -> Callable:
    signature = inspect.signature(original)

    def build_optimizer(*args: Any, **kwargs: Any) -> Optimizer:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        asked = call.arguments
        if not asked["staged_lr"] or not isinstance(asked["model"], nn.Module):
            return original(*args, **kwargs)
        layers = [asked["new_layers"]] if isinstance(asked["new_layers"], str) else list(asked["new_layers"] or [])
        layers = [layer for layer in layers if layer]  # the default is an empty name
        network = asked["model"] = unwrap(asked["model"])
        asked["new_layers"] = layers
        _refuse_unknown(layers, network, "new_layers")
        optimizer = original(*call.args, **call.kwargs)
        base, new = (group["params"] for group in optimizer.param_groups)
        for name, parameter in network.named_parameters(recurse=False):
            (new if name in layers else base).append(parameter)
        return optimizer

    return build_optimizer


@mend(
    "triplet-loss",
    "losses/hard_mine_triplet_loss.py:42: a Python loop over the anchors; a batch of one identity fails in min() "
    "without saying why",
    "losses.hard_mine_triplet_loss:TripletLoss.forward",
)
def _triplet_forward(original: Callable) -> Callable:
    def forward(self: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        # Not our batch_hard_triplet: a stock engine's losses stay the host's to the bit, its rounding included.
        squares = inputs.pow(2).sum(dim=1, keepdim=True)
        distances = (squares + squares.t()).addmm_(inputs, inputs.t(), beta=1, alpha=-2).clamp(min=1e-12).sqrt()
        same = targets[:, None] == targets
        if same.all():
            raise ValueError(
                f"all {len(targets)} images of the batch are of one identity, so there is no negative; "
                "sample identities x instances (train_sampler='RandomIdentitySampler')"
            )
        positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
        negative = distances.masked_fill(same, torch.inf).amin(dim=1)
        return self.ranking_loss(negative, positive, torch.ones_like(negative))

    return forward


@mend(
    "logger-close",
    "utils/loggers.py:57: closing the log (also when it is collected) closes the real standard output",
    "utils.loggers:Logger.close",
)
def _logger_close(original: Callable) -> Callable:
    def close(self: Any) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    return close
