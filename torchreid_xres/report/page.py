"""One self-contained HTML page of an evaluation: figures, curves, queries, and what all that depends on.

The page asks for nothing from outside, runs no script, and says so to the browser (Content-Security-Policy).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torchreid_xres.report.evaluation import Figure, check_comparable, facts, figures
from torchreid_xres.report.lines import HEIGHT, WIDTH, Chart, Points, line_chart, thinned
from torchreid_xres.report.queries import Queries
from torchreid_xres.report.templates import rendered

HEADLINE = ("rank-1", "rank-5", "rank-10", "mAP", "mINP")
CMC_RANKS = 20  # shown; beyond them the curves of good models are one line


class Row(NamedTuple):
    """A row of a table by rate, size or camera; all rows have the same figures in the same order."""

    label: str
    queries: int
    figures: list[Figure]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as a page shows it.

    Args:
        record: as :func:`torchreid_xres.report.evaluation.read_record` gives it.
        source: what it was read from.
        training: loss -> points (step, value), see :func:`torchreid_xres.report.training.training_lines`.
    """

    record: Mapping[str, Any]
    source: str
    training: Mapping[str, Points] = field(default_factory=dict)


def evaluation_page(here: Evaluation, there: Evaluation | None = None, queries: Queries | None = None) -> str:
    """Return the page.

    Args:
        here: the evaluation.
        there: another one of the same data set, to set it against.
        queries: those to show; None for a page without pictures.

    Returns:
        An HTML document; whatever comes from names, paths and records is escaped.

    Raises:
        ValueError: if the two are of two data sets.
    """
    record, other = here.record, there.record if there else None
    filters = {"signed": lambda value: f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")}
    known = [figure for figure in figures(record, other) if figure.name in HEADLINE]
    return rendered(
        "page.html",
        filters,
        here=here,
        there=there,
        record=record,
        headline=known,
        warnings=check_comparable(record, other) if other else [],
        tables=[(key, _rows(record, other, f"by_{key}")) for key in ("rate", "size", "camera")],
        charts=_charts(record, other),
        training=_training(here, there),
        queries=queries,
        facts=facts(record, other),
        size=(WIDTH, HEIGHT),
    )


def _labels(record: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[str]:
    """Return what the lines of the runs are called; a run alone by its model."""
    if other is None:
        return [record["model"]]
    return [f"run {letter}: {run['model']}" for letter, run in (("A", record), ("B", other))]


def _rows(record: Mapping[str, Any], other: Mapping[str, Any] | None, key: str) -> list[Row]:
    parts, others = _parts(record, key), _parts(other or {}, key)
    if not parts:
        return []
    measured = {figure.name for part in parts.values() for figure in figures(part)}
    whole = [figure for figure in figures(record, other) if figure.name in measured]
    rows = []
    for label, part in parts.items():
        known = {figure.name: figure for figure in figures(part, others.get(label))}
        aligned = [known.get(figure.name, Figure(figure.name, None, None)) for figure in whole]
        rows.append(Row(label, part["queries"], aligned))
    return [*rows, Row("all", sum(row.queries for row in rows), whole)]


def _parts(record: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    """Label -> part, in the order in which parts are shown."""
    if key == "by_size":
        return {f"{part['from']:.0f} to {part['to']:.0f} px": part for part in record.get(key, [])}
    return dict(sorted(record.get(key, {}).items(), key=lambda item: float(item[0])))


def _charts(record: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[Chart]:
    names = _labels(record, other)
    runs = dict(zip(names, (record, other) if other else (record,), strict=True))
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
    for key in record.get("tpr", {}):
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


def _training(here: Evaluation, there: Evaluation | None) -> list[Chart]:
    names = _labels(here.record, there and there.record)
    runs = {names[0]: here.training} | ({names[1]: there.training} if there and there.training else {})
    charts = []
    for name in here.training:
        lines = {label: thinned(training[name]) for label, training in runs.items() if name in training}
        charts.append(line_chart(lines, title=name, x="step", y=""))
    return charts
