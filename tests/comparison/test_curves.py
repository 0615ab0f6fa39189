import json
from statistics import mean, stdev

import numpy as np
import pytest

from torchreid_xres.comparison.curves import draw_curves, labelled_records, resolution_curves
from torchreid_xres.comparison.figures import LEAST_SPAN, save_figure


def record(model="net", shift=0.0, rates=(1, 2, 4), dataset="folder", **more):
    figures = {f"{rate:g}": {"rank1": 60 - 3 * rate + shift, "mAP": 50 - 4 * rate + shift} for rate in rates}
    return {"dataset": dataset, "model": model, "rank1": 50.0, "mAP": 40.0, "curve": figures, "by_rate": {}, **more}


def test_records_come_from_files_with_their_models_or_given_labels(tmp_path):
    one, many = tmp_path / "a=b.json", tmp_path / "many.json"
    one.write_text(json.dumps(record("first")))
    many.write_text(json.dumps([record("second"), {"psnr_x2": 30.0}, record("third")]))
    assert [label for label, _ in labelled_records([str(one), str(many)])] == ["first", "second", "third"]
    assert [label for label, _ in labelled_records([f"ours={many}", f"a={one}"])] == ["ours", "ours", "a"]


def test_files_that_hold_no_record_are_named(tmp_path):
    for text, message in (
        ("{", "not readable as JSON"), ("[]", "no record"), ('{"psnr_x2": 1}', "no record"), ("3", "no record"),
        ('{"rank1": 3}', "no dataset, no model"),
    ):  # fmt: skip
        path = tmp_path / "odd.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=f"odd.json.*{message}"):
            labelled_records([str(path)])
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        labelled_records([f"x={tmp_path / 'gone.json'}"])


def test_records_of_one_label_are_one_curve():
    shifts = (0.0, 1.0, 5.0)
    records = [("net", record(shift=shift)) for shift in shifts]
    records += [("net", record(dataset="other")), ("alone", record(rates=(4, 2)))]
    net, other, alone = resolution_curves(records)
    assert (net.records, other.records, alone.records) == (3, 1, 1) and other.dataset == "other"
    assert net.rates == [1, 2, 4] and alone.rates == [2, 4]
    assert net.mean["rank1"][1] == pytest.approx(mean(54 + s for s in shifts))
    assert net.std["mAP"] == pytest.approx([stdev(shifts)] * 3) and alone.std["mAP"] == [0, 0]


def test_rates_that_not_all_have_are_left_out_and_no_rates_are_an_error():
    (curve,) = resolution_curves([("net", record()), ("net", record(rates=(4, 8, 2)))])
    assert curve.rates == [2, 4]
    for queries, hint in (("all", "test.query_rates"), ("drawn", "by_rate")):
        with pytest.raises(ValueError, match=hint):
            resolution_curves([("net", record(curve={}))], queries)
    with pytest.raises(ValueError, match="no rate in common"):
        resolution_curves([("net", record(rates=(1,))), ("net", record(rates=(2,)))])


def test_curves_over_magnification_need_it_in_the_record():
    records = [("net", record(shift=shift)) for shift in (0.0, 1.0)]
    for shift, (_, one) in enumerate(records):
        for rate, part in one["curve"].items():
            part["magnification"] = float(rate) / 2 + 0.1 * shift
    (curve,) = resolution_curves(records, against="magnification")
    assert curve.rates == [1, 2, 4] and curve.at == pytest.approx([0.55, 1.05, 2.05])
    assert resolution_curves(records)[0].at == [1, 2, 4]
    pytest.importorskip("matplotlib")
    axes = draw_curves([curve], against="magnification").axes[0]
    assert axes.get_xscale() == "log" and list(axes.lines[0].get_xdata()) == curve.at
    assert "x1" in [tick.get_text() for tick in axes.get_xticklabels()] and "magnification" in axes.get_xlabel()
    records[1][1]["curve"]["2"]["magnification"] = None  # as in a record without a low query
    with pytest.raises(ValueError, match="net on folder holds no magnification by rate; it was made before"):
        resolution_curves(records, against="magnification")
    records[0][1]["by_rate"] = records[1][1]["by_rate"] = {"2": {"rank1": 1.0, "mAP": 1.0}}
    with pytest.raises(ValueError, match="of all queries only"):
        resolution_curves(records, "drawn", "magnification")


def test_a_plot_for_each_figure_and_data_set_with_bands():
    pytest.importorskip("matplotlib")
    records = [("net", record(shift=s)) for s in (0, 2)] + [("flat", record()), ("flat", record(dataset="other"))]
    figure = draw_curves(resolution_curves(records))
    assert [axes.get_title() for axes in figure.axes] == [
        "folder: rank-1",
        "folder: mAP",
        "other: rank-1",
        "other: mAP",
    ]
    first = figure.axes[0]
    assert [line.get_ydata()[0] for line in first.lines] == [58, 57]
    assert [len(axes.collections) for axes in figure.axes] == [1, 1, 0, 0]
    band = first.collections[0].get_paths()[0].vertices
    at_first = band[band[:, 0] == 1][:, 1]
    spread = stdev((0, 2))
    assert np.isclose(at_first.min(), 58 - spread) and np.isclose(at_first.max(), 58 + spread)
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["x1", "x2", "x4"]
    assert all(np.ptp(axes.get_ylim()) >= LEAST_SPAN - 1e-9 for axes in figure.axes)
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["net (2 runs, mean ± std)", "flat"]


def test_labels_are_shown_as_they_are(tmp_path):
    pytest.importorskip("matplotlib")
    labels = ["$\\frac$", "a$b$c", "_hidden", "two\nlines\x1b", "\udcff"]
    figure = draw_curves(resolution_curves([(label, record(dataset="$\\x$")) for label in labels]))
    save_figure(figure, tmp_path / "curves.svg")
    texts = figure.legends[0].get_texts()
    assert [text.get_text() for text in texts] == [*labels[:3], r"two\nlines\x1b", r"\udcff"]
    assert not any(text.get_parse_math() for text in [*texts, *(axes.title for axes in figure.axes)])
