"""Tables of a benchmark: several models on one data set, several seeds each, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, variance
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from torchreid_xres.features.tables import spread
from torchreid_xres.text import text_table

COMPARED = ("rank1", "mAP")


class Difference(NamedTuple):
    """What a model has more than another one, in points, and the standard error of that."""

    points: float
    error: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` beyond two standard errors, else ``within error``."""
        if abs(self.points) <= 2 * self.error:
            return "within error"
        return "better" if self.points > 0 else "worse"


def difference(own: np.ndarray, other: np.ndarray, identity: Sequence[Any], by_chance: float = 0.0) -> Difference:
    """Compare two models over the same queries.

    Both stand before the same queries, so these enter as pairs: what counts is how much the differences of single
    queries spread, not the figures themselves. Queries of one identity are hard or easy together, so it is identities
    that are drawn: the error is the cluster-robust one. The chance of training comes on top.

    Args:
        own: a figure of each query, in per cent, (runs, Q), NaN for a query without a match; a run for each seed.
        other: that of the other model, (its runs, Q).
        identity: of each query, (Q,).
        by_chance: what training anew adds to the squared error of the difference, in squared points.

    Raises:
        ValueError: if they are not of the same queries, or all of one identity.

    Example:
        >>> difference(np.array([[100.0, 100, 0, 100]]), np.array([[100.0, 0, 0, 0]]), [1, 2, 3, 4])
        Difference(points=50.0, error=28.867513459481287)
        >>> difference(np.array([[100.0, 100, 0, 100]]), np.array([[100.0, 0, 0, 0]]), [1, 2, 1, 2])
        Difference(points=50.0, error=50.0)
    """
    if own.shape[1:] != other.shape[1:]:
        raise ValueError(f"figures of {own.shape[1]} queries cannot be compared with those of {other.shape[1]}")
    pairs = own.mean(axis=0) - other.mean(axis=0)  # (Q,)
    valid = ~np.isnan(pairs)
    pairs, points = pairs[valid], float(pairs[valid].mean())
    identities, index = np.unique(np.asarray(identity)[valid], return_inverse=True)
    if len(identities) < 2:
        raise ValueError("an error needs queries of two identities or more")
    sums = np.bincount(index, weights=pairs - points)  # (identities,)
    by_queries = len(sums) / (len(sums) - 1) * (sums**2).sum() / len(pairs) ** 2
    return Difference(points, float(np.sqrt(by_queries + by_chance)))


def pooled_variance(groups: Sequence[Sequence[float]]) -> float:
    """Return the variance of a figure from seed to seed, in common for several models; 0 if none has two seeds.

    Two or three seeds say little of one model's variance; those of several models together say more.

    Args:
        groups: a model's figure for each of its seeds, for each model.

    Example:
        >>> pooled_variance([[50.0, 52.0], [61.0], [40.0, 44.0]])
        5.0
    """
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    return sum((len(group) - 1) * variance(group) for group in several) / freedom if several else 0.0


def compared(
    cells: Sequence[Mapping[str, Any]], against: Mapping[str, str], same_training: bool = False
) -> dict[str, dict]:
    """Return for each model how it differs from the one it is compared with.

    How much a figure changes from seed to seed is estimated from all models that start alike: those that start from
    random weights change far more than those that start from pretrained ones. Where a model has one run only, and no
    other has two, it cannot be known, and in place of a verdict stands ``one seed``. Of several splits, each of which
    is a training, the difference changes from split to split; their test identities overlap, and the error is
    a little too large rather than too small.

    Args:
        cells: finished runs: ``label``, ``seed``, ``start`` (which weights training started from), and ``queries``,
            lists of each query's ``pid``, ``split``, and figures by the names of :data:`COMPARED`, in per cent, None
            for one without a match.
        against: label -> label of the model it is compared with; both need a finished run, or the row is left out.
        same_training: a seed's figures are of one trained network, so that only their difference changes with it; a
            verdict from one seed is then one of that network.

    Returns:
        label -> {"against": label, figure: {"points", "error", "verdict"}}.

    Raises:
        ValueError: if runs are not of the same queries.
    """
    if len({(*cell["queries"]["pid"], *cell["queries"]["split"]) for cell in cells}) > 1:
        raise ValueError("runs of different queries cannot be compared")
    starts = {cell["label"]: cell.get("start") for cell in cells}
    labels = [cell["label"] for cell in cells]
    once = not same_training and len(set(labels)) == len(labels)
    pairs = {own: other for own, other in against.items() if own in starts and other in starts and own != other}
    found: dict[str, dict] = {own: {"against": other} for own, other in pairs.items()}
    if not pairs:
        return {}
    identity, split = (np.array(cells[0]["queries"][key]) for key in ("pid", "split"))
    parts = [split == one for one in np.unique(split)]
    for key in COMPARED:
        figures = {
            label: np.array([cell["queries"][key] for cell in cells if cell["label"] == label], dtype=float)
            for label in starts
        }
        means = {label: np.nanmean(own, axis=1) for label, own in figures.items()}
        gains = [(means[own] - means[other]).tolist() for own, other in pairs.items()] if same_training else []
        for own, other in pairs.items():
            if len(parts) > 1:
                of_split = [np.nanmean(figures[own][:, p]) - np.nanmean(figures[other][:, p]) for p in parts]
                by_chance = variance(of_split) / len(parts)
            elif same_training:
                by_chance = pooled_variance(gains) / len(means[own])
            else:
                by_chance = sum(_seed_variance(label, means, starts) / len(means[label]) for label in (own, other))
            told = difference(figures[own], figures[other], identity, by_chance)
            verdict = "one seed" if once and len(parts) == 1 else told.verdict
            found[own][key] = {"points": told.points, "error": told.error, "verdict": verdict}
    return found


def _seed_variance(label: str, means: Mapping[str, np.ndarray], starts: Mapping[str, Any]) -> float:
    alike = [own.tolist() for other, own in means.items() if starts[other] == starts[label]]
    every = [own.tolist() for own in means.values()]
    return pooled_variance(alike if any(len(own) > 1 for own in alike) else every)


def suite_table(result: Mapping[str, Any], ranks: Sequence[int] = (1, 5, 10), style: str = "github") -> str:
    """Return a row for each model: accuracy in per cent, and the difference to what it is compared with.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        ranks: CMC ranks shown.
        style: a table format of ``tabulate``.
    """
    lines = []
    for row in result["rows"]:
        records = row["records"]
        line = {"kind": row["kind"], "model": row["label"], "seeds": len(row["seeds"])}
        for key in (*(f"rank{r}" for r in ranks), "mAP", "mINP"):
            line[key.replace("rank", "rank-")] = spread([rec[key] for rec in records])
        told = row["difference"]
        line["against"] = told["against"] if told else "-"
        for key in COMPARED:
            name = key.replace("rank", "rank-")
            line[f"{name}, difference"] = _signed(told[key]) if told else "-"
        line["mAP is"] = told["mAP"]["verdict"] if told else "-"
        lines.append(line)
    return text_table(lines, style)


def rate_table(result: Mapping[str, Any], style: str = "github") -> str:
    """Return a row for each model: rank-1, mAP and mINP in per cent of the queries that the protocol has at each rate.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        style: a table format of ``tabulate``.

    Returns:
        The table; empty if there is but one rate.
    """
    rates = sorted({r for row in result["rows"] for rec in row["records"] for r in rec["by_rate"]}, key=float)
    if len(rates) < 2:
        return ""
    lines = []
    for row in result["rows"]:
        line = {"model": row["label"]}
        for key in (*COMPARED, "mINP"):
            for rate in rates:
                values = [rec["by_rate"][rate][key] for rec in row["records"] if rate in rec["by_rate"]]
                line[f"{key.replace('rank', 'rank-')} x{rate}"] = spread(values)
        lines.append(line)
    return text_table(lines, style)


def cost_table(result: Mapping[str, Any], style: str = "github") -> str:
    """Return a row for each model: size, multiply-adds of a query, seconds and speed of training and extraction.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        style: a table format of ``tabulate``.
    """
    lines = []
    for row in result["rows"]:
        costs = row["costs"]
        line = {"model": row["label"], "starts from": row["start"], "input": "x".join(map(str, row["input"]))}
        line["params (M)"] = f"{costs[0]['parameters'] / 1e6:.2f}"
        line["multiply-adds (G)"] = f"{costs[0]['multiply_adds'] / 1e9:.3f}"
        for key, name, digits in (
            ("train_seconds", "train (s)", 0),
            ("train_speed", "train img/s", 1),
            ("extraction_speed", "extraction img/s", 0),
        ):
            line[name] = f"{mean([cost[key] for cost in costs]):.{digits}f}"
        lines.append(line)
    return text_table(lines, style)


def vpfa_table(result: Mapping[str, Any], style: str = "github") -> str:
    """Return a row for each model and module of VPFA: its figures, and the difference to the queries as they are.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        style: a table format of ``tabulate``.
    """
    lines = []
    for row in result["vpfa"]:
        for module, told in row["difference"].items():
            line = {"model": row["label"], "module": module, "seeds": len(row["seeds"])}
            for key in COMPARED:
                name = key.replace("rank", "rank-")
                line[name] = spread([record[key] for record in row["records"][module]])
                line[f"{name}, difference"] = _signed(told[key])
            lines.append(line | {"mAP is": told["mAP"]["verdict"]})
    return text_table(lines, style)


def forecast_table(results: Sequence[Mapping[str, Any]], style: str = "github") -> str:
    """Return what is known before a test of a model's features, beside what its last module of VPFA then changes.

    The last line has the rank correlation (Spearman) of each column with the change, ranked within each suite, so that
    what tells suites apart plays no part; its p-value is that of changes shuffled within their suites.

    Args:
        results: as ``benchmarks/accuracy.py`` writes them; models without low and sharp cameras are left out.
        style: a table format of ``tabulate``.

    Raises:
        ValueError: if no suite has three models that can be told of.
    """
    lines = []
    for result in results:
        for row in result["vpfa"]:
            module, records = list(row["records"].items())[-1]
            if all(record.get("gap") for record in records):
                shares = [mean(told["share"] for told in record["direction"].values()) for record in records]
                known = {key: mean(record["gap"][key] for record in records) for key in ("offset", "gap", "cosine")}
                about = {"suite": result["suite"], "model": row["label"], "common direction (%)": mean(shares)}
                lines.append(about | known | {"mAP, change": row["difference"][module]["mAP"]["points"]})
    suites = [line["suite"] for line in lines]
    if max(map(suites.count, suites), default=0) < 3:
        raise ValueError("a rank correlation needs a suite with three models that have a gap between cameras")
    names = list(lines[0])[2:]
    last = {"suite": "within suites", "model": "rank correlation"}
    for name in names[:-1]:
        found = stratified_rank_correlation(*([line[key] for line in lines] for key in (name, names[-1])), suites)
        last[name] = "{:+.2f} (p {:.3f})".format(*found)
    forms = dict(zip(names, ("{:.0f}", "{:.2f}", "{:.2f}", "{:+.2f}", "{:+.1f}"), strict=True))
    shown = [line | {name: form.format(line[name]) for name, form in forms.items()} for line in lines]
    return text_table([*shown, last | {names[-1]: ""}], style)


def stratified_rank_correlation(
    x: Sequence[float], y: Sequence[float], group: Sequence[Any], shuffles: int = 9999
) -> tuple[float, float]:
    """Return the correlation of ranks within groups, and its two-sided p-value.

    Args:
        x, y: of each item.
        group: of each item; ranks are taken, and ``y`` is shuffled for the p-value, within a group only.
        shuffles: how many; their seed is fixed.

    Example:
        >>> x, y = [1, 2, 3, 4, 11, 12, 13, 14], [4, 3, 2, 1, 8, 7, 6, 5]
        >>> round(stratified_rank_correlation(x, y, "aaaabbbb")[0], 6)
        -1.0
    """
    members = [np.flatnonzero([other == one for other in group]) for one in dict.fromkeys(group)]
    ranks = np.empty((2, len(x)))
    for own in members:
        for row, values in zip(ranks, (x, y), strict=True):
            found = rankdata(np.asarray(values)[own])
            row[own] = found - found.mean()
    length = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    if not length:
        return float("nan"), float("nan")
    generator = np.random.default_rng(0)
    by_chance = np.zeros(shuffles)
    for own in members:
        by_chance += generator.permuted(np.tile(ranks[1][own], (shuffles, 1)), axis=1) @ ranks[0][own]
    statistic = float(ranks[0] @ ranks[1])
    as_far = (np.abs(by_chance) >= abs(statistic) - 1e-9).sum()
    return statistic / length, float((1 + as_far) / (1 + shuffles))


def quoted_table(block: Mapping[str, Any], style: str = "github") -> str:
    """Return the figures that papers give of themselves; every one is marked as quoted.

    Args:
        block: an entry of ``benchmarks/quoted.yaml``: ``figures``, ``rows`` of ``model``, ``source``, ``values``.
        style: a table format of ``tabulate``.
    """
    lines = []
    for row in block["rows"]:
        line = {"model": row["model"]}
        for key, value in zip(block["figures"], row["values"], strict=True):
            line[f"quoted {key.replace('rank', 'rank-')}"] = "-" if value is None else f"{value:.1f}"
        lines.append(line | {"from": row["source"]})
    return text_table(lines, style)


def _signed(told: Mapping[str, float]) -> str:
    return f"{told['points']:+.1f} ± {told['error']:.1f}"


def as_latex(table: str) -> str:
    """Return a table of the style ``latex`` or ``latex_booktabs`` with its signs as LaTeX has them.

    Example:
        >>> print(as_latex("51.0 ± 1.0"))
        51.0 $\\pm$ 1.0
    """
    return table.replace("±", r"$\pm$")
