"""How long to train is chosen on the validation part: the best epoch's weights are kept, the training ends in time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchreid_xres import checkpoint
from torchreid_xres.devices import distributed
from torchreid_xres.engine.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

BEST = "best.pth.tar"
FOLDER = "validation"  # of the records on that part, in the run's


class EnoughError(Exception):
    """The training is over before its last epoch; the loop of the host has no other way out."""


@dataclass(frozen=True)
class Choice:
    """What the evaluations of the validation part have told so far.

    Attributes:
        epoch: the best one, counted from 1; 0: none was evaluated.
        mAP: its mean average precision in per cent, the mean over the sources.
        waited: evaluations since then without gain.
        seen: the last epoch that was evaluated.
        over: the training is over, and its weights are those of the best epoch.
    """

    epoch: int = 0
    mAP: float = 0.0  # noqa: N815
    waited: int = 0
    seen: int = 0
    over: bool = False

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Choice:
        """Return what the state of a training tells of it; states made before tell nothing."""
        return cls(**state.get("choice", {}))

    def after(self, epoch: int, found: float) -> Choice:
        """Return the choice with one more epoch evaluated; only a gain changes the best one."""
        if not self.epoch or found > self.mAP:
            return Choice(epoch, found, seen=epoch)
        return replace(self, waited=self.waited + 1, seen=epoch)

    def reopened(self) -> Choice:
        """Return what a training goes on with that was over, from its best epoch."""
        return Choice(self.epoch, self.mAP, seen=self.epoch) if self.over else self

    def told(self) -> list[dict[str, Any]]:
        """Return the entries ``chosen`` of a record; none if nothing was chosen."""
        chosen = {"what": "epoch", "on": "validation", "epoch": self.epoch, "mAP": self.mAP, "seen": self.seen}
        return [chosen] if self.over else []


class Choosing:
    """What :class:`~torchreid_xres.engine.base.XresMixin` does with ``patience``.

    Attributes:
        patience: evaluations of the validation part without gain after which a training ends; 0: it goes on to its last
            epoch, and that one's weights are its own.
        choice: what these evaluations have told.
    """

    patience: int
    choice: Choice
    save_dir: Path
    epoch: int
    max_epoch: int
    query_rates: tuple[float, ...]
    records: dict[str, dict]
    stopwatch: Stopwatch

    def test(self, *args: Any, **kwargs: Any) -> float:
        """Evaluate on every target; with patience only at the end of the training, and until then on its validation."""
        if not self.patience or self.writer is None:  # nothing is trained
            with self.stopwatch.stopped():
                return super().test(*args, **kwargs)
        rank1 = 0.0
        if not self.choice.over and self.choice.seen != self.epoch + 1:
            self._validate(**kwargs)
        if not self.choice.over and (self.choice.waited >= self.patience or self.epoch + 1 >= self.max_epoch):
            self._take_best()
        if self.choice.over:
            self.epoch = self.choice.epoch - 1
            with self.stopwatch.stopped():
                rank1 = super().test(*args, **kwargs)
        return rank1

    def save_model(self, epoch: int, rank1: float, save_dir: str, is_best: bool = False) -> None:
        """Save as the host does; with patience the chosen epoch alone, whereupon the training is over.

        Raises:
            EnoughError: then.
        """
        if not self.patience:
            super().save_model(epoch, rank1, save_dir, is_best)
        elif self.choice.over:
            super().save_model(epoch, rank1, save_dir, is_best)
            raise EnoughError

    def _owes_choice(self, done: int, max_epoch: int, due: bool) -> bool:
        """Return whether an evaluation, or the end of the training, is due after ``done`` epochs of a stopped run."""
        choice = self.choice
        ends = choice.over or choice.waited >= self.patience or done >= max_epoch
        return ends or (due and choice.seen != done)

    def _validate(self, **how: Any) -> None:
        start = self.choice
        found = []
        self.set_model_mode("eval")
        how = {key: value for key, value in how.items() if key not in ("save_dir", "visrank", "visrank_topk", "rerank")}
        with checkpoint.random_state_kept(), self._plainly():
            for name, loaders in self.datamanager.validation_loaders().items():
                part = {f"{role}_loader": loader for role, loader in loaders.items()}
                _, mAP = self._evaluate(name, **part, save_dir=str(self.save_dir / FOLDER), **how)
                self.writer.add_scalar(f"Validation/{name}/mAP", mAP, self.epoch)
                found.append(100 * mAP)
        self.choice = start.after(self.epoch + 1, sum(found) / len(found))
        if not self.choice.waited:
            distributed.on_main(lambda: checkpoint.save_atomic(self._state(), self.save_dir / BEST))
        distributed.on_main(self._save_state)
        told = self.choice.epoch, self.choice.mAP, self.choice.waited, self.patience
        logger.info("validation: best so far epoch %d, mAP %.2f %%; %d of %d evaluations without gain", *told)

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Evaluate without curves, and without a trace among the records of the test."""
        kept = self.query_rates, self.records
        self.query_rates, self.records = (), {}
        try:
            yield
        finally:
            self.query_rates, self.records = kept

    def _take_best(self) -> None:
        """Put the best epoch's state in place of the last one's, also on disk, where all who use the run look."""
        choice, watch = replace(self.choice, over=True), self.stopwatch
        self.stopwatch = Stopwatch()  # the time until the best epoch is read into this one; all epochs took time
        self.epoch = self._restore(checkpoint.load(self.save_dir / BEST)) - 1
        self.choice, self.stopwatch = choice, watch
        distributed.on_main(self._save_state)
        logger.info("epoch %d is taken, chosen on the validation part (mAP %.2f %%)", choice.epoch, choice.mAP)
