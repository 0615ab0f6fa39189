"""The page of an evaluation: what it says, that it is sound HTML, that it asks for nothing and escapes everything."""

import copy
import re
from html.parser import HTMLParser

import pytest

from torchreid_xres.features.records import evaluated_runs, read_record
from torchreid_xres.pictures.queries import Changes, Listed, Queries, Shown
from torchreid_xres.report.evaluation import check_comparable, facts, figures
from torchreid_xres.report.lines import line_chart
from torchreid_xres.report.page import Evaluation, evaluation_page

NASTY = '<script>alert(1)</script>&"\''
PIXEL = "data:image/jpeg;base64,/9j/"
VOID = {"meta", "img", "br", "link", "input", "hr"}


def part(rank1, tpr=True):
    found = {"queries": 10, "rank1": rank1, "rank5": rank1 + 20, "rank10": rank1 + 30, "mAP": rank1 - 5, "mINP": 10.0}
    return found | ({"tpr": {"fpr0.01": 60.0, "fpr0.001": 40.0}} if tpr else {})


@pytest.fixture
def record():
    return {
        "dataset": "folder", "model": "net", "manifest": "a" * 64, "split_id": 0, "seed": 1, "input": [256, 128],
        "protocol": {"protocol": "market", "draws": 10, "seed": 0, "distance": "cosine", "rerank": False},
        "query_images": 20, "gallery_images": 1234567, "weights_sha256": "w" * 64, "versions": {"torch": "2.9.0"},
        **part(52.0), "cmc": [52.0 + i / 2 for i in range(50)],
        "by_rate": {"2": part(60.0), "4": part(44.0)},
        "by_camera": {"0": part(50.0), "10": part(54.0), "3": part(52.0, tpr=False)},
    }  # fmt: skip


@pytest.fixture
def other(record):
    found = copy.deepcopy(record) | {"model": "old", "rank1": 54.5, "weights_sha256": "v" * 64}
    found["by_rate"]["4"]["rank1"] = 40.0
    return found


class Page(HTMLParser):
    """A page as its elements, refused if one is left open or closed twice."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open, self._style = [], [], [], []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"an attribute twice: {tag} {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, f"</{tag}> closes what is not open"

    def handle_data(self, data):
        if data.strip():
            self.text.append((self._open[-1] if self._open else "", data.strip()))

    def all(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]

    def says(self, *tags):
        return [text for tag, text in self.text if tag in tags]


def page_of(*args, **kwargs):
    text = evaluation_page(*args, **kwargs)
    page = Page(text)
    # Asks for nothing: whatever refers to something refers to this page or is in it.
    for tag, attrs in page.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(key, "#").startswith(("#", "data:image/")), (tag, attrs)
        assert not any(key.startswith("on") for key in attrs), (tag, attrs)
    assert "url(" not in text and "@import" not in text and "://" not in text
    assert not page.all("script", "iframe", "object", "embed", "link", "base")
    assert any("default-src 'none'" in attrs.get("content", "") for attrs in page.all("meta"))
    # Can be read by everybody: names for pictures and charts, scopes for headings of tables, links that lead somewhere.
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    assert {attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs} <= set(ids)
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all("aria-label" in attrs or attrs.get("aria-hidden") == "true" for attrs in page.all("svg"))
    return page


def shown(name="g.png"):
    return [
        Shown(PIXEL, f"query {name}", "query", "query"),
        Shown(PIXEL, f"rank 1, hit: {name}", "1: 0.100", "hit"),
        Shown(PIXEL, f"rank 2, miss: {name}", "2: 0.200", "miss"),
    ]


def test_a_record_alone(record):
    page = page_of(Evaluation(record, "runs/net"))
    assert not page.all("img") and "queries" not in {attrs.get("id") for _, attrs in page.elements}
    assert page.says("h1") == ["net on folder"]
    assert page.says("dd")[1:] == ["52.0", "72.0", "82.0", "47.0", "10.0"]
    rows = page.says("th")
    assert [text for text in rows if text in ("0", "3", "10")] == ["0", "3", "10"]  # as numbers
    assert "TPR at FPR 0.1 %" in rows
    assert page.says("td").count("–") == 2  # camera 3 has none
    # CMC, rank-1, mAP and two rates of false positives by resolution; one line each.
    titles = [attrs["aria-label"] for attrs in page.all("svg")]
    assert len(titles) == 5 and titles[1].endswith("net: 44 at 4")
    assert len(page.all("polyline")) == 5


def test_against_another_record(record, other):
    page = page_of(Evaluation(record, "a"), Evaluation(other, "b", {"loss": [(0, 1.0)]}))
    up = [attrs for tag, attrs in page.elements if attrs.get("class") == "up"]
    assert len(up) == 3  # rank-1 of all: in the table of the runs, below the rates and below the cameras
    assert page.says("span").count("+2.5") == 3 and page.says("span").count("−4.0") == 1
    assert len(page.all("polyline")) == 12  # two lines each; the losses of one run and of the other none
    assert not any(attrs.get("class") == "warning" for _, attrs in page.elements)
    assert "weights sha256 ≠" in page.says("th") and "seed" in page.says("th")


def test_several_runs_on_a_page(record, other):
    runs = [Evaluation(one | {"model": "net"}, f"log/{name}/split0/net") for one, name in
            ((record, "slow"), (other, "fast"), (record | {"rank1": 50.0}, "half"))]  # fmt: skip
    del runs[2].record["mINP"], runs[2].record["tpr"]
    page = page_of(*runs)
    assert page.says("h1") == ["3 runs on folder"]
    assert page.says("dt") == ["run A: slow", "run B: fast", "run C: half"]
    assert page.says("dd")[1] == "net, log/fast/split0/net"
    text = [text for _, text in page.text]
    start = text.index("run C: half", text.index("Figures of the runs") if "Figures of the runs" in text else 10)
    assert "−2.0" in page.says("span")  # run C's rank-1 against run A's
    assert start and len(page.all("polyline")) == 3 * 5
    with pytest.raises(ValueError, match="9 runs; a page tells up to 8 apart"):
        evaluation_page(*[runs[0]] * 9)


def test_what_makes_a_comparison_hollow_is_said(record, other):
    other["manifest"], other["protocol"]["draws"] = "b" * 64, 3
    assert check_comparable(record, other) == [
        "The manifest is aaaaaaaaaaaa in run A and bbbbbbbbbbbb in run B.",
        "The protocol's draws is 10 in run A and 3 in run B.",
        "So other images were low resolution, or at other rates, or the files differ.",
    ]
    page = page_of(Evaluation(record, "a"), Evaluation(other, "b"))
    assert any(attrs.get("class") == "warning" for _, attrs in page.elements)
    assert "The protocol's draws is 10 in run A and 3 in run B." in page.says("li")
    with pytest.raises(ValueError, match="one evaluation is of folder, the other of mlr_viper"):
        evaluation_page(Evaluation(record, "a"), Evaluation(other | {"dataset": "mlr_viper"}, "b"))


def test_another_use_of_the_model_is_no_other_protocol(record, other):
    other["protocol"]["rerank"] = True
    assert check_comparable(record, other) == []
    (fact,) = [fact for fact in facts(record, other) if fact.name == "protocol: rerank"]
    assert (fact.values, fact.differs) == (["no", "yes"], True)


def test_queries_with_pictures(record, other):
    one = Listed("q.png", ["identity 7"], [("", shown())])
    both = Listed("q.png", [], [("", shown()[:1]), ("run A: rank 1", shown()[1:]), ("run B: rank 3", shown()[1:])])
    found = Changes([[0] * 5, [1] * 3], [4, 2], 12, 7)
    ahead = {"run A: net": [both], "run B: old": []}
    queries = Queries({"run A: net": [one, one], "run B: old": [one]}, (), ahead, found, ["other images"])
    page = page_of(Evaluation(record, "a"), Evaluation(other, "b"), queries=queries)
    assert len(page.all("img")) == 3 * 3 + 5
    assert page.says("h3") == [
        "What run A: net finds and the other misses", "Worst queries of run A: net", "Worst queries of run B: old"
    ]  # fmt: skip
    assert [text for text in page.says("b") if text in "✓✗"] == ["✓", "✗"] * 5  # not by colour alone
    assert {"5", "3", "12"} <= set(page.says("b")) and any("other images" in text for text in page.says("li"))
    assert any("For 7 no run has a match at rank 1" in text for text in page.says("p"))
    assert any(text == "Earlier than elsewhere for 5; for 4 at rank 1 in it alone." for text in page.says("p"))
    assert not any("draws" in text for text in page.says("p"))
    assert any("whoever gets the page gets them" in text for text in page.says("p"))
    page = page_of(Evaluation(record, "a"), queries=Queries({"net": [one]}, [one]))
    assert page.says("h3") == ["Worst queries", "Best queries"]


def test_of_a_protocol_that_draws_the_page_says_so(record):
    record["protocol"]["protocol"] = "single_shot"
    page = page_of(Evaluation(record, "a"), queries=Queries({}))
    assert any("The protocol draws 10 galleries" in text for text in page.says("p"))


def test_whatever_comes_from_outside_is_text(record, other):
    for each in (record, other):
        each |= {"model": NASTY, "dataset": NASTY, NASTY: {NASTY: NASTY}}
        each["by_rate"]["2"]["tpr"] = {"fpr0.01": 1.0}
    listed = Listed(NASTY, [NASTY], [(NASTY, shown(NASTY))])
    queries = Queries({NASTY: [listed]}, obstacles=[NASTY])
    training = {NASTY: [(0, 1.0), (1, 2.0)]}
    assert page_of(Evaluation(record, NASTY, training)).says("h1") == [f"{NASTY} on {NASTY}"]
    page = page_of(Evaluation(record, NASTY, training), Evaluation(other, NASTY), queries=queries)
    assert page.says("h4") == [NASTY] and page.says("li") == [NASTY]
    assert page.all("img")[0]["alt"] == f"query {NASTY}"
    assert any(attrs.get("aria-label", "").startswith(NASTY) for attrs in page.all("svg"))


def test_an_older_record_shows_what_it_holds(record):
    del record["by_camera"], record["tpr"], record["query_images"], record["gallery_images"], record["mINP"]
    for one in record["by_rate"].values():
        del one["tpr"], one["mINP"]
    page = page_of(Evaluation(record, "a"))
    assert len(page.all("svg")) == 3 and "camera" not in page.says("th")


def test_a_curve_over_all_queries_is_taken_if_both_have_one(record, other):
    record["curve"] = {"1": part(90.0), "3": part(70.0), "8": part(20.0)}
    page = page_of(Evaluation(record, "a"))
    assert "net: 20 at 8" in page.all("svg")[1]["aria-label"]
    page = page_of(Evaluation(record, "a"), Evaluation(other, "b"))
    charts = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert charts[1].endswith("run A: net: 44 at 4; run B: old: 40 at 4")


def test_nothing_is_folded_away_on_paper(record, other):
    page = page_of(Evaluation(record, "a"), Evaluation(other, "b"))
    assert not page.all("details") and "weights sha256" in " ".join(page.says("th"))
    names = ["run A: net", "run B: old"]
    assert page.says("dt") == names and page.says("th")[-len(facts(record, other)) - 2 :][:2] == names


def test_curves_over_magnification_stand_beside_those_over_rates(record, other):
    for each, gap in ((record, 0.5), (other, 0.25)):
        each["curve"] = {rate: part(90.0 - 10 * float(rate)) | {"magnification": gap * float(rate)} for rate in "124"}
    page = page_of(Evaluation(record, "a"), Evaluation(other, "b"))
    charts = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert charts[1].endswith("run A: net: 50 at 4; run B: old: 50 at 4")
    assert charts[2].endswith("run A: net: 50 at 2; run B: old: 50 at 1")
    assert charts[4].endswith("run A: net: 45 at 2; run B: old: 45 at 1")
    other["curve"]["2"]["magnification"] = None
    page = page_of(Evaluation(record, "a"), Evaluation(other, "b"))
    assert len(charts) - 2 == len([attrs for attrs in page.all("svg") if "aria-label" in attrs])


def test_quarters_by_size_are_a_table_and_charts(record, other):
    for each, gain in ((record, 0.0), (other, 4.0)):
        each["by_rate"] = {"1": part(52.0)}
        each["by_size"] = [
            {"quarter": 1, "from": 46.2, "median": 60.0, "to": 70.0, **part(40.0 + gain, tpr=False)},
            {"quarter": 4, "from": 101.0, "median": 150.0, "to": 317.4, **part(64.0, tpr=False)},
        ]
    page = page_of(Evaluation(record, "a"), Evaluation(other, "b"))
    headers = page.says("th")
    assert headers[headers.index("46 to 70 px") :][:3] == ["46 to 70 px", "101 to 317 px", "all"]
    assert "By size of the query" in page.says("caption")
    assert any("A size is the root of height times width" in text for text in page.says("p"))
    charts = [attrs["aria-label"] for attrs in page.all("svg") if "aria-label" in attrs]
    assert charts[1].endswith("run A: net: 64 at 150; run B: old: 64 at 150")
    assert charts[2].endswith("59 at 150")
    del other["by_size"]  # an older record beside a new one
    assert "46 to 70 px" in page_of(Evaluation(record, "a"), Evaluation(other, "b")).says("th")
    assert "46 to 70 px" not in page_of(Evaluation(other, "b"), Evaluation(record, "a")).says("th")


def test_points_of_training_are_thinned_but_reach_to_the_end(record):
    lines = {"loss": [(step, 1 / (step + 1)) for step in range(12345)]}
    text = evaluation_page(Evaluation(record, "a", lines))
    points = re.findall(r'points="([^"]*)"', text)[-1].split()
    assert 100 < len(points) <= 200


def test_a_chart_of_nothing_or_nan_is_refused():
    for lines in ({}, {"a": []}, {"a": [(0, float("nan"))]}):
        with pytest.raises(ValueError, match="'CMC' has no points, or some that are not finite"):
            line_chart(lines, title="CMC", x="rank", y="%")


def test_figures_keep_their_order_and_lack_no_difference_silently():
    found = figures({"rank10": 3.0, "rank1": 1.0, "mAP": 2.0}, {"rank1": 0.5})
    assert [(figure.name, figure.difference) for figure in found] == [("rank-1", 0.5), ("rank-10", None), ("mAP", None)]


@pytest.mark.parametrize(
    "content, message",
    [("{", "is not readable as JSON"), ("[]", "is no record of a ranking"), ('{"psnr_x2": 3}', "it has no dataset")],
)
def test_a_file_that_is_no_record(tmp_path, content, message):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_record(path)


def test_a_folder_with_several_records(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no results"):
        read_record(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such run folder or record"):
        read_record(tmp_path / "none")
    (tmp_path / "results").mkdir()
    for name in ("a", "b", "manifest_a"):
        (tmp_path / "results" / f"{name}.json").write_text("{}")
    with pytest.raises(ValueError, match="was evaluated on a, b: name one"):
        read_record(tmp_path)
    with pytest.raises(ValueError, match="was not evaluated on 'c', but on a, b"):
        read_record(tmp_path, "c")


def test_a_folder_of_runs(tmp_path):
    for name, sets in (("b", ["folder"]), ("a/split0/net", ["folder"]), ("restorer", [])):
        (tmp_path / name / "results").mkdir(parents=True)
        (tmp_path / name / "results" / "manifest_folder.json").write_text("[]")
        (tmp_path / name / "results" / "psnr.json").write_text('{"psnr": 30.0}')
        for one in sets:
            (tmp_path / name / "results" / f"{one}.json").write_text('{"rank1": 50.0}')
    assert evaluated_runs(tmp_path) == evaluated_runs(tmp_path, "folder") == [tmp_path / "a/split0/net", tmp_path / "b"]
    with pytest.raises(ValueError, match="holds no run that was evaluated on 'c', but on folder"):
        evaluated_runs(tmp_path, "c")
    (tmp_path / "b" / "results" / "other.json").write_text('{"rank1": 50.0}')
    with pytest.raises(ValueError, match="were evaluated on folder, other: name one of them"):
        evaluated_runs(tmp_path)
    with pytest.raises(FileNotFoundError, match="no run was evaluated there"):
        evaluated_runs(tmp_path / "restorer")
