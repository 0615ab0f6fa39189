"""One self-contained HTML page of an evaluation, or of several: figures, curves, queries, and what these depend on.

The page asks for nothing from outside, runs no script, and says so to the browser (Content-Security-Policy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torchreid_xres.pictures.queries import Queries
from torchreid_xres.report.evaluation import Figure, check_comparable, facts, figures, run_names
from torchreid_xres.report.lines import HEIGHT, WIDTH, Chart, Points, line_chart, thinned
from torchreid_xres.report.templates import rendered

HEADLINE = ("rank-1", "rank-5", "rank-10", "mAP", "mINP")
MOST_RUNS = 8  # that the lines of a chart tell apart
_LETTERS = "ABCDEFGH"
CMC_RANKS = 20  # shown; beyond them the curves of good models are one line


class Row(NamedTuple):
    """A row of a table by rate, size or camera; each run's figures there, all the same ones in the same order."""

    label: str
    queries: int
    figures: list[list[Figure]]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as a page shows it.

    Args:
        record: as :func:`torchreid_xres.features.records.read_record` gives it.
        source: what it was read from, as it is shown.
        training: loss -> points (step, value), see :func:`torchreid_xres.report.training.training_lines`.
    """

    record: Mapping[str, Any]
    source: str
    training: Mapping[str, Points] = field(default_factory=dict)


def evaluation_page(*runs: Evaluation, queries: Queries | None = None) -> str:
    """Return the page.

    Args:
        *runs: evaluations of one data set, 1 to ``MOST_RUNS``; the others are set against the first.
        queries: those to show; None for a page without pictures.

    Returns:
        An HTML document; whatever comes from names, paths and records is escaped.

    Raises:
        ValueError: if they are of several data sets, or too many.
    """
    records = [run.record for run in runs]
    first, *others = records
    lines = dict(zip(labels(runs), records, strict=True))
    known = [figure.name for figure in figures(first) if figure.name in HEADLINE]
    return rendered(
        "page.html",
        {"signed": lambda value: f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")},
        record=first,
        runs=dict(zip(lines, runs, strict=True)),
        headline=_aligned(records, known),
        warnings=[told for i, other in enumerate(others, 1) for told in check_comparable(first, other, _LETTERS[i])],
        tables=[(key, _rows(records, f"by_{key}")) for key in ("rate", "size", "camera")],
        charts=_charts(lines),
        training=_training(dict(zip(lines, (run.training for run in runs), strict=True))),
        queries=queries,
        facts=facts(*records),
        size=(WIDTH, HEIGHT),
        letters=_LETTERS[: len(runs)],
    )


def labels(runs: Sequence[Evaluation]) -> list[str]:
    """Return what the lines of runs are called, and where each is named; a run alone by its model.

    Raises:
        ValueError: if there are too many.
    """
    if len(runs) > MOST_RUNS:
        raise ValueError(f"{len(runs)} runs; a page tells up to {MOST_RUNS} apart")
    names = run_names([run.record for run in runs], [run.source for run in runs])
    return names if len(runs) == 1 else [f"run {letter}: {name}" for letter, name in zip(_LETTERS, names, strict=False)]


def _aligned(parts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[Figure]]:
    """Return the figures of these names of each run's part, those of the others against the first."""
    of_runs = [figures(parts[0]), *(figures(part, parts[0]) for part in parts[1:])]
    known = [{figure.name: figure for figure in one} for one in of_runs]
    return [[one.get(name, Figure(name, None, None)) for name in names] for one in known]


def _rows(records: Sequence[Mapping[str, Any]], key: str) -> list[Row]:
    first, *others = (_parts(record, key) for record in records)
    if not first:
        return []
    measured = {figure.name for part in first.values() for figure in figures(part)}
    names = [figure.name for figure in figures(records[0]) if figure.name in measured]
    rows = [
        Row(label, part["queries"], _aligned([part, *(other.get(label, {}) for other in others)], names))
        for label, part in first.items()
    ]
    return [*rows, Row("all", sum(row.queries for row in rows), _aligned(records, names))]


def _parts(record: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    """Label -> part, in the order in which parts are shown."""
    if key == "by_size":
        return {f"{part['from']:.0f} to {part['to']:.0f} px": part for part in record.get(key, [])}
    return dict(sorted(record.get(key, {}).items(), key=lambda item: float(item[0])))


def _charts(runs: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    cmc = {label: list(enumerate(run["cmc"][:CMC_RANKS], 1)) for label, run in runs.items()}
    ranks = (1, *range(5, CMC_RANKS + 1, 5))
    span = _per_cent_span(cmc)
    charts = [line_chart(cmc, title="CMC", x="rank", y="queries with a match, %", span=span, x_ticks=ranks)]
    # The same kind of curve for both: all queries at each rate in turn if both measured that.
    at_each = all("curve" in run for run in runs.values())
    where = "rate of all queries" if at_each else "rate of the queries"
    for figure in ("rank1", "mAP"):
        lines = {
            label: sorted((float(rate), part[figure]) for rate, part in run["curve" if at_each else "by_rate"].items())
            for label, run in runs.items()
        }
        charts += _by_resolution(lines, figure.replace("rank", "rank-"), where)
        if at_each and all(part.get("magnification") for run in runs.values() for part in run["curve"].values()):
            lines = {
                label: sorted((part["magnification"], part[figure]) for part in run["curve"].values())
                for label, run in runs.items()
            }
            over = "effective magnification of all queries"
            charts += _by_resolution(lines, figure.replace("rank", "rank-"), over, round_ticks=True)
        lines = {
            label: [(part["median"], part[figure]) for part in run.get("by_size", [])] for label, run in runs.items()
        }
        charts += _by_resolution(lines, figure.replace("rank", "rank-"), "size of the queries, px", round_ticks=True)
    for key in dict.fromkeys(key for run in runs.values() for key in run.get("tpr", {})):
        lines = {
            label: sorted(
                (float(rate), part["tpr"][key]) for rate, part in run["by_rate"].items() if key in part.get("tpr", {})
            )
            for label, run in runs.items()
        }
        charts += _by_resolution(lines, f"TPR at FPR {100 * float(key[3:]):g} %", "rate of the queries")
    return charts


def _by_resolution(
    lines: Mapping[str, Points], figure: str, where: str, round_ticks: bool = False
) -> list[Chart]:
    """A chart over the rates or sizes; none where there is one only."""
    found = sorted({at for line in lines.values() for at, _ in line})
    if len(found) < 2:
        return []
    how = {"title": f"{figure} by resolution", "x": where, "y": f"{figure}, %"}
    return [line_chart(lines, **how, span=_per_cent_span(lines), x_ticks=() if round_ticks else found)]


def _per_cent_span(lines: Mapping[str, Points]) -> tuple[float, float]:
    """From 0, or from 50 where all is above it, to 100 or the next ten above the highest."""
    values = [value for line in lines.values() for _, value in line]
    high = min(100, -(-max(values, default=100) // 10) * 10) or 10
    return (50 if min(values, default=0) > 60 else 0), high


def _training(runs: Mapping[str, Mapping[str, Points]]) -> list[Chart]:
    charts = []
    for name in dict.fromkeys(name for training in runs.values() for name in training):
        lines = {label: thinned(training.get(name, [])) for label, training in runs.items()}
        charts.append(line_chart(lines, title=name, x="step", y=""))
    return charts
