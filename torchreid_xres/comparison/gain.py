"""What a model has more than another one, in points, with its interval by a bootstrap over runs and identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

COMPARED = ("rank1", "mAP")
DRAWS = 4000
LEVEL = 0.95


class Gain(NamedTuple):
    """What a model has more than another one, in points, and the interval in which that lies at a level of 95 %."""

    points: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval excludes 0, else ``not told apart``."""
        if self.low <= 0 <= self.high:
            return "not told apart"
        return "better" if self.points > 0 else "worse"


def gain(
    own: np.ndarray,
    other: np.ndarray,
    identity: Sequence[Any],
    split: Sequence[int] | None = None,
    same_training: bool = False,
) -> Gain:
    """Compare two models over the same queries by a paired bootstrap.

    Both stand before the same queries, so these are drawn for both at once: what counts is how much the differences of
    single queries spread. Queries of one identity are hard or easy together, so identities are drawn, with all their
    queries. Training anew changes figures, too. How much is known from few runs only, so that part is drawn from
    Student's distribution, with the degrees of freedom of Welch and Satterthwaite; of runs of several splits, or of one
    network before and after, the differences count. Interval: percentiles.

    Args:
        own: a figure of each query, in per cent, (runs, Q), NaN for a query without a match; a run for each seed.
        other: that of the other model, (its runs, Q).
        identity: of each query, (Q,).
        split: of each query, (Q,); None: there is one. Each split is a training of its own.
        same_training: run for run both figures are of one trained network, so that runs are drawn as pairs.

    Raises:
        ValueError: if they are not of the same queries, or all of one identity, or runs to be paired differ in number.

    Example:
        >>> own, other = np.array([[100.0, 100, 0, 100]]), np.array([[100.0, 0, 0, 0]])
        >>> gain(own, other, [1, 2, 3, 4])
        Gain(points=50.0, low=0.0, high=100.0)
    """
    if own.shape[1:] != other.shape[1:]:
        raise ValueError(f"figures of {own.shape[1]} queries cannot be compared with those of {other.shape[1]}")
    if same_training and len(own) != len(other):
        raise ValueError(f"{len(own)} and {len(other)} runs are no pairs")
    valid = ~np.isnan(own.sum(axis=0) + other.sum(axis=0))
    own, other = own[:, valid], other[:, valid]
    people, index = np.unique(np.asarray(identity)[valid], return_inverse=True)
    if len(people) < 2:
        raise ValueError("an interval needs queries of two identities or more")
    part = (
        np.zeros(valid.sum(), dtype=int)
        if split is None
        else np.unique(np.asarray(split)[valid], return_inverse=True)[1]
    )
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(len(people), np.full(len(people), 1 / len(people)), DRAWS)  # (draws, identities)
    everyone = np.ones((1, len(people)))

    def means(figures: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the mean figure of each run and split under weights of identities, (draws, runs, splits)."""
        found = np.empty((len(weights), len(figures), part.max() + 1))
        for which in range(part.max() + 1):
            at = part == which
            count = weights @ np.bincount(index[at], minlength=len(people))
            sums = np.stack([np.bincount(index[at], row[at], len(people)) for row in figures])  # (runs, identities)
            found[:, :, which] = weights @ sums.T / np.maximum(count, 1e-9)[:, None]
        return found

    ours, theirs = means(own, drawn), means(other, drawn)
    found = ours.mean(axis=(1, 2)) - theirs.mean(axis=(1, 2))
    sides = means(own, everyone)[0], means(other, everyone)[0]  # (runs, splits) each
    points = float(sides[0].mean() - sides[1].mean())
    if part.max():
        groups = [sides[0].mean(axis=0) - sides[1].mean(axis=0)]
    elif same_training:
        groups = [sides[0][:, 0] - sides[1][:, 0]]
    else:
        groups = [side[:, 0] for side in sides]
    found = found + _of_runs(groups, generator)
    low, high = np.quantile(found, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return Gain(points, low, high)


def _of_runs(groups: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray | float:
    """Return draws of what training anew may change; 0 where no model, or pair of models, has two runs."""
    groups = [runs for runs in groups if len(runs) > 1]
    variances = np.array([runs.var(ddof=1) / len(runs) for runs in groups])
    if not variances.sum():
        return 0.0
    degrees = variances.sum() ** 2 / sum(v**2 / (len(runs) - 1) for v, runs in zip(variances, groups, strict=True))
    return variances.sum() ** 0.5 * generator.standard_t(degrees, DRAWS)


def gains(
    cells: Sequence[Mapping[str, Any]], against: Mapping[str, str], same_training: bool = False
) -> dict[str, dict]:
    """Return for each model what it gains over the one that it is compared with.

    Args:
        cells: finished runs: ``label``, ``seed``, and ``queries``: arrays of each query's ``pid``, ``split``, and
            figures by the names of :data:`COMPARED`, in per cent, NaN for one without a match; None for a run of which
            these were not kept, which is left out.
        against: label -> label of the model it is compared with; both need a finished run, or the row is left out.
        same_training: see :func:`gain`.

    Returns:
        label -> {"against": label, figure: {"points", "low", "high", "verdict"}}. The verdict is ``one seed`` where one
        of the two has but one training. A model without figures by query is in none.

    Raises:
        ValueError: if runs are not of the same queries.
    """
    known = [cell for cell in cells if cell.get("queries") is not None]
    if len({(*map(int, cell["queries"]["pid"]), *map(int, cell["queries"]["split"])) for cell in known}) > 1:
        raise ValueError("runs of different queries cannot be compared")
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for cell in known:
        by_label.setdefault(cell["label"], []).append(cell["queries"])
    found: dict[str, dict] = {}
    for own, other in against.items():
        if own == other or own not in by_label or other not in by_label:
            continue
        one, two = by_label[own], by_label[other]
        several = len(np.unique(one[0]["split"])) > 1
        alone = not same_training and not several and min(len(one), len(two)) == 1
        found[own] = {"against": other}
        for key in COMPARED:
            figures = [np.array([queries[key] for queries in side], dtype=float) for side in (one, two)]
            told = gain(*figures, one[0]["pid"], one[0]["split"], same_training)
            found[own][key] = told._asdict() | {"verdict": "one seed" if alone else told.verdict}
    return found
