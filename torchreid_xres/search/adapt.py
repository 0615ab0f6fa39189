"""A query encoder learned from a gallery's own images, without labels: what bad crops of them should look like to it.

The gallery holds what its network says of the sharp images; a copy of the network learns to say the same of degraded
ones, mirrored or not (:mod:`torchreid_xres.models.asymmetric`). Of the gallery nothing is written but a folder beside
its features.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from torchreid_xres import checkpoint
from torchreid_xres.data.camera import SMALLEST, Camera
from torchreid_xres.data.degrade import low_size
from torchreid_xres.data.split import shuffled
from torchreid_xres.devices.threads import THREADS
from torchreid_xres.engine.asymmetric import MOST_HELD_OUT
from torchreid_xres.engine.routing import LEAST, calibrate
from torchreid_xres.features.record import machine, versions, weights_hash
from torchreid_xres.inference.extractor import Extractor, Prepared
from torchreid_xres.inference.light import checksums
from torchreid_xres.inference.query_encoder import FOLDER, TRAINING, QueryEncoder, own_state
from torchreid_xres.jobs.lock import sole_use
from torchreid_xres.losses.asymmetric import AsymmetricLoss
from torchreid_xres.models.asymmetric import Asymmetric
from torchreid_xres.models.layers import Normalization
from torchreid_xres.search.gallery import Gallery
from torchreid_xres.search.nearest import Nearest
from torchreid_xres.version import __version__

logger = logging.getLogger(__name__)

FEW = 200  # images, below which little is learned
LEAST_SHARP = 10
LEAST_SHARE = 0.2  # of sharp images
HELD_OUT = 0.1
BATCH = 32
RATE = 5e-4  # of learning, at the first step; half a cosine to 0
EVERY = 10  # steps between two states on the disk
MAGNIFICATIONS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Plan:
    """What an adaptation learns from.

    Attributes:
        learned: names of the images that are learned from.
        held_out: names of those that are kept for threshold and report.
        low: images that are low resolution themselves, and left out.
        gone: images whose file is gone, and left out.
        steps: of the optimiser.
        query_size: height and width of the query encoder's input.
    """

    learned: list[str]
    held_out: list[str]
    low: int
    gone: int
    steps: int
    query_size: tuple[int, int]

    @property
    def few(self) -> bool:
        """Whether there are too few images to expect much."""
        return len(self.learned) + len(self.held_out) < FEW


def default_steps(images: int) -> int:
    """Return the steps for a number of images: 680 for 2,000, and by the root of their number more or less.

    Example:
        >>> default_steps(2_000), default_steps(200)
        (680, 215)
    """
    return max(1, round(680 * math.sqrt(images / 2_000)))


def plan(gallery: Gallery, extractor: Extractor, steps: int | None = None, query_size: Sequence[int] = ()) -> Plan:
    """Return what would be learned from a gallery, or refuse it.

    Args:
        gallery: built before.
        extractor: the one it was made with.
        steps: of the optimiser; None: :func:`default_steps`.
        query_size: height and width of the query encoder's input; empty: the gallery encoder's.

    Raises:
        ValueError: if too few of its images are there, or sharp, or its model has a query encoder of its own.
    """
    if isinstance(extractor.model, Asymmetric):
        raise ValueError(f"{extractor.about['model']}, which the gallery was made with, has a query encoder already")
    if steps is not None and steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is taken")
    sizes = dict(zip(gallery.names, gallery.sizes, strict=True))
    there = [row.name for row in gallery.rows if gallery.file(row).is_file()]
    if not there:
        raise ValueError(f"of the gallery's {len(sizes)} images none is in {gallery.images}: build it where they are")
    sharp = [name for name in there if not extractor.is_low(sizes[name])]
    full = "x".join(map(str, extractor.full_size))
    if len(sharp) < LEAST_SHARE * len(there):
        raise ValueError(
            f"{100 * len(sharp) / len(there):.3g} % of the {len(there)} images in {gallery.images} are sharp enough, "
            f"which is a side of at least {full} / 1.41, and {100 * LEAST_SHARE:g} % are needed: a low image cannot "
            "say what a sharp one looks like (if they are as sharp as images get here, build another gallery with "
            "--full-size)"
        )
    if len(sharp) < LEAST_SHARP:
        raise ValueError(f"{len(sharp)} sharp images are too few to learn from; at least {LEAST_SHARP} are needed")
    drawn = shuffled(sharp, "adapt")
    count = min(MOST_HELD_OUT, max(LEAST, math.ceil(HELD_OUT * len(sharp))))
    size = tuple(query_size) or extractor.size
    return Plan(
        sorted(drawn[count:]), sorted(drawn[:count]), len(there) - len(sharp), len(sizes) - len(there),
        steps or default_steps(len(sharp)), (size[0], size[1]),
    )  # fmt: skip


def adapt(gallery: Gallery, extractor: Extractor, planned: Plan, caution: float = 1.0) -> QueryEncoder:
    """Learn a query encoder from a gallery's images and keep it beside them, in the folder ``query_encoder``.

    It may be stopped at any time, and goes on where it was, to the same result bit for bit; one that is there for the
    same images and plan is returned, at another caution with a threshold found anew. On a terminal a bar shows the
    progress.

    Args:
        gallery: built before; of its own files none is written.
        extractor: the one it was made with.
        planned: by :func:`plan`.
        caution: 0 to 1; with less it answers earlier (see :func:`~torchreid_xres.engine.routing.counted`).

    Raises:
        OSError: if an image cannot be read now, another adaptation is at work, or nothing can be written.
        ValueError: if the network cannot be trained, the loss is no longer finite, or the caution is no share.

    Example:
        Learned once, used by each later ``Extractor``::

            gallery = Gallery("log/gallery")
            extractor = gallery.make_extractor()
            learned = adapt(gallery, extractor, plan(gallery, extractor))
            both = gallery.make_extractor(query_encoder=learned.folder)
            hits = gallery.search(both("bad_crop.jpg"))
    """
    if not 0 <= caution <= 1:
        raise ValueError(f"caution is a share, from 0 to 1, not {caution:g}")
    folder = gallery.folder / FOLDER
    with sole_use(folder), checkpoint.random_state_kept():
        adaptation = _Adaptation(gallery, extractor, planned)
        try:
            known = QueryEncoder.read(folder)
        except (OSError, ValueError):
            known = None
        if known is not None and known.about.get("key") == adaptation.key:
            found = replace(known, images=adaptation.sums)  # among the others of the gallery may be new ones
            if known.about["routing"].get("caution", 1.0) != caution:
                adaptation.take(known)
                found = adaptation.result(caution)
        else:
            adaptation.learn()
            found = adaptation.result(caution)
        found.save()
        adaptation.state.unlink(missing_ok=True)
        return found


class _Adaptation:
    def __init__(self, gallery: Gallery, extractor: Extractor, planned: Plan) -> None:
        self.gallery, self.extractor, self.plan = gallery, extractor, planned
        self.state = gallery.folder / FOLDER / TRAINING
        self.sums = torch.from_numpy(checksums(gallery.matrix))
        self.place = {name: place for place, name in enumerate(gallery.names)}
        used = {name: self.sums[self.place[name]].item() for name in (*planned.learned, *planned.held_out)}
        depends = [extractor.about, used, planned.steps, planned.query_size, __version__, torch.__version__]
        self.key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()
        torch.manual_seed(0)
        self.model = Asymmetric(
            reid=copy.deepcopy(extractor.model).cpu(), size=extractor.size, query_size=planned.query_size
        ).to(extractor.device)
        data = extractor.cfg.data
        self.camera = Camera(enlargement=data.interpolation)
        self.normalize = Normalization(data.norm_mean, data.norm_std).to(extractor.device)
        self.loss = AsymmetricLoss(self.model.dim).to(extractor.device)
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=RATE)
        self.seconds = 0.0
        self.losses: list[float] = []

    # -- learning --------------------------------------------------------------------------------------------

    def learn(self) -> None:
        done = self._resume()
        shown = sys.stderr.isatty()
        start = time.perf_counter() - self.seconds
        with tqdm(total=self.plan.steps, initial=done, unit="step", desc="adapt", disable=not shown) as bar:
            for step, (names, img, sizes) in zip(range(done, self.plan.steps), self._batches(done), strict=True):
                target = self.gallery.features[[self.place[name] for name in names]].float()
                device = self.extractor.device
                self.losses.append(self._step(step, img.to(device), sizes, target.to(device)))
                bar.set_postfix(loss=f"{self.losses[-1]:.3f}", refresh=False)
                bar.update()
                self.seconds = time.perf_counter() - start
                if (step + 1) % EVERY == 0 or step + 1 == self.plan.steps:
                    self._keep(step + 1)

    def _step(self, step: int, img: Tensor, sizes: Tensor, target: Tensor) -> float:
        # What a step draws depends on its number alone, so that a stopped run goes on bit for bit.
        torch.manual_seed(step)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * step / self.plan.steps)) / 2
        mirrored = (torch.rand(len(img)) < 0.5).to(img.device)
        sharp = torch.where(mirrored[:, None, None, None], img.flip(-1), img)
        seen, _ = self.camera.views(self.normalize.undo(sharp), sizes)
        loss = self.loss(self.model.train().describe_query(self.normalize(seen)), target)["loss"]
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} in step {step + 1}: nothing is learned from this gallery")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _batches(self, done: int) -> Iterator[tuple[list[str], Tensor, Tensor]]:
        """Give the names and images of each step from one on; the next ones are read in the meantime."""
        with ThreadPoolExecutor(1) as reader:
            names = self._names(done)
            ahead = reader.submit(self._read, names)
            for step in range(done, self.plan.steps):
                batch = names, *ahead.result()
                if step + 1 < self.plan.steps:
                    names = self._names(step + 1)
                    ahead = reader.submit(self._read, names)
                yield batch

    def _names(self, step: int) -> list[str]:
        """Return the images of a step: all in an order, then all in another, and so on."""
        names = self.plan.learned
        size = min(BATCH, len(names))
        rounds: dict[int, list[int]] = {}
        found = []
        for place in range(step * size, (step + 1) * size):
            turn = place // len(names)
            if turn not in rounds:
                rounds[turn] = torch.randperm(len(names), generator=torch.Generator().manual_seed(turn)).tolist()
            found.append(names[rounds[turn][place % len(names)]])
        return found

    def _read(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return images (N, 3, H, W), normalised, and how much of that the camera saw, (N, 2).

        The network sees no more of an image than its own input holds, so a larger one counts as one of that size.
        """
        rows = [self.gallery.rows[self.place[name]] for name in names]
        read = [self.extractor.prepare(self.gallery.picture(row, self.extractor.image)) for row in rows]
        sizes = [[min(own, most) for own, most in zip(one.size, self.extractor.size, strict=True)] for one in read]
        return torch.stack([one.pixels for one in read]), torch.tensor(sizes)

    def _keep(self, done: int) -> None:
        state = {
            "key": self.key,
            "done": done,
            "seconds": self.seconds,
            "losses": self.losses,
            "model": own_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.loss.state_dict(),
            "threads": torch.get_num_threads(),
        }
        checkpoint.save_atomic(state, self.state)

    def _resume(self) -> int:
        try:
            state = checkpoint.load(self.state)
        except FileNotFoundError:
            state = {}
        except ValueError as error:
            logger.warning("%s; the adaptation begins anew", error)
            state = {}
        if state.get("key") != self.key:
            if state:
                logger.warning("%s is of other images, steps or versions: the adaptation begins anew", self.state)
            THREADS.choose()
            return 0
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss.load_state_dict(state["loss"])
        self.seconds, self.losses = state["seconds"], state["losses"]
        THREADS.keep(state["threads"])
        logger.info("going on after step %d of %d", state["done"], self.plan.steps)
        return state["done"]

    def take(self, known: QueryEncoder) -> None:
        """Go on with what was learned before."""
        self.model.load_state_dict(known.state, strict=False)
        self.seconds, self.losses = known.about["seconds"], known.about["losses"]

    # -- what came of it -------------------------------------------------------------------------------------

    def result(self, caution: float) -> QueryEncoder:
        start = time.perf_counter()
        self.model.eval()
        held_out = self.plan.held_out
        parts = [held_out[i : i + BATCH] for i in range(0, len(held_out), BATCH)]
        read = [self._read(part) for part in parts]
        routing = calibrate(
            self.model,
            ({"img": img.to(self.extractor.device), "size": sizes} for img, sizes in read),
            self.camera,
            self.normalize,
            caution=caution,
        )
        # Copies: on the CPU a state's tensors are the network's own.
        state = {name: value.detach().cpu().clone() for name, value in own_state(self.model).items()}
        report = self._report(torch.cat([img for img, _ in read]), torch.cat([sizes for _, sizes in read]))
        extractor = self.extractor
        about = {
            "key": self.key,
            "model": extractor.about["model"],
            "gallery_sha256": extractor.about["weights_sha256"],
            "weights_sha256": weights_hash(state),
            "size": list(extractor.size),
            "query_size": list(self.plan.query_size),
            "threshold": routing["threshold"],
            "magnifications": list(self.camera.rates),
            "images": {
                "learned": len(self.plan.learned),
                "held_out": len(held_out),
                "low": self.plan.low,
                "gone": self.plan.gone,
            },
            "steps": self.plan.steps,
            "losses": self.losses,
            "routing": routing,
            "report": report,
            "seconds": round(self.seconds + time.perf_counter() - start, 1),
            "versions": versions(),
            "machine": machine(),
        }
        return QueryEncoder(self.gallery.folder / FOLDER, about, state, self.sums)

    def _report(self, images: Tensor, sizes: Tensor) -> list[dict[str, Any]]:
        """Return how near the features of degraded held-out images come to those that the gallery has of them."""
        adapted = copy.copy(self.extractor)
        adapted.model = self.model
        own = torch.tensor([self.place[name] for name in self.plan.held_out])
        found = []
        for magnification in MAGNIFICATIONS:
            rates = sizes[:, 0].double() * magnification / self.extractor.size[0]
            small = [low_size(*size, max(1.0, rate)) for size, rate in zip(sizes.tolist(), rates.tolist(), strict=True)]
            rows = [i for i, rate in enumerate(rates.tolist()) if rate >= 1 and small[i][0] >= SMALLEST]
            if not rows:
                continue
            views = [
                Prepared(self._view(images[i], tuple(sizes[i].tolist()), rates[i].item()), small[i]) for i in rows
            ]
            found.append({
                "magnification": magnification,
                "images": len(rows),
                "by_query_encoder": int(adapted.by_query_encoder(views).sum()),
                "before": self._figures(self.extractor, views, own[rows]),
                "after": self._figures(adapted, views, own[rows]),
            })  # fmt: skip
        return found

    def _view(self, image: Tensor, size: tuple[int, int], rate: float) -> Tensor:
        seen = self.normalize.undo(image.to(self.extractor.device))[0]
        return self.normalize(self.camera.view_at(seen, size, rate)[None])[0].cpu()

    def _figures(self, extractor: Extractor, views: Sequence[Prepared], own: Tensor) -> dict[str, float]:
        """Return the cosine to the sharp images' features, and where these stand among the gallery's."""
        size = extractor.batch_size
        features = torch.cat([extractor.describe(views[i : i + size]) for i in range(0, len(views), size)])
        cosine = F.cosine_similarity(features.double(), self.gallery.features[own].double())
        ranks = []
        nearest = Nearest(self.gallery.features.numpy(), self.gallery.about["metric"])
        for band in nearest.distances(features.numpy()):
            twin = np.take_along_axis(band, own.numpy()[len(ranks) : len(ranks) + len(band), None], axis=1)
            ranks += (1 + (band < twin).sum(axis=1)).tolist()
        place = torch.tensor(ranks, dtype=torch.float64)
        return {
            "cosine": round(cosine.mean().item(), 4),
            "first": round(100 * (place == 1).double().mean().item(), 2),
            "rank": place.quantile(0.5).item(),
        }
