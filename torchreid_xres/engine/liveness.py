"""Which parts of a network learn: how far its first epoch moves each of them, and what the loss is without it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_xres.devices.proof import eager
from torchreid_xres.parts import Part, parts_of, put_out
from torchreid_xres.text import text_table

# A part learns nothing if an epoch moves it no further beyond decay, as a share of its weights' length, or if its
# gradient is no larger a share of what decay pulls by: steps of a size of their own (Adam's) hide that.
STILL, FAINT = 1e-6, 0.01


class Watch:
    """Follows the steps of an epoch, and leaves the training as it would be without.

    Beside each optimiser runs a twin on copies of the weights, which gets gradients of zero wherever the optimiser gets
    any. What it does to the weights is decay, whatever the kind of optimiser makes of that; the rest was learned.

    Args:
        model: the network that trains.
        optimizers: all that move its weights.

    Attributes:
        parts: those that are followed.
        batch: the last one, as the engine keeps it here.
    """

    def __init__(self, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = parts_of(model)
        self.batch: dict[str, Any] | None = None
        self._optimizers = list(optimizers)
        self._handles = [
            handle
            for optimizer in self._optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            )
        ]
        self.restart()

    def restart(self) -> None:
        """Begin anew from the weights as they are now."""
        weights = {p: None for part in self.parts.values() for p in part.parameters()}
        self._start = {p: p.detach().clone() for p in weights}
        self._decayed = {p: nn.Parameter(value.clone()) for p, value in self._start.items()}
        self._squares: dict[nn.Parameter, Tensor] = defaultdict(lambda: torch.zeros(()))
        self._steps: Counter[nn.Parameter] = Counter()
        self._pull: dict[nn.Parameter, float] = defaultdict(float)
        self._twins = {optimizer: self._twin_of(optimizer) for optimizer in self._optimizers}

    def _twin_of(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        groups = [
            {**group, "params": [self._decayed[p] for p in group["params"] if p in self._decayed]}
            for group in optimizer.param_groups
        ]
        return type(optimizer)(groups)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for p, group in self._moved_by(optimizer).items():
            self._squares[p] = self._squares[p] + p.grad.float().square().sum().cpu()
            self._steps[p] += 1
            self._pull[p] = group.get("weight_decay", 0.0)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        twin = self._twins[optimizer]
        for group, own in zip(twin.param_groups, optimizer.param_groups, strict=True):
            group.update({key: value for key, value in own.items() if key != "params"})
        for p in self._moved_by(optimizer):
            self._decayed[p].grad = torch.zeros_like(p)
        twin.step()
        twin.zero_grad()

    def _moved_by(self, optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, dict[str, Any]]:
        """Return the parameters that a step moves, each with its group."""
        groups = [(p, group) for group in optimizer.param_groups for p in group["params"]]
        return {p: group for p, group in groups if p.grad is not None and p in self._decayed}

    def close(self) -> None:
        """Take off what follows the steps."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def moved(self, part: Part) -> dict[str, Any]:
        """Return what a part's weights went through.

        Returns:
            ``parameters``, how many; ``state``: ``frozen``, ``still`` or ``learns``; and, if it is not frozen,
            ``change``: the length of its weights' way beyond decay, and ``gradient``: that of its gradient, the root of
            the mean square of all steps, both divided by the length of the weights.
        """
        weights = part.parameters()
        found: dict[str, Any] = {"parameters": sum(p.numel() for p in weights)}
        learning = [p for p in weights if p.requires_grad]
        if not learning:
            return found | {"state": "frozen"}
        length = _length(self._start[p] for p in learning) or 1.0
        change = _length(p - self._decayed[p] for p in learning) / length
        steps = max((self._steps[p] for p in learning), default=0) or 1
        gradient = math.sqrt(sum(self._squares[p].item() for p in learning) / steps) / length
        faint = FAINT * max(self._pull[p] for p in learning)
        state = "learns" if change > STILL and gradient > faint else "still"
        return found | {"state": state, "change": _rounded(change), "gradient": _rounded(gradient)}

    def report(self, loss: Callable[[], float]) -> dict[str, dict[str, Any]]:
        """Return for each part what :meth:`moved` says, and ``loss``: how much larger, as a share, it is without it.

        Args:
            loss: of a batch, always the same one; its own work is undone by the time that it returns.
        """
        found = {name: self.moved(part) for name, part in self.parts.items()}
        with eager():
            whole = loss()
            for name, part in self.parts.items():
                if part.off is None:
                    continue
                with put_out(part) as called:
                    without = loss()
                if called:
                    found[name]["loss"] = _rounded((without - whole) / abs(whole)) if whole else None
        return found


def liveness_table(parts: Mapping[str, Mapping[str, Any]], style: str = "github") -> str:
    """Return the report on the parts of a network as a table.

    Args:
        parts: as in a record, under ``liveness``.
        style: a table format of ``tabulate``.

    Example:
        >>> print(liveness_table({"front end": {"parameters": 9, "state": "still", "change": 0.0, "gradient": 2e-7}}))
        | part      | parameters   | state   | change beyond decay   | gradient / weights   | loss without it   |
        |-----------|--------------|---------|-----------------------|----------------------|-------------------|
        | front end | 9            | still   | 0                     | 2e-07                | -                 |
    """

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return text_table(
        [
            {
                "part": name,
                "parameters": f"{part['parameters']:,}",
                "state": part["state"],
                "change beyond decay": shown(part.get("change"), ".2g"),
                "gradient / weights": shown(part.get("gradient"), ".2g"),
                "loss without it": shown(part.get("loss"), "+.2%"),
            }
            for name, part in parts.items()
        ],
        style,
    )


def _length(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None
