"""A benchmark's table as a paper has it: booktabs, caption and label, the best bold and the second underlined."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any, NamedTuple

from tabulate import LATEX_ESCAPE_RULES

from torchreid_xres.comparison.gain import COMPARED
from torchreid_xres.comparison.suite import COSTS, rows_of
from torchreid_xres.registry import did_you_mean
from torchreid_xres.terminal import printable

GAIN = "_gain"  # behind the figure that it is a gain in
USUAL = ("rank1", "mAP", f"mAP{GAIN}", "parameters", "train_seconds")
NARROW = 3  # so many columns fit into one of a page's two
_LABEL = re.compile(r"[\w:.+/-]+", re.ASCII)
# What NFD parts a letter into -> the accent that LaTeX puts on it.
_ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327\u0328",
                    ("`", "'", "^", "~", "=", "u", ".", '"', "r", "H", "v", "c", "k"), strict=True))  # fmt: skip
_GREEK = ("alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "lambda", "mu", "pi", "rho", "sigma", "tau")
_SIGNS = LATEX_ESCAPE_RULES | {
    "|": r"\textbar{}", "\u00b1": r"\ensuremath{\pm}", "\u00d7": r"\ensuremath{\times}", "\u2212": r"\ensuremath{-}",
    "\u00b7": r"\ensuremath{\cdot}", "\u2192": r"\ensuremath{\to}", "\u00b5": r"\ensuremath{\mu}", "\u00a0": "~",
    "\u2013": r"\textendash{}", "\u2014": r"\textemdash{}", "\u2019": "'", "\u00df": r"\ss{}", "\u00f8": r"\o{}",
    "\u00d8": r"\O{}", "\u00e6": r"\ae{}", "\u00c6": r"\AE{}", "\u0142": r"\l{}", "\u0141": r"\L{}", "\u0153": r"\oe{}",
    **{unicodedata.lookup(f"GREEK SMALL LETTER {name.replace('lambda', 'lamda')}"): rf"\ensuremath{{\{name}}}"
       for name in _GREEK},
}  # fmt: skip


class Column(NamedTuple):
    """A column: its head, what a row has there, how a number is written, and whether more or less is better.

    Attributes:
        head: in LaTeX.
        values: a row of the result -> a value for each of its runs; of a gain the gain itself.
        digits: behind the point.
        better: 1 or -1 if rows can be told apart by it, 0 if not.
        is_cost: whether it is marked only where that is asked for.
    """

    head: str
    values: Callable[[Mapping[str, Any]], Sequence[Any]]
    digits: int = 1
    better: int = 0
    is_cost: bool = False


def latex_table(
    result: Mapping[str, Any],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    caption: str = "",
    label: str = "",
    mark_costs: bool = False,
) -> str:
    """Return a ``table`` for a paper that needs the package booktabs; ``table*`` where it has many columns.

    Rows of one kind are a group between rules. In each group the best accuracy is bold and the second best underlined,
    by what is printed, so those alike in print are marked alike; a row alone in its kind is not marked.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        rows: labels, in the order wanted; empty for all.
        columns: names of :func:`columns_of`; empty for those of :data:`USUAL` that some row has.
        caption: LaTeX; made of the result (see :func:`caption_of`) if empty.
        label: ``tab:`` and the suite's name if empty.
        mark_costs: mark the least cost, and the highest speed, too.

    Raises:
        ValueError: for a row or a column that there is not, naming the closest, or a label that LaTeX cannot have.
    """
    chosen = rows_of(result, rows)
    known = columns_of(chosen)
    for name in columns:
        if name not in known:
            raise ValueError(f"no row has a column {name!r}{did_you_mean(name, known)} There are: {', '.join(known)}")
    names = list(columns) or [name for name in USUAL if name in known]
    label = label or "tab:" + re.sub(r"[^\w:.+/-]+", "-", str(result["suite"]), flags=re.ASCII)
    if not _LABEL.fullmatch(label):
        raise ValueError(f"the label {label!r} must be of letters, digits and : . + / _ - only")
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in chosen:
        kinds.setdefault(row["kind"], []).append(row)
    heads = (rf"\multicolumn{{1}}{{c}}{{{known[name].head}}}" for name in names)
    body = [" & ".join(["Model", *heads]) + r" \\"]
    for kind, group in kinds.items():
        body.append(r"\midrule")
        if len(kinds) > 1:
            body.append(rf"\multicolumn{{{1 + len(names)}}}{{@{{}}l}}{{\emph{{{escaped(kind)}}}}} \\")
        cells = [_cells(known[name], group, mark_costs) for name in names]
        labels = [escaped(row["label"]) for row in group]
        body += [" & ".join(line) + r" \\" for line in zip(labels, *cells, strict=True)]
    table = "table*" if len(names) > NARROW else "table"
    return "\n".join([
        r"% \usepackage{booktabs}",
        rf"\begin{{{table}}}[t]",
        r"\centering",
        rf"\caption{{{caption or caption_of(result, chosen, names)}}}",
        rf"\label{{{label}}}",
        r"\smallskip\small\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}l{''.join('r' if known[name].is_cost else 'l' for name in names)}@{{}}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{table}}}",
    ])  # fmt: skip


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Return the columns that some of the rows have: figures of records, gains, and costs as cells hold them.

    Args:
        rows: of a result of ``benchmarks/accuracy.py``.
    """
    ranks = {key for row in rows for record in row["records"] for key in record if re.fullmatch(r"rank\d+", key)}
    known = {"seeds": Column("Seeds", lambda row: [len(row["seeds"])], digits=0)}
    for key in (*sorted(ranks, key=lambda key: int(key[4:])), "mAP", "mINP"):
        known[key] = Column(_name(key), _from("records", key), better=1)
    known["magnification"] = Column(r"Magnified ($\times$)", _magnified)
    for key in COMPARED:
        known[f"{key}{GAIN}"] = Column(f"{_name(key)} gain", lambda row, key=key: _gain(row, key))
    for key, (name, unit, digits) in COSTS.items():
        head, better = name[0].upper() + name[1:], 1 if key.endswith("_speed") else -1
        known[key] = Column(head, _from("costs", key, unit), digits, better, is_cost=True)
    return {name: column for name, column in known.items() if any(column.values(row) for row in rows)}


def caption_of(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> str:
    """Return a caption in LaTeX: what was measured how, what ± and intervals are, and how many comparisons there are.

    Args:
        result: as ``benchmarks/accuracy.py`` writes it.
        rows: those in the table.
        columns: names of those in the table.
    """
    said = [str(result["about"]).strip(), *_protocol(rows), *_seeds(rows)]
    if any(name.endswith(GAIN) for name in columns):
        said += _comparisons(rows)
    said.append("Within a kind the best is bold and the second best underlined.")
    return " ".join(escaped(sentence) for sentence in said)


def _protocol(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in sentences on which images, and by which rule, rows were tested; what they differ in is left out."""
    records = [record for row in rows for record in row["records"]]

    def shared(key: str, of: Sequence[Mapping[str, Any]] = records) -> Any:
        found = {str(one.get(key)): one.get(key) for one in of}
        return next(iter(found.values())) if len(found) == 1 else None

    rules = [record.get("protocol", {}) for record in records]
    parts = []
    if shared("query_images") and shared("gallery_images"):
        parts.append(f"{shared('query_images')} queries, {shared('gallery_images')} gallery images")
    rule = {"market": "all matches in other cameras count"}.get(rule := shared("protocol", rules), rule)
    if rule:
        drawn = shared("draws", rules) if rule != "all matches in other cameras count" else None
        parts.append(str(rule).replace("_", " ") + (f" ({drawn} draws)" if drawn else ""))
    if shared("distance", rules):
        parts.append(f"{shared('distance', rules)} distance")
    found = [f"Test: {', '.join(parts)}."] if parts else []
    gaps = [gap for row in rows for gap in _magnified(row)]
    return found + ([f"Networks enlarge low queries by a median of {median(gaps):.1f}."] if gaps else [])


def _seeds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in a sentence what ± is, and over how many seeds."""
    by_count: dict[int, list[str]] = {}
    for row in rows:
        by_count.setdefault(len(row["seeds"]), []).append(row["label"])
    splits = max((len(row["records"]) // len(row["seeds"]) for row in rows), default=1)
    what = f"± is the standard deviation over seeds{f' and {splits} splits' if splits > 1 else ''}"
    first, *others = sorted(by_count.items(), key=lambda item: -len(item[1]))
    counts = "".join(f"; {count} of {', '.join(labels)}" for count, labels in others)
    return [f"Accuracy is in %, {what} (n = {first[0]}{counts})."]


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in sentences what gains are over, what their interval is, and which have none."""
    told = {row["label"]: row["difference"] for row in rows if row.get("difference")}
    against: dict[str, list[str]] = {}
    for label, one in told.items():
        against.setdefault(one["against"], []).append(label)
    several = sorted(against.items(), key=lambda item: -len(item[1]))
    bare = [label for label, one in told.items() if "low" not in one[COMPARED[0]]]
    found = []
    if several:
        first, *others = (other for other, _ in several)
        over = "".join(f", of {', '.join(against[other])} over {other}" for other in others)
        found.append(f"Gains are in points over {first}{over}; {len(told)} comparisons.")
    if len(bare) < len(told):
        found.append("In brackets: 95\u00a0% interval of a paired bootstrap over identities and runs.")
    bare += [row["label"] for row in rows if row["label"] not in told and row.get("without_arrays")]
    if bare:
        which = "" if set(bare) >= set(told) else f" of {', '.join(bare)}"
        found.append(f"No figures by query were kept{which}, so there is no interval.")
    return found


def _name(key: str) -> str:
    return key.replace("rank", "Rank-")


def _from(part: str, key: str, unit: float = 1) -> Callable[[Mapping[str, Any]], list[float]]:
    """Return what takes a number out of each of a row's records or costs that has it."""
    return lambda row: [one[key] / unit for one in row[part] if one.get(key) is not None]


def _magnified(row: Mapping[str, Any]) -> list[float]:
    """Return the median of a row's records by how much the network enlarges low queries, if they have it."""
    found = [(record.get("magnification") or {}).get("low") for record in row["records"]]
    return [median(gap for gap in found if gap is not None)] if any(gap is not None for gap in found) else []


def _gain(row: Mapping[str, Any], key: str) -> list[Mapping[str, float]]:
    told = row.get("difference")
    return [told[key]] if told else []


def _cells(column: Column, rows: Sequence[Mapping[str, Any]], mark_costs: bool) -> list[str]:
    """Return a column's cells for the rows of a kind, the best and the second best marked."""
    values = [column.values(row) for row in rows]
    if any(isinstance(one, Mapping) for held in values for one in held):
        return [_signed(*held) if held else "--" for held in values]
    texts = [f"{mean(held):.{column.digits}f}" if held else "--" for held in values]
    marks: dict[str, str] = {}
    if column.better and (mark_costs or not column.is_cost) and sum(map(bool, values)) > 1:
        order = sorted({text for text in texts if text != "--"}, key=float, reverse=column.better > 0)
        marks = dict(zip(order, (r"\textbf", r"\underline"), strict=False))
    spread = not column.is_cost
    return [
        (f"{marks[text]}{{{text}}}" if text in marks else text)
        + (rf" {{\scriptsize$\pm${stdev(held):.{column.digits}f}}}" if spread and len(held) > 1 else "")
        for text, held in zip(texts, values, strict=True)
    ]


def _signed(told: Mapping[str, float]) -> str:
    """Return a gain, with its interval where it has one."""
    points = f"${told['points']:+.1f}$"
    return points + (rf" {{\scriptsize$[{told['low']:+.1f}, {told['high']:+.1f}]$}}" if "low" in told else "")


def escaped(text: str) -> str:
    r"""Return a text as LaTeX prints it, in ASCII: signs escaped, accents as commands, unknown letters by number.

    Example:
        >>> print(escaped("osnet_x1 & 5% ± é 猫"))
        osnet\_x1 \& 5\% \ensuremath{\pm} \'{e} [U+732B]
    """
    composed = unicodedata.normalize("NFC", printable(text))
    return re.sub("-(?=-)", "-{}", "".join(map(_letter, composed)))


def _letter(sign: str) -> str:
    if sign.isascii() or sign in _SIGNS:
        return _SIGNS.get(sign, sign)
    base, *marks = unicodedata.normalize("NFD", sign)
    if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii():
        return rf"\{_ACCENTS[marks[0]]}{{{base}}}"
    return f"[U+{ord(sign):04X}]"
