"""Tables of a benchmark: several models on one data set, several seeds each, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, variance
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr
from tabulate import tabulate

from torchreid_xres.report.tables import spread

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


def difference(own: np.ndarray, other: np.ndarray, by_chance: float = 0.0) -> Difference:
    """Compare two models over the same queries.

    Both stand before the same queries, so these enter as pairs: what counts is how much the differences of single
    queries spread, not the figures themselves. The chance of training comes on top.

    Args:
        own: a figure of each query, in per cent, (runs, Q), NaN for a query without a match; a run for each seed.
        other: that of the other model, (its runs, Q).
        by_chance: what training anew adds to the squared error of the difference, in squared points.

    Raises:
        ValueError: if they are not of the same queries.

    Example:
        >>> difference(np.array([[100.0, 100, 0, 100]]), np.array([[100.0, 0, 0, 0]]))
        Difference(points=50.0, error=28.867513459481287)
    """
    if own.shape[1:] != other.shape[1:]:
        raise ValueError(f"figures of {own.shape[1]} queries cannot be compared with those of {other.shape[1]}")
    pairs = own.mean(axis=0) - other.mean(axis=0)
    pairs = pairs[~np.isnan(pairs)]
    return Difference(float(pairs.mean()), float(np.sqrt(pairs.var(ddof=1) / len(pairs) + by_chance)))


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
    random weights change far more than those that start from pretrained ones.

    Args:
        cells: finished runs: ``label``, ``seed``, ``start`` (which weights training started from), and ``queries``,
            lists of each query's figures by the names of :data:`COMPARED`, in per cent, None for one without a match.
        against: label -> label of the model it is compared with; both need a finished run, or the row is left out.
        same_training: a seed's figures are of one trained network, so that only their difference changes with it.

    Returns:
        label -> {"against": label, figure: {"points", "error", "verdict"}}.
    """
    starts = {cell["label"]: cell.get("start") for cell in cells}
    pairs = {own: other for own, other in against.items() if own in starts and other in starts and own != other}
    found: dict[str, dict] = {own: {"against": other} for own, other in pairs.items()}
    for key in COMPARED:
        figures = {
            label: np.array([cell["queries"][key] for cell in cells if cell["label"] == label], dtype=float)
            for label in starts
        }
        means = {label: np.nanmean(own, axis=1) for label, own in figures.items()}
        gains = [(means[own] - means[other]).tolist() for own, other in pairs.items()] if same_training else []
        for own, other in pairs.items():
            if same_training:
                by_chance = pooled_variance(gains) / len(means[own])
            else:
                by_chance = sum(_seed_variance(label, means, starts) / len(means[label]) for label in (own, other))
            told = difference(figures[own], figures[other], by_chance)
            found[own][key] = {"points": told.points, "error": told.error, "verdict": told.verdict}
    return found


def _seed_variance(label: str, means: Mapping[str, np.ndarray], starts: Mapping[str, Any]) -> float:
    alike = [own.tolist() for other, own in means.items() if starts[other] == starts[label]]
    every = [own.tolist() for own in means.values()]
    return pooled_variance(alike if any(len(own) > 1 for own in alike) else every)


def suite_table(result: Mapping[str, Any], ranks: Sequence[int] = (1, 5, 10), style: str = "github") -> str:
    """Return a row for each model: accuracy in per cent, by rate, and the difference to what it is compared with.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        ranks: CMC ranks shown.
        style: a table format of ``tabulate``.
    """
    rates = sorted({r for row in result["rows"] for rec in row["records"] for r in rec["by_rate"]}, key=float)
    lines = []
    for row in result["rows"]:
        records = row["records"]
        line = {"kind": row["kind"], "model": row["label"], "seeds": len(row["seeds"])}
        for key in (*(f"rank{r}" for r in ranks), "mAP", "mINP"):
            line[key.replace("rank", "rank-")] = spread([rec[key] for rec in records])
        if len(rates) > 1:
            for r in rates:
                line[f"r1@x{r}"] = spread([rec["by_rate"][r]["rank1"] for rec in records if r in rec["by_rate"]])
        told = row["difference"]
        line["against"] = told["against"] if told else "-"
        for key in COMPARED:
            name = key.replace("rank", "rank-")
            line[f"{name}, difference"] = _signed(told[key]) if told else "-"
        line["mAP is"] = told["mAP"]["verdict"] if told else "-"
        lines.append(line)
    return tabulate(lines, headers="keys", tablefmt=style, disable_numparse=True)


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
    return tabulate(lines, headers="keys", tablefmt=style, disable_numparse=True)


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
    return tabulate(lines, headers="keys", tablefmt=style, disable_numparse=True)


def forecast_table(results: Sequence[Mapping[str, Any]], style: str = "github") -> str:
    """Return what is known before a test of a model's features, beside what its last module of VPFA then changes.

    The last line has the rank correlation (Spearman) of each column with the change, and its p-value.

    Args:
        results: as ``benchmarks/accuracy.py`` writes them; models without low and sharp cameras are left out.
        style: a table format of ``tabulate``.

    Raises:
        ValueError: if fewer than three models can be told of.
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
    if len(lines) < 3:
        raise ValueError(f"a rank correlation needs three models with a gap between cameras; there are {len(lines)}")
    names = list(lines[0])[2:]
    last = {"suite": "all", "model": "rank correlation"}
    for name in names[:-1]:
        found = spearmanr([line[name] for line in lines], [line[names[-1]] for line in lines])
        last[name] = f"{found.statistic:+.2f} (p {found.pvalue:.3f})"
    forms = dict(zip(names, ("{:.0f}", "{:.2f}", "{:.2f}", "{:+.2f}", "{:+.1f}"), strict=True))
    shown = [line | {name: form.format(line[name]) for name, form in forms.items()} for line in lines]
    return tabulate([*shown, last | {names[-1]: ""}], headers="keys", tablefmt=style, disable_numparse=True)


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
    return tabulate(lines, headers="keys", tablefmt=style, disable_numparse=True)


def _signed(told: Mapping[str, float]) -> str:
    return f"{told['points']:+.1f} ± {told['error']:.1f}"


def as_latex(table: str) -> str:
    """Return a table of the style ``latex`` or ``latex_booktabs`` with its signs as LaTeX has them.

    Example:
        >>> print(as_latex("51.0 ± 1.0"))
        51.0 $\\pm$ 1.0
    """
    return table.replace("±", r"$\pm$")
