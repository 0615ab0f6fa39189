"""What a training leaves after each epoch, and from what it goes on: only from what fits, is whole and is finite."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from torchreid_xres import checkpoint
from torchreid_xres.devices.proof import Proof
from torchreid_xres.devices.threads import THREADS
from torchreid_xres.engine.choosing import Choice
from torchreid_xres.engine.liveness import Watch
from torchreid_xres.engine.stopwatch import Stopwatch
from torchreid_xres.host_mends.checkpoints import named_for, require_training_state
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.tensors import not_finite

logger = logging.getLogger(__name__)

LAST = "last.pth.tar"


class NotFiniteError(ArithmeticError):
    """A loss became infinite or not a number; the run stops before it spoils the weights on disk."""


class Continuing:
    """What :class:`~torchreid_xres.engine.base.XresMixin` does about states on disk.

    Attributes:
        proof: what the network computes in.
        precisions: those of the training, each with the first epoch it was used in, counted from 1.
        liveness: which parts learned, after the first epoch that was asked for it; empty: not asked.
        watch: follows the steps of that epoch.
    """

    save_dir: Path
    proof: Proof
    precision: str
    precisions: list[list]
    run_facts: Mapping[str, Any]
    stopwatch: Stopwatch
    choice: Choice
    liveness: dict[str, Any]
    watch: Watch | None
    _auto: bool  # the machine chose the precision

    def _state(self) -> dict:
        def states(parts: Mapping) -> dict:
            return {name: part.state_dict() for name, part in parts.items() if part is not None}

        return {
            "epoch": self.epoch + 1,
            **self.stopwatch.read(),
            "precisions": self.precisions,
            # By the network's own names, so that a run goes on with another number of devices.
            "models": states({name: unwrap(model) for name, model in self._models.items()}),
            "optimizers": states(self._optims),
            "schedulers": states(self._scheds),
            "config": self.run_facts.get("config_sha256"),
            "choice": asdict(self.choice),
            **({"liveness": self.liveness} if self.liveness else {}),
            "random": checkpoint.random_state(),
            "threads": torch.get_num_threads(),
        }

    def _restore(self, state: dict) -> int:
        for name, weights in state["models"].items():
            network = unwrap(self._models[name])
            network.load_state_dict(named_for(network, weights))
        stretched = self._stretched(state)
        for kept, parts in (("optimizers", self._optims), ("schedulers", self._scheds)):
            for name, part_state in state[kept].items():
                parts[name].load_state_dict(part_state)
        self._stretch(stretched, state)
        checkpoint.set_random_state(state["random"])
        self.stopwatch.go_on_from(state)
        self.choice = Choice.of(state)
        self.liveness = state.get("liveness", {})
        if "threads" in state:
            THREADS.keep(state["threads"])
        return state["epoch"]

    def _undoing(self) -> Callable[[], None]:
        state, watch = copy.deepcopy(self._state()), self.stopwatch

        def undo() -> None:
            self.stopwatch = Stopwatch()  # the state's is read into this one; what was undone took its time, too
            self._restore(state)
            self.stopwatch = watch
            if self.watch is not None:
                self.watch.restart()

        return undo

    def _save_state(self) -> None:
        state = self._state()
        bad = not_finite({key: state[key] for key in ("models", "optimizers")})
        if bad:
            raise NotFiniteError(
                f"epoch {self.epoch + 1} left NaN or infinity in {len(bad)} tensors, the first {bad[0]}, after finite "
                f"losses. {self._way_on()}"
            )
        checkpoint.save_atomic(state, self.save_dir / LAST)

    def _way_on(self) -> str:
        """Say what is left of the training, and what may help it."""
        last = self.save_dir / LAST
        kept = f"The state before this epoch is in {last}" if last.is_file() else "No epoch had been saved before"
        start = ", from there with model.load_weights," if last.is_file() else ""
        return (
            f"{kept}. In another data.save_dir{start} a smaller train.lr, train.clip_grad 1.0 or train.precision fp32 "
            "may help"
        )

    def _require_training_state(self, state: Mapping[str, Any], path: str | Path) -> None:
        """Refuse what is no state of a training, or of one that this run cannot go on with.

        Raises:
            ValueError: naming the file, and the settings that differ.
        """
        kept = {"model": {"state_dict": state.get("state_dict"), **state}}
        if "models" in state:
            kept = {name: {"state_dict": weights} for name, weights in state["models"].items()}
            for role in ("optimizer", "scheduler"):
                for name, part in state.get(f"{role}s", {}).items():
                    if name in kept:  # else it is a second optimiser of a network's parts
                        kept[name][role] = part
        if "epoch" not in state or not all(isinstance(part["state_dict"], Mapping) for part in kept.values()):
            raise ValueError(
                f"{path} holds no state of a training, but {', '.join(map(str, list(state)[:3]))}; model.load_weights "
                "starts from weights"
            )
        if kept.keys() != self._models.keys():
            raise ValueError(f"{path} is of the networks {', '.join(kept)}, here {', '.join(self._models)}")
        for name, part in kept.items():
            told = (path, part, self._models[name], self._optims[name], self._scheds[name])
            differs = require_training_state(*told)
            if differs:
                raise ValueError(
                    f"{path} was trained with {', '.join(differs)}: a training goes on as it began. Set the same, or "
                    "start from its weights with these settings by model.load_weights"
                )
        if state.get("config") != self.run_facts.get("config_sha256"):
            logger.warning("%s is of another configuration; its epochs count as this run's", path)

    def _stretched(self, state: Mapping[str, Any]) -> dict[str, list[float]]:
        """Take the schedules that a run made longer has lost through the epochs done; return the rates of each group.

        To be called before the optimisers have another state than that of their making.
        """
        lost = {n: s for n, s in self._scheds.items() if s is not None and n not in state["schedulers"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the optimiser has taken no step
            for _ in range(state["epoch"]):
                for schedule in lost.values():
                    schedule.step()
        return {name: [group["lr"] for group in self._optims[name].param_groups] for name in lost}

    def _stretch(self, rates: Mapping[str, list[float]], state: Mapping[str, Any]) -> None:
        """Let the optimisers, in the state they had, go on at the rates that :meth:`_stretched` found."""
        for name, of_groups in rates.items():
            groups = self._optims[name].param_groups
            told = self.run_facts.get("epochs"), of_groups[0], state["epoch"], groups[0]["lr"]
            logger.info(
                "made longer: the learning rate is now that of a training of %s epochs from its beginning, %g after "
                "epoch %d, where it was %g",
                *told,
            )
            for group, rate in zip(groups, of_groups, strict=True):
                group["lr"] = rate

    def _note_precision(self) -> None:
        if not self.precisions or self.precisions[-1][1] != self.precision:
            self.precisions.append([self.epoch + 1, self.precision])

    def _keep_precision(self, before: list[list]) -> None:
        """Go on at the precision of the last epoch where ``auto`` would choose another one on this machine."""
        self.precisions = [list(entry) for entry in before]
        if not before or not self._auto or before[-1][1] == self.precision:
            return
        last = before[-1][1]
        if last == "fp32":
            logger.info("going on in fp32, as before; auto would be %s on this machine", self.precision)
            self.proof.precision = last
        else:
            logger.warning("trained in %s so far, which is slow on this machine: going on in %s", last, self.precision)
