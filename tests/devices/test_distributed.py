"""Two processes under torchrun against one: the same losses, records and files."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from forked import python
from scripts import script
from tiny_jobs import TINY
from torch.utils.data import DataLoader

from torchreid_xres import checkpoint
from torchreid_xres.data.samplers import IdentitySampler
from torchreid_xres.devices import distributed, parallel
from torchreid_xres.engine.base import LAST

HERE = Path(__file__).parent


# What items draw differs between processes; so nothing is drawn, but in the tests that say so. A worker draws the rates
# of pairs from its own generator and leaves the process's as it is.
CALM = {
    "data.transforms": [], "data.pair_rates": [3.0], "data.workers": 1, "train.optim": "sgd", "train.lr": 0.02,
    "train.print_freq": 1,
}  # fmt: skip
NATURAL = {"data.options.folder": {"synthetic": False, "lr_camera": "1"}}  # not every image has an original
IDENTITIES = {"sampler.train_sampler": "IdentitySampler", "sampler.num_instances": 3, "train.batch_size": 12}
STOCK = {"model.name": "tiny_net", "data.pairs": False}
RCAN = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}
RESTORER = {"trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4}
TAKEN_APART = {"model.reid": "osnet_x0_25"}
CAREFUL = {"train.optim": "adam", "train.lr": 1e-5}  # for losses in the thousands
BRANCH = {"model": {"name": "tiny_net", "options": None}}

QUICK = {
    "sr_reid": {**NATURAL, **IDENTITIES, "loss.name": "triplet"},
    # By default the triplet loss stands alone: the classifier gets no gradient, or in two processes one of 0, so that
    # weight decay would reach it.
    "triplet": {
        **STOCK, **IDENTITIES, "loss.name": "triplet", "train.weight_decay": 0.0, "train.max_epoch": 1,
        "data.workers": 0,
    },
}
METHODS = {
    "softmax": {**STOCK, "train.fixbase_epoch": 1, "train.open_layers": ["fc", "classifier"], "train.max_epoch": 2},
    "psh_rnet": {
        **NATURAL, **IDENTITIES,
        "model.name": "psh_rnet", "model.options": {"backbone": "hrnet_w18_small"},
        "stages": {
            "teacher": {"model": {"name": "hrnet_reid"}, "train": {"staged_lr": False}},
            "student": {"loss": {"ps": {"teacher": "{teacher}/" + LAST}}},
        },
        "data.height": 64, "data.width": 32, "train.staged_lr": True, "train.new_layers": ["reid"], **CAREFUL,
        "sr.name": "vdsr_ca", "sr.options": {"depth": 3, "features": 4, "squeezed": 2},
    },
    "kgnet": {
        **NATURAL, **IDENTITIES,
        "model.name": "kgnet", **TAKEN_APART,
        "model.options": {"kgr": False, "kga": False}, "data.height": 64, "data.width": 64,
        "sr.name": "omni_sr", "sr.scale": 4, "sr.options": {"features": 8, "groups": 1, "blocks": 1},
    },
    "dgrl": {
        **NATURAL, **IDENTITIES,
        "model.name": "dgrl", **TAKEN_APART,
        "model.options": {"dim": 16, "groups": 3, "hidden": 8}, "sr.name": "rcan",
        "sr.options": RCAN,
    },
    "msifla": {
        **NATURAL, **IDENTITIES,
        "model.name": "msifla", **TAKEN_APART,
        "model.options": {"widths": [4, 8]}, "data.pairs": False, "train.staged_lr": True,
        "train.new_layers": ["cascade"], **CAREFUL,
    },
    "prpr": {  # the tasks train, restore and fuse
        "model.name": "prpr", "model.options": RESTORER, "data.pairs": False,
        "stages": {
            "restorer": {"model": {"name": "prpr_restorer"}, "train": {"epoch_batches": 2}},
            "pyramid": {"task": "restore", "model": {"name": "prpr_restorer", "load_weights": "{restorer}/" + LAST}},
            **{x: {**BRANCH, "data": {"pictures": "{pyramid}/" + x}} for x in ("x1", "x2", "x3", "x4")},
            "fused": {
                "task": "fuse", "sr": {"weights": "{restorer}/" + LAST},
                "fusion": {"branches": ["{x1}", "{x2}", "{x3}", "{x4}"]},
            },
        },
    },
    "keypoints": {
        "model.name": "hourglass_vehicle20", "model.options": {"stacks": 2, "depth": 2, "width": 8}, **CAREFUL,
        "data.sources": ["synth_vehicle"], "data.targets": ["synth_vehicle"], "data.height": 64, "data.width": 64,
        "data.pairs": False, "train.batch_size": 4,
        "data.options": {
            "folder": {}, "synth_vehicle": {
                "train_identities": 4, "test_identities": 2, "cameras": 2, "images_per_camera": 3, "query_rate": 1.0,
                "train_low": False,
            },
        },
    },
}  # fmt: skip


def written(folder, root, cases, stop=None):
    """Write the file of cases for :mod:`distributed_job` and return its path."""
    made = {}
    for name, keys in cases.items():
        tiny = {k: v for k, v in TINY.items() if not k.startswith("data.options") or "data.options" not in keys}
        keys = tiny | CALM | keys | {"data.root": str(root), "data.save_dir": str(folder / name)}
        made[name] = {"keys": keys, **({} if stop is None or name != "parts" else {"stop": stop})}
    folder.mkdir()
    path = folder / "cases.json"
    path.write_text(json.dumps(made))
    return path


def alone(folder, root, cases):
    """Run the cases in this process and return what :mod:`distributed_job` found."""
    path = written(folder, root, cases)
    script(HERE / "distributed_job.py").main(path, folder / "out.json")
    return json.loads((folder / "out.json").read_text())


def torchrun(*command, processes=2):
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "helpers")))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run([*start, *map(str, command)], capture_output=True, text=True, timeout=1800, env=environment)


def together(folder, root, cases, **kwargs):
    """Run the cases in two processes and return what :mod:`distributed_job` found."""
    path = written(folder, root, cases, **kwargs)
    done = torchrun(HERE / "distributed_job.py", path, folder / "out.json")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text())


def forked(folder, root, cases):
    """Run the cases as :func:`together` does, in two processes that are told what torchrun tells them."""
    path = written(folder, root, cases)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def process(rank):
        command = HERE / "distributed_job.py", path, folder / "out.json"
        return python(*command, cwd=folder, RANK=str(rank), LOCAL_RANK=str(rank), **told)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(process, range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    return json.loads((folder / "out.json").read_text())


def compare(one, two):
    """Compare in double precision; Adam's first steps, which are signs, make of its rounding 2e-7 of a triplet loss."""
    for name in one:
        a, b = one[name]["steps"], two[name]["steps"]
        assert len(a) == len(b) > 0
        for step, (x, y) in enumerate(zip(a, b, strict=True)):
            assert y == pytest.approx(x, rel=1e-5, abs=1e-7), (name, step)
        for x, y in zip(one[name]["records"], two[name]["records"], strict=True):
            assert x.get("dataset") == y.get("dataset")
            assert x.get("mAP") == pytest.approx(y.get("mAP"), abs=1e-3)


@pytest.fixture(scope="module")
def quick(tiny_root, tmp_path_factory):
    home = tmp_path_factory.mktemp("quick")
    return home, *(run(home / run.__name__, tiny_root, QUICK) for run in (alone, forked))


def test_two_processes_have_the_losses_and_figures_of_one(quick):
    home, one, two = quick
    compare(one, two)
    for name in QUICK:
        a, b = (next((home / run).glob(f"{name}/split0/*/{LAST}")) for run in ("alone", "forked"))
        a, b = (checkpoint.load(path)["models"]["model"] for path in (a, b))
        assert all("module" not in key for key in a)
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-8)


def test_an_identity_stays_in_one_process_and_both_share_a_batch_evenly(quick):
    two = quick[2]
    for name in QUICK:
        first, second = two[name]["shares"]
        assert len(first) == len(two[name]["steps"])
        for mine, other in zip(first, second, strict=True):
            assert len(mine) == len(other) == 6 and len(set(mine)) == len(set(other)) == 2
            assert not set(mine) & set(other)


def test_each_process_draws_for_itself(quick):
    mine, other = quick[2]["sr_reid"]["draws"]
    assert len({*mine, *other}) == len(mine) + len(other)


def test_only_the_first_process_writes(quick):
    for name in QUICK:
        folder = quick[0] / "forked" / name
        assert len(list(folder.glob("*.log"))) == 1
        assert len(list(folder.rglob("events.out.*"))) == 1
        assert {p.name for p in folder.rglob("*.json")} == {
            "stages.json", "run.json", "folder.json", "manifest_folder.json",
        }  # fmt: skip


@pytest.fixture(scope="module")
def methods(tiny_root, tmp_path_factory):
    home = tmp_path_factory.mktemp("methods")
    cases = {name: {"train.max_epoch": 1, **keys} for name, keys in METHODS.items()}
    return tuple(run(home / run.__name__, tiny_root, cases) for run in (alone, together))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_losses_of_one_process(method, methods):
    compare(*({method: found[method]} for found in methods))


@pytest.mark.slow
def test_an_interrupted_run_of_two_processes_ends_bit_for_bit_like_a_whole_one(tiny_root, tmp_path):
    drawing = {"data.transforms": ["random_flip", "random_crop", "random_erase"], "data.workers": 0}
    keys = {**drawing, "train.optim": "adam", "train.lr": 1e-3, "train.max_epoch": 3, "test.eval_freq": 1}
    found = together(tmp_path / "two", tiny_root, {"whole": keys, "parts": keys}, stop=1)
    assert found["parts"]["steps"] == found["whole"]["steps"]
    states = [checkpoint.load(tmp_path / "two" / name / "split0" / "sr_reid" / LAST) for name in found]
    assert torch.equal(*(state["random"].pop("torch") for state in states))
    assert states[0]["random"] == states[1]["random"]
    torch.testing.assert_close(states[1]["models"], states[0]["models"], rtol=0, atol=0)


@pytest.mark.slow
def test_a_users_error_ends_all_processes_with_its_message(tiny_root, tmp_path):
    keys = TINY | {
        **CALM, **STOCK, "data.root": tiny_root, "data.save_dir": tmp_path / "run", "train.batch_size": 7,
        "sr.options": "{}", "data.options.folder": "{}",
    }  # fmt: skip
    done = torchrun(HERE.parents[1] / "tools" / "train.py", *(str(part) for pair in keys.items() for part in pair))
    assert done.returncode != 0
    assert "ValueError: train.batch_size 7 is the whole batch, of which each of 2 processes" in done.stderr


# -- one process at a time -------------------------------------------------------------------------------------


@pytest.fixture
def second_of_two(monkeypatch):
    """Pretend to be the second of two processes, as far as nothing is sent."""
    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(parallel, "process", lambda: 1)


@pytest.mark.parametrize("sampler, batch, needed", [(None, 7, 2), ("identities", 9, 6)])
def test_a_batch_that_cannot_be_shared_is_refused(second_of_two, sampler, batch, needed):
    pids = [i // 3 for i in range(30)]
    sampler = IdentitySampler(pids, batch, 3) if sampler else None
    loader = DataLoader(pids, batch_size=batch, sampler=sampler)
    with pytest.raises(ValueError, match=rf"train\.batch_size {batch} is the whole batch.* multiple of {needed}"):
        parallel.SharedLoader(loader, "cpu")


def test_views_one_behind_the_other_are_put_together_by_view(second_of_two, monkeypatch):
    first, second = torch.tensor([0, 1, 10, 11]), torch.tensor([2, 12])  # images 0, 1 | 2; views 0 to 2, 10 to 12
    monkeypatch.setattr(parallel, "gather_rows", lambda share, rows: [first, second])
    plan = parallel._Plan([4, 2], [3])
    assert plan.join(second).tolist() == [0, 1, 2, 10, 11, 12]
    assert plan.own(torch.arange(6)).tolist() == [2, 5]


def test_a_result_without_a_row_for_each_image_is_refused(second_of_two):
    with pytest.raises(ValueError, match=r"a result of 1 \+ 1 rows .* the batch has 6 or 4 images"):
        parallel._Plan([1, 1], [6, 4])


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets what torchrun does, and nothing but the values given."""

    def make(**values):
        for name in distributed.ENVIRONMENT:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return make


@pytest.mark.parametrize(
    "values, message",
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 in the environment, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "1"}, "but MASTER_ADDR not set: torchrun"),
        ({**dict.fromkeys(distributed.ENVIRONMENT, "2")}, "RANK '2', LOCAL_RANK '2', WORLD_SIZE '2'"),
        ({**dict.fromkeys(distributed.ENVIRONMENT, "0"), "WORLD_SIZE": "x"}, "WORLD_SIZE 'x', .*never sets"),
    ],
)
def test_what_torchrun_would_not_leave_is_refused(environment, values, message):
    environment(**values)
    with pytest.raises(ValueError, match=message), distributed.processes(use_gpu=False):
        pass


def test_a_start_says_what_it_waits_for(environment, monkeypatch):
    environment(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_ADDR="here", MASTER_PORT="29500")
    monkeypatch.setattr(distributed, "TELL_AFTER", 0)
    telling = Telling()
    monkeypatch.setattr(distributed.logger, "handlers", [telling])
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *_, **__: telling.told.wait(60))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    with distributed.processes(use_gpu=False):
        pass
    assert "process 0 waits for the 1 other(s) of WORLD_SIZE 2 at here:29500; if torchrun did not start" in telling.text


class Telling(logging.Handler):
    def __init__(self):
        super().__init__()
        self.told, self.text = threading.Event(), ""

    def emit(self, record):
        self.text = record.getMessage()
        self.told.set()


def test_without_torchrun_everything_is_done_here(environment):
    environment()
    with distributed.processes(use_gpu=True), distributed.in_turn(), distributed.own_draws():
        assert distributed.is_main() and not distributed.active() and distributed.label() == ""
    layer = torch.nn.Linear(2, 2)
    assert parallel.parallel(layer, use_gpu=False, whole_step=True) is layer
