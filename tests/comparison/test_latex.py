"""A table for a paper, read back: its columns, groups, marks, and that no name breaks it."""

import copy
import re
import shutil
import subprocess

import pytest

from torchreid_xres.comparison.latex import escaped, latex_table

NASTY = "a_b & 5% #1 {x}\\end{table} $^~|é Ł 猫 λ\n--"


def row(label, kind="method", rank1=(50.0, 52.0), against="base", gain=None, **more):
    rule = {"protocol": "single_shot", "draws": 10, "distance": "cosine"}
    facts = {"mAP": 40.0, "protocol": rule, "query_images": 9, "gallery_images": 11, "magnification": {"low": 3.0}}
    told = gain and {"against": against, "rank1": gain, "mAP": gain}
    cost = {"parameters": 2_500_000, "train_seconds": 70.4, "train_speed": 10.0}
    return {
        "label": label, "kind": kind, "seeds": list(range(1, 1 + len(rank1))), "costs": [cost], "difference": told,
        "records": [{**facts, "rank1": value} for value in rank1], "without_arrays": 0, **more,
    }  # fmt: skip


@pytest.fixture
def result():
    whole = {"points": 2.04, "low": -0.5, "high": 4.5, "verdict": "not told apart"}
    return {"suite": "small suite", "about": "People, 100 % drawn.", "rows": [
        row("base", "baseline", (40.0, 44.0, 42.0)),
        row("first", rank1=(60.0, 62.0), gain=whole),
        row("alike", rank1=(61.04, 61.0), gain=whole, against="first"),
        row("second", rank1=(50.0,), gain={"points": -1.0, "error": 2.0, "verdict": "within error"}),
        row("third", rank1=(40.0, 42.0), costs=[{"parameters": 1_000_000}]),
    ]}  # fmt: skip


class Table:
    """What LaTeX sees of a table; refused if braces, environments or the number of cells are wrong."""

    def __init__(self, text):
        assert text.isascii()
        plain = re.sub(r"\\[\\{}%&#$_]", lambda m: m[0] if m[0] == "\\\\" else "x", text)
        depth = 0
        for sign in plain:
            depth += (sign == "{") - (sign == "}")
            assert depth >= 0
        assert depth == 0 and plain.count("$") % 2 == 0 and "#" not in plain
        assert plain.count("%") == 1 and plain.startswith("%")  # what it needs
        begun, ended = (re.findall(rf"\\{word}{{([a-z*]+)}}", text) for word in ("begin", "end"))
        assert begun == ended[::-1] and len(begun) == 2
        self.caption = re.search(r"\\caption\{(.*)\}\n", text)[1]
        self.label = re.search(r"\\label\{(.*)\}\n", text)[1]
        spec = re.search(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", text)[1]
        body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        self.groups = [
            [line.removesuffix(r" \\") for line in part.strip().splitlines()] for part in body.split(r"\midrule")
        ]
        self.lines = {}
        for line in (line for group in self.groups for line in group):
            cells = re.split(r" (?<!\\)& ", line)
            span = re.fullmatch(r"\\multicolumn\{(\d)\}\{@\{\}l\}\{.*\}", line)
            assert (int(span[1]) if span else len(cells)) == len(spec), line
            self.lines[cells[0]] = cells[1:]


def test_columns_groups_and_marks(result):
    table = Table(latex_table(result, columns=["rank1", "rank1_gain", "parameters"]))
    assert [len(group) for group in table.groups] == [1, 2, 5]
    assert table.groups[1][0] == r"\multicolumn{4}{@{}l}{\emph{baseline}}"
    assert table.lines["base"] == [r"42.0 {\scriptsize$\pm$2.0}", "--", "2.50"]  # alone in its kind
    assert table.lines["first"] == [
        r"\textbf{61.0} {\scriptsize$\pm$1.4}", r"$+2.0$ {\scriptsize$[-0.5, +4.5]$}", "2.50",
    ]  # fmt: skip
    assert table.lines["alike"][0] == r"\textbf{61.0} {\scriptsize$\pm$0.0}"  # as it is printed
    assert table.lines["second"] == [r"\underline{50.0}", "$-1.0$", "2.50"]
    assert table.lines["third"][0].startswith("41.0")
    assert table.label == "tab:small-suite"


def test_costs_are_marked_where_asked(result):
    columns = ["parameters", "train_seconds", "train_speed", "magnification", "seeds"]
    plain, marked = (Table(latex_table(result, columns=columns, mark_costs=flag)) for flag in (False, True))
    assert plain.lines["third"] == ["1.00", "--", "--", "3.0", "2"]
    assert marked.lines["third"] == [r"\textbf{1.00}", "--", "--", "3.0", "2"]
    assert marked.lines["first"] == [r"\underline{2.50}", r"\textbf{70}", r"\textbf{10.0}", "3.0", "2"]


def test_the_caption_says_what_figures_mean(result):
    said = Table(latex_table(result)).caption
    for sentence in (
        r"People, 100 \% drawn. Test: 9 queries, 11 gallery images, single shot (10 draws), cosine distance.",
        "enlarge low queries by a median of 3.0.",
        r"\ensuremath{\pm} is the standard deviation over seeds (n = 2; 3 of base; 1 of second).",
        "Gains are in points over base, of alike over first; 3 comparisons.",
        r"95~\% interval of a paired bootstrap over identities and runs.",
        "No figures by query were kept of second, so there is no interval.",
    ):
        assert sentence in said, sentence
    assert "Gains" not in Table(latex_table(result, columns=["mAP"])).caption
    result["rows"][0]["records"][0]["query_images"] = 8
    assert "queries, 11" not in Table(latex_table(result)).caption


def test_rows_stand_as_they_are_named_and_kinds_together(result):
    table = Table(latex_table(result, ["second", "base", "first"], ["mAP"], r"Of $x$.", "tab:mine"))
    assert [line.split(" & ")[0] for group in table.groups[1:] for line in group[1:]] == ["second", "first", "base"]
    assert (table.caption, table.label) == ("Of $x$.", "tab:mine")
    assert [len(group) for group in Table(latex_table(result, ["second", "first"], ["mAP"])).groups] == [1, 2]


def test_what_there_is_not_is_refused(result):
    for arguments, message in (
        ({"rows": ["frist"]}, "no row 'frist'; did you mean 'first'"),
        ({"columns": ["rank2"]}, "no row has a column 'rank2'; did you mean 'rank1'"),
        ({"columns": ["peak_mb"]}, "no row has a column 'peak_mb'"),
        ({"label": "tab:a b"}, "the label 'tab:a b' must be"),
        ({"label": "a}"}, "must be"),
    ):
        with pytest.raises(ValueError, match=message):
            latex_table(result, **arguments)


def test_no_name_breaks_it(result):
    result["about"] = NASTY
    result["rows"] += [row(NASTY, NASTY, gain={"points": 1.0, "low": 0.5, "high": 2.0}, against=NASTY)]
    table = Table(latex_table(result))
    name = escaped(NASTY)
    assert name in table.lines and name in table.caption and r"\emph{" + name in table.groups[-1][0]
    assert r"\'{e} \L{} [U+732B] \ensuremath{\lambda}" in name and "-{}-" in name


def test_an_older_result_has_no_intervals(result):
    for one in result["rows"]:
        del one["without_arrays"]
        for record in one["records"]:
            del record["magnification"], record["query_images"], record["protocol"]
        if one["difference"]:
            one["difference"] |= {key: {"points": 1.0, "error": 2.0} for key in ("rank1", "mAP")}
    table = Table(latex_table(result))
    assert table.lines["first"][2] == "$+1.0$" and "No figures by query were kept, so" in table.caption
    assert "Test:" not in table.caption and "enlarge" not in table.caption


@pytest.mark.slow
def test_latex_takes_it(result, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("there is no pdflatex here")
    other = copy.deepcopy(result) | {"about": NASTY.replace("\n", " ")}
    other["rows"].append(row(NASTY, NASTY))
    body = "\n".join(latex_table(one, label=label) for one, label in ((result, "tab:a"), (other, "tab:b_c")))
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "paper.tex").write_text(document)
    argv = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-1000:]
