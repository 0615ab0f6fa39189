"""VPFA: features of low-resolution images, moved along the direction that resolution has in feature space.

Z. Liu, C. Yuan, B. Li, X. Zhang, G. Niu, "Resolution as a direction: vector-panning feature alignment for
cross-resolution re-identification", arXiv 2510.00936. Learned after training, on features alone
(``jobs/tasks/panning.py``); the network that gives them stays as it is. The equations' numbers are this file's own:

    (1)  x' = x + tanh(L4 h3),  h_i = ReLU(LN(L_i h_{i-1})),  h_0 = x       the perceptron, one for each rate
    (2)  h_0 = [x, log r]                                                    one for all rates
    (3)  x' = x + mean(y - x)                                                no perceptron: the mean direction
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from torchreid_xres.registry import Registry

# How low features are moved: name -> a class of (features, rates, hidden), and whether it has weights to train.
PANNINGS = Registry("panning")

# Trains a block so that it takes inputs (N, D or D + 1) to targets (N, D).
Trainer = Callable[["VPBlock", Tensor, Tensor], None]


class VPBlock(nn.Module):
    """The perceptron: adds to a feature an offset of at most 1 in each dimension.

    Args:
        features: D, length of a feature.
        hidden: width of the three hidden layers.
        conditions: further inputs behind the feature.

    Example:
        >>> VPBlock(features=8, hidden=16)(torch.zeros(2, 8)).shape
        torch.Size([2, 8])
    """

    def __init__(self, features: int = 3840, hidden: int = 2048, conditions: int = 0) -> None:
        super().__init__()
        self.features = features
        widths = (features + conditions, hidden, hidden, hidden)
        layers = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU())
        ]
        self.offset = nn.Sequential(*layers, nn.Linear(hidden, features), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Return the moved features (N, D) of features with their conditions (N, D + conditions)."""
        return x[:, : self.features] + self.offset(x)  # equation 1


class Panning(nn.Module):
    """Moves features of low-resolution images to where those of high resolution would be.

    Args:
        features: D, length of a feature.
        rates: down-sampling rates it learns from, above 1.
        hidden: width of the perceptron's hidden layers, if there is one.

    Raises:
        ValueError: for no rate, or one that is not above 1.
    """

    def __init__(self, features: int, rates: Sequence[float], hidden: int = 2048) -> None:
        super().__init__()
        if not rates or min(rates) <= 1:
            raise ValueError(f"features are moved from rates above 1, at least one, not {list(rates)}")
        self.features, self.hidden = features, hidden
        self.rates = tuple(sorted(set(map(float, rates))))

    @torch.no_grad()
    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """Return features (N, D) of the same type; those of rate 1 stay as they are.

        Args:
            x: (N, D), as the network gave them, not normalised.
            rate: (N,), down-sampling rate of each image, 1 or more; need not be one of those learned from.
        """
        low = rate > 1  # where the rates are: from the CPU no GPU has to be asked
        moved = x.clone()
        moved[low] = self.pan(x[low], rate[low].to(x.dtype))
        return moved

    def pan(self, x: Tensor, rate: Tensor) -> Tensor:
        """Return the moved features (N, D) of low images (N, D) with rates (N,) above 1."""
        raise NotImplementedError

    def learn(self, x: Tensor, rate: Tensor, target: Tensor, train: Trainer) -> None:
        """Learn from features of images at some rates.

        Args:
            x: (N, D).
            rate: (N,), of :attr:`rates`, or 1: the image as captured, from which there is nothing to move.
            target: (N, D), where each is to be moved.
            train: does the work for a perceptron.
        """
        raise NotImplementedError


@PANNINGS.register("perceptron", label="VPFA", trained=True)
class PerRate(Panning):
    """VPFA as published: a perceptron for each rate; an image takes that of the nearest rate (on a log scale).

    Example:
        >>> module = PerRate(features=8, rates=[2, 4], hidden=16)
        >>> x = torch.ones(3, 8)
        >>> (module(x, torch.tensor([1.0, 2.0, 3.9])) == x).all(dim=1).tolist()
        [True, False, False]
    """

    def __init__(self, features: int, rates: Sequence[float], hidden: int = 2048) -> None:
        super().__init__(features, rates, hidden)
        self.blocks = nn.ModuleList(VPBlock(features, hidden) for _ in self.rates)

    def pan(self, x: Tensor, rate: Tensor) -> Tensor:
        known = rate.new_tensor([1, *self.rates])
        nearest = (rate.log()[:, None] - known.log()).abs().argmin(dim=1)  # (N, R + 1) -> (N,)
        moved = x.clone()  # nearest to 1: not worth a move
        for k, block in enumerate(self.blocks, start=1):
            moved[nearest == k] = block(x[nearest == k])
        return moved

    def learn(self, x: Tensor, rate: Tensor, target: Tensor, train: Trainer) -> None:
        for own, block in zip(self.rates, self.blocks, strict=True):
            train(block, x[rate == own], target[rate == own])


@PANNINGS.register("conditioned", label="VPFA by log rate", trained=True)
class Conditioned(Panning):
    """One perceptron for all rates, which is told the logarithm of the rate: rates in between and unseen ones work.

    Images as captured are among what it learns from, so that it moves less as the rate comes near to 1.
    """

    def __init__(self, features: int, rates: Sequence[float], hidden: int = 2048) -> None:
        super().__init__(features, rates, hidden)
        self.block = VPBlock(features, hidden, conditions=1)

    def pan(self, x: Tensor, rate: Tensor) -> Tensor:
        return self.block(_with_log_rate(x, rate))

    def learn(self, x: Tensor, rate: Tensor, target: Tensor, train: Trainer) -> None:
        train(self.block, _with_log_rate(x, rate), target)


def _with_log_rate(x: Tensor, rate: Tensor) -> Tensor:
    return torch.cat([x, rate.to(x).log()[:, None]], dim=1)  # equation 2: (N, D) -> (N, D + 1)


@PANNINGS.register("mean", label="mean direction", trained=False)
class MeanDirection(Panning):
    """No perceptron: adds the mean difference of its rate, the best constant in the sense of least squares.

    Between two rates the offset is interpolated over log rate, from none at rate 1; beyond the last rate it is that of
    the last.

    Example:
        >>> module = MeanDirection(features=2, rates=[4])
        >>> module.learn(torch.zeros(1, 2), torch.tensor([4.0]), torch.tensor([[1.0, -2.0]]), train=None)
        >>> module(torch.zeros(2, 2), torch.tensor([2.0, 8.0])).tolist()
        [[0.5, -1.0], [1.0, -2.0]]
    """

    def __init__(self, features: int, rates: Sequence[float], hidden: int = 0) -> None:
        super().__init__(features, rates, hidden)
        self.register_buffer("offsets", torch.zeros(len(self.rates), features))

    def pan(self, x: Tensor, rate: Tensor) -> Tensor:
        rate, known = rate.to(x), rate.new_tensor([1, *self.rates]).log().to(x)
        offsets = torch.cat([x.new_zeros(1, self.features), self.offsets.to(x)])  # (R + 1, D)
        above = torch.searchsorted(known, rate.log()).clamp(1, len(self.rates))  # (N,)
        start = known[above - 1]
        share = ((rate.log() - start) / (known[above] - start)).clamp(max=1)[:, None]
        return x + torch.lerp(offsets[above - 1], offsets[above], share)

    def learn(self, x: Tensor, rate: Tensor, target: Tensor, train: Trainer) -> None:
        for k, own in enumerate(self.rates):
            self.offsets[k] = (target - x)[rate == own].double().mean(dim=0)  # equation 3
