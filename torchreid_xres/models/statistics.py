"""AdaBN: Li et al., "Adaptive Batch Normalization for practical domain adaptation", Pattern Recognition, 2018.

A batch normalisation keeps mean and variance of its channels over the images that the network was trained on. Where
others are to be compared, these are measured anew on some of them: without labels, without a gradient, in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGES = 500  # that are measured on; more change little
BATCH = 50


def measure_statistics(model: nn.Module, describe: Callable[[Any], Any], batches: Iterable[Any]) -> int:
    """Measure mean and variance of a network's batch normalisations anew, and leave it in evaluation mode.

    A layer's are means over the batches, as the layers before it normalise by those of the batch at hand.

    Args:
        model: changed in place: running means and variances alone.
        describe: passes a batch through the model, as in an evaluation.
        batches: of images like those to be compared, each of many and in no order.

    Returns:
        The number of layers that were measured.

    Raises:
        ValueError: if the network has none, or there is no batch; then nothing is changed.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> measure_statistics(layer, layer, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])])
        1
        >>> layer.running_mean, layer.running_var  # the mean of 2 and 2
        (tensor([3.]), tensor([2.]))
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    kept = [(layer.momentum, {name: value.clone() for name, value in layer.named_buffers()}) for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    with torch.no_grad():
        for batch in batches:
            describe(batch)
    model.eval()
    measured = 0
    for layer, (momentum, before) in zip(layers, kept, strict=True):
        layer.momentum = momentum
        if layer.num_batches_tracked:
            measured += 1
        else:  # it is for training alone
            layer.load_state_dict(before, strict=False)
    if not measured:
        raise ValueError(f"{type(model).__name__} has no batch normalisation to measure anew, or there is no image")
    return measured
