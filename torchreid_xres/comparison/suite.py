"""Tables of a benchmark: several models on one data set, several seeds each, and what tells them apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from scipy.stats import rankdata

from torchreid_xres.comparison.gain import COMPARED
from torchreid_xres.features.tables import gaps_of, spread
from torchreid_xres.registry import did_you_mean
from torchreid_xres.text import text_table

# What a cell holds of its cost -> its name in tables, unit and digits.
COSTS = {
    "parameters": ("params (M)", 1e6, 2),
    "multiply_adds": ("multiply-adds (G)", 1e9, 3),
    "train_seconds": ("train (s)", 1, 0),
    "train_processor_seconds": ("train (processor s)", 1, 0),
    "peak_mb": ("train, peak MB", 1, 0),
    "train_speed": ("train img/s", 1, 1),
    "extraction_speed": ("extraction img/s", 1, 0),
}


def suite_table(result: Mapping[str, Any], ranks: Sequence[int] = (1, 5, 10), style: str = "github") -> str:
    """Return a row for each model: accuracy in per cent, and what it gains over what it is compared with.

    Under it stands what the numbers mean, and what made them, see :func:`notes`.

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
        line["magnified"] = gaps_of(records)
        told = row["difference"]
        line["against"] = told["against"] if told else "-"
        for key in COMPARED:
            line[f"{key.replace('rank', 'rank-')}, gain"] = signed(told[key]) if told else "-"
        line["mAP is"] = told["mAP"]["verdict"] if told else "-"
        lines.append(line)
    return f"{text_table(lines, style)}\n\n" + "\n".join(notes(result))


def brief_table(result: Mapping[str, Any], labels: Sequence[str], style: str = "github") -> str:
    """Return the rows that matter, a line each: rank-1 and mAP, what is gained in mAP, and what it costs.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        labels: of rows, in this order.
        style: a table format of ``tabulate``.

    Raises:
        ValueError: for a label that no row has, naming the closest.
    """
    lines = []
    for row in rows_of(result, labels):
        told = row["difference"]
        line = {"model": row["label"], "seeds": len(row["seeds"])} | _figures_of(row)
        line["mAP, gain"] = f"{signed(told['mAP'])} over {told['against']}" if told else "-"
        line["mAP is"] = told["mAP"]["verdict"] if told else "-"
        lines.append(line | costs_of(row, ("multiply_adds", "train_processor_seconds")))
    return text_table(lines, style)


def restored_table(result: Mapping[str, Any], labels: Sequence[str] = (), style: str = "github") -> str:
    """Return what restoring gives beside what it is for: the gain in PSNR over enlargement, by rate, and accuracy.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        labels: of rows, in this order; all that restore without any. A named row that does not restore has ``-``.
        style: a table format of ``tabulate``.

    Raises:
        ValueError: for a label that no row has, naming the closest.
    """
    rows = rows_of(result, labels)
    gains = [[record.get("restoration", {}).get("by_rate", {}) for record in row["records"]] for row in rows]
    rates = sorted({rate for made in gains for one in made for rate in one}, key=float)
    lines = []
    for row, made in zip(rows, gains, strict=True):
        if not labels and not any(made):
            continue
        line = {"model": row["label"], "seeds": len(row["seeds"])}
        for rate in rates:
            line[f"PSNR x{rate}, gain"] = spread([one[rate]["psnr_gain"] for one in made if rate in one], 2)
        lines.append(line | _figures_of(row))
    return text_table(lines, style)


def _figures_of(row: Mapping[str, Any]) -> dict[str, str]:
    return {key.replace("rank", "rank-"): spread([record[key] for record in row["records"]]) for key in COMPARED}


def rows_of(result: Mapping[str, Any], labels: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """Return rows of a result by their labels, in that order; all without any.

    Raises:
        ValueError: for a label that no row has, naming the closest.

    Example:
        >>> rows_of({"rows": [{"label": "dgrl"}]}, ["dgrk"])
        Traceback (most recent call last):
        ValueError: there is no row 'dgrk'; did you mean 'dgrl'? There are: dgrl
    """
    known = {row["label"]: row for row in result["rows"]}
    for label in labels:
        if label not in known:
            raise ValueError(f"there is no row {label!r}{did_you_mean(label, known)} There are: {', '.join(known)}")
    return [known[label] for label in dict.fromkeys(labels)] or list(known.values())


def costs_of(row: Mapping[str, Any], keys: Iterable[str] = COSTS) -> dict[str, str]:
    """Return what a row costs, the mean over its cells, by the names of tables; ``-`` where it is not known."""
    told = {}
    for name, unit, digits, values in ((*COSTS[key], [cost.get(key) for cost in row["costs"]]) for key in keys):
        known = [value / unit for value in values if value]
        told[name] = f"{mean(known):.{digits}f}" if known else "-"
    return told


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return what is to be known of a suite's figures, a sentence each: what ± and gains are, and what made the cells.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
    """
    rows = result["rows"]
    told = [row["difference"] for row in rows if row["difference"]]
    found = ["± is the standard deviation over as many seeds as the column says."]
    if any("low" in one["mAP"] for one in told):
        against = Counter(one["against"] for one in told)
        shared = ", ".join(f"{count} with {label}" for label, count in against.most_common())
        found += [
            "A gain is in points, with the interval that holds it in 95 % of draws: of identities, with their queries, "
            "for both models alike, and of what training anew may change, as far as the seeds tell. "
            '"Better" is said where the interval of mAP excludes 0.',
            f"Compared: {shared}, each in rank-1 and mAP. Those with one row share its chance, and of 20 intervals "
            "without any difference one would exclude 0.",
        ]
    if any("error" in one["mAP"] for one in told):
        found += ["A difference has its standard error, paired over queries, identities drawn, with the seeds' spread."]
    bare = [row["label"] for row in rows if row.get("without_arrays")]
    found += [f"Without figures by query, so without an interval: {', '.join(bare)}."] if bare else []
    return found + _origin([cell for row in rows for cell in row.get("cells", [])])


def _origin(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which code, processors and settings made cells; several are said to be several."""
    if not cells:
        return []
    found = []
    for key in ("commit", "processor", "precision", "threads"):
        count = Counter(str(cell.get(key) or "unknown") for cell in cells)
        if len(count) == 1:
            found.append(f"{key} {next(iter(count))}")
        else:
            found.append(f"several of {key}: " + ", ".join(f"{value} ({n} cells)" for value, n in count.most_common()))
    earlier = Counter(commit for cell in cells for commit in cell.get("earlier", ()))
    if earlier:
        found.append("earlier stages of " + ", ".join(f"{commit} ({n} cells)" for commit, n in earlier.most_common()))
    resumed = sum(cell.get("resumed", False) for cell in cells)
    found += [f"{resumed} gone on with after a stop"] if resumed else []
    return [f"{len(cells)} cells, {'; '.join(found)}."]


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
        line = {"model": row["label"], "starts from": row["start"], "input": "x".join(map(str, row["input"]))}
        lines.append(line | costs_of(row))
    empty = [name for name, *_ in COSTS.values() if all(line[name] == "-" for line in lines)]
    return text_table([{name: text for name, text in line.items() if name not in empty} for line in lines], style)


def vpfa_table(result: Mapping[str, Any], style: str = "github") -> str:
    """Return a row for each model and module of VPFA: its figures, and the difference to the queries as they are.

    Under it stands which trained models were not moved.

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
                line[f"{name}, difference"] = signed(told[key])
            lines.append(line | {"mAP is": told["mAP"]["verdict"]})
    moved = {row["label"] for row in result["vpfa"]}
    bare = [row["label"] for row in result["rows"] if row["label"] not in moved]
    return text_table(lines, style) + (f"\n\nTrained, and not moved: {', '.join(bare)}." if bare else "")


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


def signed(told: Mapping[str, float]) -> str:
    """Return a difference with its interval, or with the error that was kept before there were intervals."""
    if "low" in told:
        return f"{told['points']:+.1f} [{told['low']:+.1f}, {told['high']:+.1f}]"
    return f"{told['points']:+.1f} ± {told['error']:.1f}"


def as_latex(table: str) -> str:
    """Return a table of the style ``latex`` or ``latex_booktabs`` with its signs as LaTeX has them.

    Example:
        >>> print(as_latex("51.0 ± 1.0"))
        51.0 $\\pm$ 1.0
    """
    return re.sub(r"(?<!\\)%", r"\\%", table.replace("±", r"$\pm$"))
