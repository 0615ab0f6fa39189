"""What our engines add to the host's: roles, precision, progress, exact resume, the record.

The host's loop drives: ``Engine.run`` calls ``train``, ``forward_backward``, ``test``, ``_evaluate`` and
``save_model``. :class:`XresMixin` goes in front of any engine of the host; a method of ours derives from
:class:`XresEngine` and writes one function, ``losses``.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from yacs.config import CfgNode

from torchreid_xres import checkpoint, host
from torchreid_xres.devices import distributed, parallel
from torchreid_xres.devices.proof import Proof
from torchreid_xres.devices.threads import THREADS
from torchreid_xres.engine.choosing import Choice, Choosing, EnoughError
from torchreid_xres.engine.continuing import LAST, Continuing, NotFiniteError
from torchreid_xres.engine.evaluation import Evaluation
from torchreid_xres.engine.liveness import Watch, liveness_table
from torchreid_xres.engine.stopwatch import Stopwatch
from torchreid_xres.features.record import machine, versions, weights_hash
from torchreid_xres.files import require_writable, write_json
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.registry import Registry
from torchreid_xres.sr.build import require_scale
from torchreid_xres.terminal import progress

logger = logging.getLogger(__name__)

# Model name -> the engine that trains it; the host's zoo has SoftmaxEngine and TripletEngine by cfg.loss.name.
ENGINES = Registry("engine")


class XresMixin(Choosing, Continuing, Evaluation):
    """Goes in front of an engine of the host and adds what every run of ours needs.

    Args:
        *args: the host engine's own arguments.
        precision: ``fp32``, ``bf16`` (CPU and GPU), ``bf16_unchecked``, ``fp16`` (GPU; only for :class:`XresEngine`,
            which scales), or ``auto`` (see :class:`~torchreid_xres.devices.proof.Proof`).
        clip_grad: largest norm of the whole gradient; 0 for no clipping.
        metric: ``market`` or ``single_shot``; empty: as each data set says.
        draws: gallery draws of a single-shot evaluation.
        eval_seed: seed of these draws.
        query_rates: evaluate again with all low queries at each of these rates (a resolution curve).
        flip: add the features of the mirrored image in evaluation.
        patience: evaluations of the validation part without gain after which a training ends, and the best epoch's
            weights are taken; 0: it goes on to the last epoch.
        liveness: tell after the first epoch which parts of the network learn (see ``engine/liveness.py``).
        run_facts: what each record repeats (model name, configuration hash, seeds).
        **kwargs: the host engine's own keywords.

    Attributes:
        parts_front_end: the model has a part ``front_end`` that can have an optimiser of its own.
    """

    scales_loss = False
    parts_front_end: ClassVar[bool] = False

    def __init__(
        self,
        *args: Any,
        precision: str = "fp32",
        clip_grad: float = 0.0,
        metric: str = "",
        draws: int = 10,
        eval_seed: int = 0,
        query_rates: Sequence[float] = (),
        flip: bool = False,
        patience: int = 0,
        liveness: bool = False,
        run_facts: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.clip_grad = clip_grad  # before the host's constructor, which may register a model
        super().__init__(*args, **kwargs)
        self._auto = precision == "auto"
        self.proof = Proof("cuda" if self.use_gpu else "cpu", precision)
        if self.precision == "fp16" and not (self.use_gpu and self.scales_loss):
            raise ValueError(f"fp16 needs a GPU and loss scaling, which {type(self).__name__} here has not; use bf16")
        self.precisions: list[list] = []
        self.metric, self.draws, self.eval_seed = metric, draws, eval_seed
        self.query_rates = tuple(query_rates)
        self.flip = flip
        self.patience, self.choice = patience, Choice()
        self.wants_liveness, self.liveness = liveness, {}
        self.watch: Watch | None = None
        self.run_facts = dict(run_facts or {})
        if distributed.active():
            self.run_facts["processes"] = distributed.world()
        self.records: dict[str, dict] = {}
        self._fixed: list[nn.Parameter] | None = None
        self.stopwatch = Stopwatch()

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Register as the host does; with ``clip_grad`` the optimiser's steps are clipped."""
        super().register_model(name, model, optim, sched)
        if optim is not None:
            self._clipped(optim)

    def _clipped(self, optim: torch.optim.Optimizer) -> None:
        if self.clip_grad > 0:
            # As a hook it also reaches the host's engines, whose step is out of our hands.
            optim.register_step_pre_hook(lambda opt, args, kwargs: _clip(opt, self.clip_grad))

    # -- running ---------------------------------------------------------------------------------------------

    def run(
        self, save_dir: str = "log", max_epoch: int = 0, start_epoch: int = 0, resume: str = "", **kwargs: Any
    ) -> None:
        """Run the host's loop; a training that left its last state in ``save_dir`` goes on from there.

        Args:
            save_dir: folder of the run.
            max_epoch: last epoch; 0: the network is saved and evaluated as it was loaded.
            start_epoch: first epoch, counted from 0.
            resume: ``last.pth.tar`` of another run with the same settings of optimiser and schedule, or a checkpoint of
                the host, to go on from.
            **kwargs: the host's other keywords.

        Raises:
            ValueError: if ``save_dir`` holds the state of another configuration, or ``resume`` is of other settings.
            OSError: if nothing can be written there.
        """
        self.save_dir = Path(save_dir)
        last = self.save_dir / LAST
        resumed = False
        if not kwargs.get("test_only") and (last.is_file() or resume):
            state = checkpoint.load(last) if last.is_file() else host.load_checkpoint(resume)
            if last.is_file() and state.get("config") != self.run_facts.get("config_sha256"):
                raise ValueError(
                    f"{last} was written under another configuration; name another data.save_dir, "
                    "or start over with --fresh"
                )
            self._require_training_state(state, last if last.is_file() else resume)
            if "models" in state:
                start_epoch = self._restore(state)
                self._keep_precision(state.get("precisions", []))
            else:
                start_epoch = host.resume_from_checkpoint(resume, self.model, self.optimizer, self.scheduler)
            if not last.is_file():
                require_scale(unwrap(self.model), resume)
                self.choice = Choice()  # that of another run
            logger.info("going on after epoch %d of %d", start_epoch, max_epoch)
            resumed = last.is_file()
        if distributed.active() and not kwargs.get("test_only"):
            self.train_loader = parallel.share_batches(self.train_loader, "cuda" if self.use_gpu else "cpu")
            if not distributed.is_main():
                self.writer = distributed.Silent()
        if not kwargs.get("test_only"):
            for part in ("results", *self.get_model_names()):  # now, not after the first epoch
                distributed.on_main(lambda folder=self.save_dir / part: require_writable(folder))
        as_loaded = not max_epoch and not resumed and not kwargs.get("test_only")
        if as_loaded:
            self.epoch = start_epoch - 1
            distributed.on_main(self._save_state)
        try:
            if (resumed or as_loaded) and self._owes_evaluation(start_epoch, max_epoch, **kwargs):
                self._evaluate_epoch(start_epoch, max_epoch, **kwargs)
                if start_epoch >= max_epoch:
                    self.writer.close()
                    return
            super().run(save_dir=save_dir, max_epoch=max_epoch, start_epoch=start_epoch, **kwargs)
        except EnoughError:
            self.writer.close()

    def _owes_evaluation(
        self, done: int, max_epoch: int, start_eval: int = 0, eval_freq: int = -1, **_: Any
    ) -> bool:
        """Return whether the run was stopped between its last epoch and the end of the evaluation that follows it."""
        due = done >= start_eval and eval_freq > 0 and done % eval_freq == 0
        if self.patience:
            return self._owes_choice(done, max_epoch, due)
        if done >= max_epoch or not due:
            return done >= max_epoch
        files = [self.save_dir / name / f"model.pth.tar-{done}" for name in self.get_model_names()]
        return distributed.on_main(lambda: not all(file.is_file() for file in files))

    def _evaluate_epoch(self, done: int, max_epoch: int, **kwargs: Any) -> None:
        """Evaluate and save as the host's loop would have after epoch ``done``."""
        self.start_epoch, self.epoch, self.max_epoch = done, done - 1, max_epoch
        if self.writer is None:
            self.writer = SummaryWriter(log_dir=str(self.save_dir))
        how = {key: value for key, value in kwargs.items() if key in inspect.signature(host.Engine.test).parameters}
        rank1 = self.test(save_dir=str(self.save_dir), **{**how, "rerank": False})
        self.save_model(self.epoch, rank1, str(self.save_dir))

    def train(self, print_freq: int = 10, **kwargs: Any) -> None:
        """Train one epoch in the host's loop, then write the state a resumed run starts from.

        Args:
            print_freq: batches between two lines of losses; a shorter epoch has one at its end.
            **kwargs: the host's other keywords.
        """
        THREADS.choose()
        self.before_epoch()
        loader, title = self.train_loader, f"epoch {self.epoch + 1}/{self.max_epoch}"
        self.train_loader = progress(loader, main=distributed.is_main(), desc=title, unit="batch")
        if self.wants_liveness and not self.liveness:
            self.watch = Watch(unwrap(self.model), filter(None, self._optims.values()))
        try:
            super().train(print_freq=min(print_freq, max(1, len(loader))), **kwargs)
            self._tell_liveness()
        finally:
            self.train_loader = loader
            if self.watch is not None:  # the epoch ended in an error
                self.watch.close()
        self._note_precision()
        distributed.on_main(self._save_state)

    def before_epoch(self) -> None:
        """Do what an epoch needs beforehand, on the threads that it is going to have: nothing, unless overridden."""

    def _tell_liveness(self) -> None:
        watch, self.watch = self.watch, None
        if watch is None:
            return
        watch.close()

        def loss() -> float:
            undo = self._undoing()
            try:
                return float(self.step(watch.batch).get("loss", math.nan))
            except NotFiniteError:
                return math.nan
            finally:
                undo()

        self.liveness = {"epoch": self.epoch + 1, "parts": watch.report(loss)}
        logger.info("what learns, after epoch %d:\n%s", self.epoch + 1, liveness_table(self.liveness["parts"]))
        parts = self.liveness["parts"].items()
        still = [name for name, part in parts if part["state"] == "still"]
        if still:
            logger.warning("%s: an epoch moves nothing there but by weight decay", ", ".join(still))
        spared = [name for name, part in parts if part.get("loss") is not None and part["loss"] <= 0]
        if spared:
            logger.info("%s: without it the loss of the epoch's last batch is no larger", ", ".join(spared))

    def two_stepped_transfer_learning(self, *args: Any, **kwargs: Any) -> None:
        """Open the layers as the host does, all or ``open_layers``, but never those the model keeps fixed."""
        if self._fixed is None:
            self._fixed = [p for m in self._models.values() for p in m.parameters() if not p.requires_grad]
        super().two_stepped_transfer_learning(*args, **kwargs)
        for parameter in self._fixed:
            parameter.requires_grad_(False)

    def forward_backward(self, data: dict) -> dict:
        """Take a step (:meth:`step`) in the host's loop; the first one in half precision is proved."""
        network, shape = unwrap(next(iter(self._models.values()))), data["img"].shape
        if self.watch is not None:
            self.watch.batch = data
        return THREADS.timed(
            lambda: self.proof.run(lambda: self.step(data), network, shape, "train", self._undoing), "train"
        )

    def step(self, data: dict) -> dict:
        """Take the host engine's own step, at our precision; stop if its loss is not finite."""
        with self.proof.autocast():
            summary = super().forward_backward(data)
        self._check_finite(summary, data)
        return summary

    def _check_finite(self, summary: Mapping[str, Any], data: dict) -> None:
        bad = {name: float(value) for name, value in summary.items() if not math.isfinite(value)}
        if bad:
            files = ", ".join(Path(p).name for p in data["impath"][:3])
            alone = len(data["pid"].unique()) == 1
            raise NotFiniteError(
                f"{', '.join(f'{k} = {v}' for k, v in bad.items())} in epoch {self.epoch + 1}, batch "
                f"{self.batch_idx + 1} (images {files}, ...). "
                + (f"All {len(data['pid'])} are of one identity, and a triplet needs two" if alone else self._way_on())
            )


class XresEngine(XresMixin, host.Engine):
    """Base of the engines of our methods: one model, one optimiser, and ``losses`` to be written.

    Args:
        datamanager: a data manager of the host or ours.
        model: the network.
        optimizer: its optimiser.
        scheduler: learning-rate schedule, stepped once an epoch; None for none.
        use_gpu: use the GPU if there is one.
        front_end: optimiser and schedule of the front end alone, whose parameters ``optimizer`` does not have.
        **kwargs: see :class:`XresMixin`.
    """

    scales_loss = True

    def __init__(
        self,
        datamanager: Any,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        use_gpu: bool = True,
        front_end: tuple[torch.optim.Optimizer, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.model, self.optimizer, self.scheduler = None, None, None
        super().__init__(datamanager, use_gpu=use_gpu, **kwargs)
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.register_model("model", model, optimizer, scheduler)
        self._stepped = [optimizer]
        if front_end is not None:
            self._optims["front_end"], self._scheds["front_end"] = front_end
            self._stepped.append(front_end[0])
            self._clipped(front_end[0])
        self._step = parallel.synchronised(self)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.precision == "fp16")

    def _state(self) -> dict:
        return super()._state() | {"scaler": self.scaler.state_dict()}

    def _restore(self, state: dict) -> int:
        if self.scaler.is_enabled() and state.get("scaler"):  # empty after another precision
            self.scaler.load_state_dict(state["scaler"])
        return super()._restore(state)

    def require_pairs(self) -> None:
        """Refuse a training set that gives one view of an image only.

        Raises:
            ValueError: if it gives no pairs.
        """
        if "img_hr" not in self.datamanager.train_loader.dataset[0]:
            raise ValueError(f"{self.run_facts.get('model', type(self).__name__)} trains on pairs: set data.pairs True")

    def keep_record(self, name: str, dataset: Any, save_dir: str, start: float, **figures: Any) -> None:
        """Keep and write the record of an evaluation that is no ranking.

        Args:
            name: of the data set.
            dataset: its gallery.
            save_dir: folder of the run.
            start: when the evaluation began, by ``time.perf_counter``.
            **figures: what was found, and how.
        """
        seconds = round(time.perf_counter() - start, 2)
        network = unwrap(self.model)
        manifest = getattr(dataset, "manifest", None)
        self.records[name] = {
            "dataset": name,
            "manifest": manifest.sha256 if manifest is not None else None,
            **self.facts(),
            "split_id": getattr(dataset, "split_id", None),
            "epoch": self.epoch + 1 if self.writer is not None else None,
            "seconds": seconds,
            "parameters": sum(p.numel() for p in network.parameters()),
            "weights_sha256": weights_hash(network),
            "versions": versions(),
            "machine": machine(),
            **figures,
        }
        if distributed.is_main():
            write_json(self.records[name], Path(save_dir or ".") / "results" / f"{name}.json")

    def losses(self, data: dict) -> dict[str, Tensor]:
        """Return the losses of a batch by name; ``"loss"`` is the one that is minimised, the rest are shown."""
        raise NotImplementedError

    def step(self, data: dict) -> dict:
        """Take one step; a loss that is not finite stops the run before it reaches the weights."""
        data = parallel.to_device(data, "cuda" if self.use_gpu else "cpu")
        with self.proof.autocast():
            losses = self._step(data)
        # All at once: to be asked a number, a GPU has to finish its work.
        summary = dict(zip(losses, torch.stack([value.detach() for value in losses.values()]).tolist(), strict=True))
        self._check_finite(summary, data)
        for optimizer in self._stepped:
            optimizer.zero_grad()
        self.scaler.scale(losses["loss"]).backward()
        for optimizer in self._stepped:
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):  # else fp16 stops
                self.scaler.unscale_(optimizer)
                self.scaler.step(optimizer)
        self.scaler.update()
        return summary

    def update_lr(self, names: Any = None) -> None:
        """Step the schedules as the host does, and that of the front end."""
        super().update_lr(names)
        if "front_end" in self._scheds:
            self._scheds["front_end"].step()


class SoftmaxEngine(XresMixin, host.ImageSoftmaxEngine):
    """The host's softmax engine with our evaluation, progress and resume around it."""

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {"label_smooth": cfg.loss.softmax.label_smooth}


class TripletEngine(XresMixin, host.ImageTripletEngine):
    """The host's triplet engine with our evaluation, progress and resume around it."""

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {"label_smooth": cfg.loss.softmax.label_smooth, **cfg.loss.triplet}


def has_original(batch: Mapping[str, Tensor]) -> Tensor:
    """Return for each image of a batch of pairs whether ``img_hr`` is high resolution, (N,) bool.

    An image that is low resolution by nature is the best there is of itself.
    """
    return ~batch["low"] | (batch["rate_lr"] > 1)


def counts_restored(batch: Mapping[str, Tensor], views: str) -> Tensor:
    """Return for each image of a batch of pairs whether the reconstruction loss counts it, (N,) bool.

    Args:
        batch: of pairs.
        views: ``low``: those whose low view is smaller than the original; ``all``: also those that are their own pair.
    """
    return has_original(batch) if views == "all" else batch["rate_lr"] > 1


def _clip(optimizer: torch.optim.Optimizer, limit: float) -> None:
    torch.nn.utils.clip_grad_norm_((p for group in optimizer.param_groups for p in group["params"]), limit)
