"""How our engines evaluate: features, ranking, the record, at the engine's precision and on all its processes."""

from __future__ import annotations

import copy
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torchreid_xres import checkpoint, host
from torchreid_xres.data.base import DATASETS
from torchreid_xres.data.batches import mirrored
from torchreid_xres.data.io import BITS, FAST, read_image, save_image
from torchreid_xres.devices import distributed, parallel
from torchreid_xres.devices.proof import Proof
from torchreid_xres.devices.threads import THREADS
from torchreid_xres.engine import board, restoration
from torchreid_xres.engine.choosing import Choice
from torchreid_xres.features.record import magnification, make_record, scores
from torchreid_xres.files import write_json
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.metrics import RankResult, Roc, distance_matrix, rank_distances, rank_features
from torchreid_xres.metrics.rerank import reranked_distances
from torchreid_xres.terminal import printable, progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

LEAST_GAP = 1.5  # magnification of low queries below which a set has no resolution gap at the network's size
LONGEST_STEM = 120  # letters of a drawing's name
READ_ALIKE = (".jpg", ".jpeg", ".png", ".bmp")  # by OpenCV and by us


class _Ranked(NamedTuple):
    result: RankResult
    roc: Roc | None
    features: Tensor  # (Q, D)
    facts: dict[str, np.ndarray]  # of each query
    distances: np.ndarray | None = None  # (Q, G) re-ranked; else no full matrix is made


class Evaluation:
    """What :class:`~torchreid_xres.engine.base.XresMixin` does after an epoch, or with a trained network.

    Attributes:
        proof: what the network computes in.
        precisions: those of the training, each with the first epoch it was used in, counted from 1.
        metric: ``market`` or ``single_shot``; empty: as each data set says.
        draws: gallery draws of a single-shot evaluation.
        eval_seed: seed of these draws.
        query_rates: evaluate again with all low queries at each of these rates (a resolution curve).
        flip: add the features of the mirrored image.
        run_facts: what each record repeats.
        records: data set to its last record.
        choice: the epoch that was chosen.
        figures: pattern of the names of figures in its records; empty: CMC at the ranks asked for, mAP and mINP.
    """

    figures: ClassVar[str] = ""

    proof: Proof
    precisions: list[list]
    metric: str
    draws: int
    eval_seed: int
    query_rates: tuple[float, ...]
    flip: bool
    run_facts: Mapping[str, Any]
    records: dict[str, dict]
    choice: Choice
    liveness: dict[str, Any]

    @property
    def precision(self) -> str:
        """What the network computes in: ``fp32``, ``bf16`` or ``fp16``."""
        return self.proof.precision

    def at_precision(self, work: Callable[[], T], shape: Sequence[int]) -> T:
        """Return what a network in evaluation makes of a batch of this shape, at the engine's precision."""

        def cast() -> T:
            with self.proof.autocast():
                return work()

        return THREADS.timed(lambda: self.proof.run(cast, unwrap(self.model), shape, "eval"), "eval")

    def facts(self) -> dict[str, Any]:
        """Return what each record repeats: of the run, and at which precisions it was trained and is evaluated."""
        trained = {"precisions": self.precisions} if self.precisions else {}
        chosen = self.choice.told()
        told = {"chosen": chosen, "liveness": self.liveness}
        return {**self.run_facts, "precision": self.precision, **trained, **{k: v for k, v in told.items() if v}}

    def test(self, *args: Any, **kwargs: Any) -> float:
        """Evaluate on every target; the training's random numbers are the same with and without it."""
        with checkpoint.random_state_kept():
            return super().test(*args, **kwargs)

    def extract(self, batch: dict) -> Tensor:
        """Return features (N, D) of a loader's batch; a model of ours sees role and rate, the host's only images."""
        model = unwrap(self.model)
        if hasattr(model, "extract"):
            return model.extract(parallel.to_device(batch, next(model.parameters()).device))
        images, _, _ = self.parse_data_for_eval(batch)
        return self.extract_features(images.cuda() if self.use_gpu else images)

    def _features(self, loader: Any, normalize: bool) -> tuple[Tensor, dict[str, np.ndarray]]:
        joined, facts = parallel.by_shares(self._extracted, loader)
        if normalize:
            joined = F.normalize(joined, dim=1)
        # Sets of the host know nothing of rates.
        plain = {"rate": np.ones(len(joined)), "low": np.zeros(len(joined), dtype=bool)}
        return joined, {**plain, **facts}

    def _extracted(self, loader: Any) -> tuple[Tensor, dict[str, np.ndarray]]:
        features, facts = [], defaultdict(list)
        for batch in progress(loader, main=distributed.is_main(), desc="features", unit="batch"):
            features.append(self.at_precision(partial(self._described, batch), batch["img"].shape))
            for key in ("pid", "camid", "rate", "low", "size", "impath"):
                if key in batch:
                    facts[key].append(np.asarray(batch[key]))
        return torch.cat(features), {key: np.concatenate(kept) for key, kept in facts.items()}

    def _described(self, batch: dict) -> Tensor:
        found = self.extract(batch).float()
        if self.flip:
            found = found + self.extract(mirrored(batch)).float()
        return found.cpu()

    @torch.no_grad()
    def _evaluate(
        self,
        dataset_name: str = "",
        query_loader: Any = None,
        gallery_loader: Any = None,
        dist_metric: str = "euclidean",
        normalize_feature: bool = False,
        visrank: bool = False,
        visrank_topk: int = 10,
        save_dir: str = "",
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
    ) -> tuple[float, float]:
        """Rank one data set and keep its record (the host's signature and result: rank-1 and mAP)."""
        dataset = gallery_loader.dataset
        protocol = self.metric or ("single_shot" if use_metric_cuhk03 else getattr(dataset, "metric", "market"))
        how = {"protocol": protocol, "draws": self.draws, "seed": self.eval_seed}
        start = time.perf_counter()
        gf, gallery = self._features(gallery_loader, normalize_feature)

        def ranked(loader: Any, verified: bool) -> _Ranked:
            qf, query = self._features(loader, normalize_feature)
            labels = (query["pid"], gallery["pid"], query["camid"], gallery["camid"])
            roc = Roc(*labels, groups=query["rate"], protocol=protocol) if verified else None
            if rerank:
                distances = reranked_distances(qf, gf, dist_metric)
                return _Ranked(rank_distances(distances, *labels, roc=roc, **how), roc, qf, query, distances)
            return _Ranked(rank_features(qf, gf, *labels, metric=dist_metric, roc=roc, **how), roc, qf, query)

        result, roc, qf, query, distances = ranked(query_loader, verified=True)
        distributed.on_main(lambda: _require_unchanged(self.datamanager))
        seconds = time.perf_counter() - start
        record = make_record(
            dataset=dataset_name,
            manifest=getattr(dataset, "manifest", None),
            result=result,
            ranks=ranks,
            rates=query["rate"],
            cameras=query["camid"],
            sizes=query.get("size"),
            low=query["low"],
            height=self.datamanager.height,
            roc=roc,
            model=unwrap(self.model),
            protocol={
                **how,
                "distance": dist_metric,
                "normalize": normalize_feature,
                "rerank": rerank,
                "flip": self.flip,
            },
            run={
                **self.facts(),
                **part_of(dataset),
                "split_id": getattr(dataset, "split_id", None),
                "epoch": self.epoch + 1 if self.writer is not None else None,
                "query_images": len(qf),
                "gallery_images": len(gf),
                "gallery_identities": len(set(gallery["pid"].tolist())),
                "feature_dim": gf.shape[1],
                "seconds": round(seconds, 2),
            },
        )
        if self.query_rates:
            record["curve"] = {}
        for rate in self.query_rates:
            at = ranked(self.datamanager.query_loader(dataset_name, rate), verified=False)
            found = magnification(self.datamanager.height, at.facts["size"], at.facts["low"])["low"]
            record["curve"][f"{rate:g}"] = scores(at.result, ranks) | {"magnification": found}
        with self.proof.autocast():
            restored = restoration.restoration(unwrap(self.model), dataset)
        if restored is not None:
            record["restoration"] = restored
        self.records[dataset_name] = record
        if distributed.is_main():
            write_json(record, Path(save_dir or ".") / "results" / f"{dataset_name}.json")
        logger.info(
            "%s: mAP %.1f %%, %s", dataset_name, record["mAP"],
            ", ".join(f"rank-{r} {record[f'rank{r}']:.1f} %" for r in ranks),
        )
        if restored is not None:
            restoration.tell(dataset_name, restored)
        tell_of_gap(dataset_name, record.get("magnification", {}).get("low"))
        if self.writer is not None and distributed.is_main():
            with self.proof.autocast():
                board.show_restored(self.writer, dataset_name, unwrap(self.model), query_loader.dataset, self.epoch)
        if visrank and distributed.is_main():
            with tempfile.TemporaryDirectory() as folder:
                host.visualize_ranked_results(
                    distance_matrix(qf, gf, dist_metric).numpy() if distances is None else distances,
                    (
                        _queries_as_seen(query_loader.dataset, Path(folder, "query")),
                        _gallery_as_seen(dataset, Path(folder, "gallery")),
                    ),
                    self.datamanager.data_type,
                    width=self.datamanager.width,
                    height=self.datamanager.height,
                    save_dir=str(Path(save_dir) / f"visrank_{dataset_name}"),
                    topk=visrank_topk,
                )
        return float(result.cmc(1)[0]), record["mAP"] / 100


def part_of(dataset: Any) -> dict[str, Any]:
    """Return what a record says of a set's validation part: how it was made, and that it is what was evaluated."""
    kept_out = getattr(dataset, "validation", None)
    if not kept_out:
        return {}
    part = {"part": "validation"} if dataset.options["part"] == "validation" else {}
    return {**part, "validation": kept_out}


def _require_unchanged(manager: Any) -> None:
    """Refuse a record of images that are no longer those of its manifest; unchanged files are not read again."""
    for name, dataset in manager.sets().items():
        manifest = vars(dataset).get("manifest")  # made at the start of a run
        faults = manifest.verify(dataset.split.folder) if manifest is not None else {}
        if faults:
            first = min(faults)
            raise ValueError(
                f"{name} has changed while the run was using it: of {len(faults)} images the first is {first}, which "
                f"is {faults[first]}. Put that back to go on, or start over with --fresh"
            )


def tell_of_gap(dataset: str, magnification: float | None) -> None:
    """Warn where the network enlarges a set's low queries so little that a sharper camera would show it hardly more.

    Args:
        dataset: registered name.
        magnification: of its low queries, median; None without such.
    """
    if magnification is not None and magnification < LEAST_GAP:
        logger.warning(
            "%s has hardly a resolution gap here: the network enlarges its low queries %.2f times (median): a sharper "
            "camera would show it little more. Higher rates (data.rates) or a larger input (data.height, data.width) "
            "open one", dataset, magnification,
        )  # fmt: skip


def _queries_as_seen(dataset: Any, folder: Path) -> list[tuple]:
    """Return the queries for the host's drawing, which reads files: as the camera saw them, in ``folder``.

    The host calls its drawings as the files are called, whatever folders those are in.
    """
    stems = [printable(Path(path).stem)[:LONGEST_STEM] for path, *_ in dataset.query]
    if len({stem.lower() for stem in stems}) < len(stems):
        stems = [f"{i:0{len(str(len(stems)))}}_{stem}" for i, stem in enumerate(stems, 1)]
    plain, queries = copy.copy(dataset), []
    plain.transform = None
    for i, (stem, (path, *labels)) in enumerate(zip(stems, dataset.query, strict=True)):
        shown = plain[i]["img"] if getattr(dataset, "name", "") in DATASETS else read_image(path)
        file = folder / f"{stem}.png"
        save_image(shown, file, **FAST)
        queries.append((str(file), *labels))
    return queries


def _gallery_as_seen(dataset: Any, folder: Path) -> list[tuple]:
    """Return the gallery for the host's drawing: what OpenCV would show otherwise, or not at all, in ``folder``."""
    bits = getattr(dataset, "options", {}).get("grey_bits", BITS)
    gallery = []
    for i, (path, *labels) in enumerate(dataset.gallery):
        file = Path(path)
        if bits != BITS or file.suffix.lower() not in READ_ALIKE:
            file = folder / f"{i}.png"
            save_image(read_image(path, bits), file, **FAST)
        gallery.append((str(file), *labels))
    return gallery
