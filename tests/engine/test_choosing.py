"""How long to train, chosen on the validation part: what is seen, kept, evaluated, and that a stop changes nothing."""

import json
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tiny_jobs import TINY, configured, same

from torchreid_xres import checkpoint
from torchreid_xres.config import ConfigError, config_hash, load_config
from torchreid_xres.engine.base import LAST, XresMixin
from torchreid_xres.engine.choosing import BEST, Choice
from torchreid_xres.jobs.check import check_names
from torchreid_xres.jobs.job import own_runs, run_job

CHOOSING = {"data__validation": 0.25, "test__eval_freq": 1, "train__patience": 1, "train__max_epoch": 4}


class StopHereError(Exception):
    pass


@contextmanager
def grading(figures):
    """Give the epochs' validations some mAPs; what was evaluated, in order, is yielded."""
    evaluated = []
    real = XresMixin._evaluate

    def evaluate(self, dataset_name, query_loader, gallery_loader, **how):
        part = query_loader.dataset.options["part"]
        evaluated.append((part, self.epoch + 1))
        rank1, found = real(self, dataset_name, query_loader, gallery_loader, **how)
        return rank1, figures[self.epoch] if part == "validation" else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(XresMixin, "_evaluate", evaluate)
        yield evaluated


@pytest.fixture
def graded():
    """Return a function that grades to the end of the test; what was evaluated, in order, is returned."""
    with ExitStack() as stack:
        yield lambda figures: stack.enter_context(grading(figures))


STOPPED = [0.3, 0.5, 0.4, 0.9]  # of the runs that are stopped on their way, and of the one that is not


@pytest.fixture(scope="module")
def whole(tiny_root, tmp_path_factory):
    """A run that nothing stopped: its record, its last state and what was evaluated."""
    folder = tmp_path_factory.mktemp("whole")
    with grading(STOPPED) as evaluated:
        (record,) = run_job(configured(TINY, tiny_root, folder, CHOOSING))
    return record, checkpoint.load(folder / "split0" / "sr_reid" / LAST), evaluated


def test_a_gain_resets_the_waiting_and_an_equal_figure_is_none():
    choice = Choice().after(2, 0.0)
    assert (choice.epoch, choice.waited) == (2, 0)
    choice = choice.after(4, 30.0).after(6, 30.0).after(8, 20.0)
    assert choice == Choice(4, 30.0, waited=2, seen=8) and choice.told() == []
    assert choice.after(10, 31.0) == Choice(10, 31.0, seen=10)


@pytest.mark.parametrize("model", ["tiny_net", "sr_reid"])
@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_training_ends_in_time_and_the_best_epoch_is_tested_once(tiny_config, graded, model, loss):
    cfg = tiny_config(
        model__name=model, loss__name=loss, data__pairs=model == "sr_reid",
        sampler__train_sampler="RandomIdentitySampler", **CHOOSING,
    )  # fmt: skip
    evaluated = graded([0.3, 0.5, 0.5, 0.9])
    (record,) = run_job(cfg)
    assert evaluated == [("validation", epoch) for epoch in (1, 2, 3)] + [("test", 2)]
    assert record["chosen"] == [{"what": "epoch", "on": "validation", "epoch": 2, "mAP": 50.0, "seen": 3}]
    assert record["epoch"] == 2 and "part" not in record and record["query_images"] == 18
    assert record["validation"] == {"share": 0.25, "identities": 2, "queries": 6, "gallery": 6}
    assert record["train_identities"] == 6 and record["train_images"] == 36
    folder = Path(cfg.data.save_dir) / "split0" / model
    last, best = checkpoint.load(folder / LAST), checkpoint.load(folder / BEST)
    assert last["epoch"] == 2 and same(last["models"], best["models"]) and last["seconds"] > best["seconds"]
    assert [file.name for file in (folder / "model").glob("model.pth.tar-*")] == ["model.pth.tar-2"]
    assert sorted(file.name for file in (folder / "results").iterdir()) == ["folder.json"]
    seen = json.loads((folder / "validation" / "results" / "folder.json").read_text())
    assert seen["part"] == "validation" and seen["epoch"] == 3 and "chosen" not in seen
    assert seen["manifest"] == record["manifest"]


def test_a_training_that_gains_to_its_last_epoch_ends_there(tiny_config, graded):
    evaluated = graded([0.1, 0.2, 0.3])
    (record,) = run_job(tiny_config(**CHOOSING | {"train__max_epoch": 3, "test__eval_freq": 2}))
    assert evaluated == [("validation", 2), ("validation", 3), ("test", 3)]
    assert record["chosen"][0]["epoch"] == record["epoch"] == 3


@pytest.mark.parametrize("where", ["training", "validation", "choice", "test"])
def test_a_stopped_run_ends_bit_for_bit_like_a_whole_one(tiny_config, whole, graded, monkeypatch, where):
    wanted_record, wanted_state, wanted = whole
    evaluated = graded(STOPPED)
    cfg = tiny_config(**CHOOSING)
    engine = type(own_runs(cfg, 0, Path(cfg.data.save_dir))[0].engine())
    hook, epoch = {
        "training": ("forward_backward", 2), "validation": ("_evaluate", 2), "choice": ("_take_best", 2),
        "test": ("_evaluate", 1),
    }[where]  # fmt: skip
    original = getattr(engine, hook)

    def stop(self, *args, **kwargs):
        if self.epoch == epoch and (where != "test" or self.choice.over):
            raise StopHereError
        return original(self, *args, **kwargs)

    monkeypatch.setattr(engine, hook, stop)
    with pytest.raises(StopHereError):
        run_job(cfg)
    monkeypatch.setattr(engine, hook, original)
    evaluated.clear()
    (record,) = run_job(cfg)
    states = [dict(wanted_state), checkpoint.load(Path(cfg.data.save_dir) / "split0" / "sr_reid" / LAST)]
    assert all(state.pop("seconds") > 0 and state.pop("processor_seconds") > 0 for state in states)
    assert same(*states)
    for key in ("chosen", "cmc", "mAP", "weights_sha256", "epoch"):
        assert record[key] == wanted_record[key]
    assert evaluated[-1] == ("test", 2) and len(evaluated) < len(wanted)
    assert (where in ("choice", "test")) == (evaluated == [("test", 2)])


def test_a_longer_training_goes_on_from_the_chosen_epoch(tiny_config, graded):
    graded([0.3, 0.2, 0.4, 0.1])
    patient = CHOOSING | {"train__patience": 2}
    assert run_job(tiny_config(**patient | {"train__max_epoch": 2}))[0]["epoch"] == 1
    (record,) = run_job(tiny_config(**patient))
    assert record["chosen"][0] == {"what": "epoch", "on": "validation", "epoch": 3, "mAP": 40.0, "seen": 4}


def test_evaluating_a_run_again_tells_what_was_chosen_and_its_part_is_kept_apart(tiny_config, graded):
    graded([0.3, 0.2])
    cfg = tiny_config(**CHOOSING)
    (trained,) = run_job(cfg)
    cfg.test.evaluate = True
    (again,) = run_job(cfg)
    assert again["chosen"] == trained["chosen"] and again["mAP"] == pytest.approx(trained["mAP"], abs=1e-4)
    cfg.data.part = "validation"
    (part,) = run_job(cfg)
    assert part["part"] == "validation" and part["query_images"] == 6
    kept = json.loads((Path(cfg.data.save_dir) / "split0" / "sr_reid" / "results" / "folder.json").read_text())
    assert kept["query_images"] == 18


def test_a_share_alone_evaluates_the_test_as_before(tiny_config):
    cfg = tiny_config(data__validation=0.25)
    (record,) = run_job(cfg)
    assert record["train_identities"] == 6 and record["query_images"] == 18 and record["epoch"] == 2
    assert "chosen" not in record and "part" not in record
    assert not (Path(cfg.data.save_dir) / "split0" / "sr_reid" / BEST).exists()


def test_keys_at_their_default_are_none(tiny_config):
    at_default = ({}, {"data__validation": 0.0}, {"data__part": "test"}, {"train__patience": 0})
    hashes = {config_hash(tiny_config(**changes)) for changes in at_default}
    assert len(hashes) == 1
    assert config_hash(tiny_config(data__validation=0.25)) not in hashes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.validation": 0.7}, r"data.validation must be at least 0 and at most 0.5, not 0.7"),
        ({"data.part": "validation"}, "data.part is 'validation', but data.validation is 0"),
        ({"data.part": "train"}, "data.part is 'train'"),
        ({"data.validation": 0.2, "data.combineall": True}, "data.combineall .* data.validation must be 0"),
        ({"train.patience": 3, "test.eval_freq": 1}, r"data.validation \(here 0\) and test.eval_freq \(here 1\)"),
        ({"train.patience": 3, "data.validation": 0.2}, r"\(here 0.2\) and test.eval_freq \(here -1\)"),
    ],
)
def test_what_cannot_be_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        load_config(None, [part for pair in changes.items() for part in pair])


def test_what_has_no_validation_part_is_refused(tiny_config):
    share = {"data__validation": 0.25}
    with pytest.raises(ConfigError, match=r"data.validation must be 0 for 'market1501' in data.sources"):
        check_names(tiny_config(data__sources=["market1501"], data__targets=["folder"], **share))
    with pytest.raises(ConfigError, match=r"data.validation must be 0 for 'market1501' in data.targets"):
        check_names(tiny_config(data__targets=["market1501"], data__part="validation", **share))
    with pytest.raises(ConfigError, match=r"train.patience must be 0 for prpr_restorer"):
        check_names(tiny_config(model__name="prpr_restorer", sr__name="bicubic", sr__options={}, **CHOOSING))
    with pytest.raises(ValueError, match=r"folder: a validation share of 0.1 \(data.validation\) keeps 1 of 8"):
        run_job(tiny_config(data__validation=0.1))
