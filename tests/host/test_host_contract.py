"""What the package takes for granted of torchreid, as tests on the bare host: a new torchreid shows what moved."""

import ast
import hashlib
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchreid_xres import host
from torchreid_xres.host_mends import MENDS, bare_host, table
from torchreid_xres.host_mends.data import TRANSFORMS

torchreid = host.torchreid
IN_SUBPACKAGE = host.ROOT == "torchreid.reid"


@pytest.fixture(autouse=True)
def _bare(_mended):
    with bare_host():
        yield


def parameters(function):
    return list(inspect.signature(function).parameters)


# -- what moved: the host beside the one that the package was written against ------------------------------------------

# Written by ``python tests/host/test_host_contract.py`` when each difference has been looked at.
KNOWN = Path(__file__).with_name("known_host.json")


def as_installed():
    """Return what mends and methods rest on in the bare host: lines, whole functions, parameters."""
    root = Path(torchreid.models.__file__).parents[1]
    lines, sources = {}, {}
    for mend in MENDS.values():
        for file, number in re.findall(r"(\w+/[\w/]+\.py):(\d+)", mend.fault):
            text = (root / file).read_text(encoding="utf-8").splitlines()
            lines[f"{file}:{number} ({mend.name})"] = text[int(number) - 1].strip() if int(number) <= len(text) else ""
        for target in mend.targets:
            original, _ = table._find(target, mend.within)
            if inspect.isfunction(original):
                # But for spaces, and for the one difference between the layouts.
                source = "".join(inspect.getsource(original).replace("torchreid.reid", "torchreid").split())
                sources[f"{target} ({mend.name})"] = hashlib.sha256(source.encode()).hexdigest()[:16]
    classes = [name for name, held in vars(host).items() if getattr(held, "__module__", "").startswith("torchreid.")]
    signatures = {name: " ".join(parameters(getattr(host, name))) for name in (*host._FUNCTIONS, *classes)}
    return {"lines": lines, "sources": sources, "signatures": signatures}


@pytest.mark.parametrize("kind", ["lines", "sources", "signatures"])
def test_nothing_moved_that_the_package_rests_on(kind):
    known, found = json.loads(KNOWN.read_text(encoding="utf-8"))[kind], as_installed()[kind]
    moved = [f"{key}: {known.get(key)} before, {found.get(key)} now" for key in {**known, **found}
             if known.get(key) != found.get(key)]  # fmt: skip
    assert not moved, "\n".join(["look at these again, in torchreid and in host.py or host_mends:", *moved])


def taken_of_the_host(source):
    """Return what a file takes of ``host``: dotted names, with ``module("a.b")`` where it goes through a module."""
    names = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    shape = re.compile(r"host\.([\w.]+|module\('[\w.]+'\)\.\w+)")
    return {found[1] for found in map(shape.fullmatch, names) if found}


def test_every_name_the_package_takes_is_there(repo):
    taken = {}
    for path in (repo / "torchreid_xres").rglob("*.py"):
        for name in taken_of_the_host(path.read_text(encoding="utf-8")):
            taken.setdefault(name, path.relative_to(repo).as_posix())
    assert {"build_model", "Engine.test", "module('models.pcb').DimReduceLayer"} <= set(taken)
    gone = []
    for name, path in sorted(taken.items()):
        module, _, rest = name.rpartition("').") if name.startswith("module('") else ("", "", name)
        try:
            held = host.module(module.removeprefix("module('")) if module else host
            for part in rest.split("."):
                held = getattr(held, part)
        except (KeyError, AttributeError):
            gone.append(f"{name}, which {path} takes")
    assert gone == []


# -- how it behaves --------------------------------------------------------------------------------------------------


def test_layout():
    assert host.ROOT in ("torchreid.reid", "torchreid")
    for name in ("data", "engine", "losses", "metrics", "models", "optim", "utils"):
        assert getattr(torchreid, name).__name__ == f"{host.ROOT}.{name}"
    assert host.module_of(host.Engine) is host.module("engine.engine")
    assert host.module_of(torchreid.metrics.evaluate_rank) is host.module("metrics.rank")


@pytest.mark.skipif(not IN_SUBPACKAGE, reason="GitHub's layout has these import paths")
def test_import_paths_of_the_other_layout_do_not_exist():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torchreid.models")


def test_models_are_built_from_a_private_table():
    table = vars(torchreid.models)["__model_factory"]
    assert table is host.model_factory()
    assert len([name for name, build in table.items() if not hasattr(build, "_xres")]) == 49
    build = inspect.signature(torchreid.models.build_model).parameters
    assert {name: p.default for name, p in build.items()} == {
        "name": inspect.Parameter.empty,
        "num_classes": inspect.Parameter.empty,
        "loss": "softmax",
        "pretrained": True,
        "use_gpu": True,
    }


def test_a_builder_gets_four_keywords(monkeypatch):
    monkeypatch.setitem(host.model_factory(), "contract", lambda **kwargs: kwargs)
    built = torchreid.models.build_model("contract", 5)
    assert built == {"num_classes": 5, "loss": "softmax", "pretrained": True, "use_gpu": True}


def test_models_return_features_logits_or_both():
    images = torch.randn(2, 3, 64, 32)
    for loss, kinds in (("softmax", torch.Tensor), ("triplet", tuple)):
        model = torchreid.models.build_model("osnet_x0_25", 5, loss=loss, pretrained=False)
        assert isinstance(model.train()(images), kinds)
        assert model.eval()(images).shape == (2, 512)
    logits, features = model.train()(images)
    assert logits.shape == (2, 5) and features.shape == (2, 512)


def test_data_sets_are_registered_once(monkeypatch):
    sets = host.module("data.datasets")
    monkeypatch.setattr(sets, "__image_datasets", dict(getattr(sets, "__image_datasets")))
    torchreid.data.register_image_dataset("contract", object)
    with pytest.raises(ValueError, match="already exists"):
        torchreid.data.register_image_dataset("contract", object)


def test_the_managers_signature_is_fixed(tiny, monkeypatch):
    assert parameters(host.ImageDataManager) == [
        *("root", "sources", "targets", "height", "width", "transforms", "k_tfm", "norm_mean", "norm_std", "use_gpu"),
        *("split_id", "combineall", "load_train_targets", "batch_size_train", "batch_size_test", "workers"),
        *("num_instances", "num_cams", "num_datasets", "train_sampler", "train_sampler_t", "cuhk03_labeled"),
        *("cuhk03_classic_split", "market1501_500k"),
    ]
    given = []

    class Spy(tiny.cls):
        def __init__(self, **kwargs):
            given.append(kwargs)
            super().__init__(**kwargs)

    monkeypatch.setitem(getattr(host.module("data.datasets"), "__image_datasets"), "tiny", Spy)
    tiny.manager()
    own = {"root", "split_id", "cuhk03_labeled", "cuhk03_classic_split", "market1501_500k"}
    train, query, gallery = (set(kwargs) - own for kwargs in given)
    assert train == {"transform", "k_tfm", "mode", "combineall"}
    assert query == {"transform", "mode", "combineall"}
    assert gallery == {"transform", "mode", "combineall", "verbose"}
    assert [kwargs["mode"] for kwargs in given] == ["train", "query", "gallery"]


def test_transforms_are_shared_objects(tiny):
    manager = tiny.manager()
    loaders = manager.test_loader["tiny"]
    assert manager.train_loader.dataset.transform is manager.transform_tr
    assert loaders["query"].dataset.transform is loaders["gallery"].dataset.transform is manager.transform_te
    assert manager.train_loader.drop_last and not loaders["query"].drop_last


def test_transform_names_are_these_and_no_others():
    build = host.module("data.transforms").build_transforms
    for name in TRANSFORMS:
        assert len(build(8, 4, name)[0].transforms) == 1 + len(build(8, 4, [])[0].transforms)
    tested = re.findall(r"'(\w+)' in transforms", inspect.getsource(build))
    assert sorted(tested) == sorted(TRANSFORMS)


def test_items_and_batches(tiny):
    class Extra(tiny.cls):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "rate": 2.0}

    item = Extra(verbose=False)[0]
    assert list(item) == ["img", "pid", "camid", "impath", "dsetid", "rate"]
    manager = tiny.manager()
    manager.train_loader.dataset.__class__ = Extra
    batch = next(iter(manager.train_loader))  # the default collate takes what there is
    assert batch["rate"].tolist() == [2.0] * 8 and len(batch["impath"]) == 8


HOOKS = {
    "forward_backward": ["self", "data"],
    "extract_features": ["self", "input"],
    "parse_data_for_train": ["self", "data"],
    "parse_data_for_eval": ["self", "data"],
    "compute_loss": ["self", "criterion", "outputs", "targets"],
    "two_stepped_transfer_learning": ["self", "epoch", "fixbase_epoch", "open_layers", "model"],
    "update_lr": ["self", "names"],
    "set_model_mode": ["self", "mode", "names"],
    "save_model": ["self", "epoch", "rank1", "save_dir", "is_best"],
    "train": ["self", "print_freq", "fixbase_epoch", "open_layers"],
    "test": [
        *("self", "dist_metric", "normalize_feature", "visrank", "visrank_topk", "save_dir", "use_metric_cuhk03"),
        *("ranks", "rerank"),
    ],
    "_evaluate": [
        *("self", "dataset_name", "query_loader", "gallery_loader", "dist_metric", "normalize_feature", "visrank"),
        *("visrank_topk", "save_dir", "use_metric_cuhk03", "ranks", "rerank"),
    ],
    "run": [
        *("self", "save_dir", "max_epoch", "start_epoch", "print_freq", "fixbase_epoch", "open_layers", "start_eval"),
        *("eval_freq", "test_only", "dist_metric", "normalize_feature", "visrank", "visrank_topk"),
        *("use_metric_cuhk03", "ranks", "rerank"),
    ],
}


def noting(called, name, function):
    def noted(*args, **kwargs):
        called.append(name)
        return function(*args, **kwargs)

    return noted


@pytest.mark.parametrize("hook", HOOKS)
def test_engine_hooks(hook):
    assert parameters(getattr(host.Engine, hook)) == HOOKS[hook]


def test_run_drives_the_hooks_in_order(tiny, tmp_path, monkeypatch):
    called = []
    engine = tiny.engine()
    assert engine.train_loader is engine.datamanager.train_loader  # copied when the engine is made
    for name in ("train", "test", "_evaluate", "forward_backward", "update_lr", "extract_features"):
        monkeypatch.setattr(engine, name, noting(called, name, getattr(engine, name)))
    monkeypatch.setattr(engine, "save_model", noting(called, "save_model", lambda *args: None))
    engine.run(str(tmp_path), max_epoch=2, eval_freq=1, ranks=[1])
    one_epoch = ["train", *["forward_backward"] * 2, "update_lr"]
    one_test = ["test", "_evaluate", *["extract_features"] * 2, "save_model"]
    assert called == [*one_epoch, *one_test] * 2


def test_evaluation_functions_are_looked_up_at_call_time(tiny, monkeypatch):
    called = []
    for name in ("compute_distance_matrix", "evaluate_rank"):
        monkeypatch.setattr(torchreid.metrics, name, noting(called, name, getattr(torchreid.metrics, name)))
    rank1 = tiny.engine().test(ranks=[1])
    assert called == ["compute_distance_matrix", "evaluate_rank"] and isinstance(rank1, np.floating)
    assert {"re_ranking", "visualize_ranked_results", "SummaryWriter"} <= set(vars(host.module("engine.engine")))


def test_evaluators_signature_and_cython_slot():
    rank = host.module("metrics.rank")
    assert parameters(rank.evaluate_rank) == [
        *("distmat", "q_pids", "g_pids", "q_camids", "g_camids", "max_rank", "use_metric_cuhk03", "use_cython")
    ]
    assert isinstance(rank.IS_CYTHON_AVAI, bool)


def test_euclidean_is_squared():
    one, other = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert torchreid.metrics.compute_distance_matrix(one, other).item() == 25


def test_batches_need_only_cuda(tiny, monkeypatch):
    class Batch:
        def __init__(self, images):
            self.images = images

        def cuda(self):
            return self

    engine = tiny.engine()
    engine.parse_data_for_eval = lambda data: (Batch(data["img"]), data["pid"], data["camid"])
    engine.extract_features = lambda batch: engine.model(batch.images)
    engine.use_gpu = True  # only calls .cuda() here
    assert 0 <= engine.test(ranks=[1]) <= 1


def test_names_and_keys_of_checkpoints(tiny, tmp_path):
    engine = tiny.engine()
    engine._scheds["model"] = torch.optim.lr_scheduler.StepLR(engine.optimizer, 1)
    engine.save_model(4, 0.5, str(tmp_path), is_best=True)
    folder = tmp_path / "model"
    assert sorted(p.name for p in folder.iterdir()) == ["model-best.pth.tar", "model.pth.tar-5"]
    state = torch.load(folder / "model.pth.tar-5", weights_only=True)
    assert set(state) == {"state_dict", "epoch", "rank1", "optimizer", "scheduler"} and state["epoch"] == 5


GITHUB = """
import torch, numpy as np
import torchreid_xres, torchreid
from torchreid_xres import host, host_mends

assert host.ROOT == "torchreid", host.ROOT
assert host.module("engine.engine").__name__ == "torchreid.engine.engine"
assert all(name in host.model_factory() for name in torchreid_xres.models.MODELS)
torch.save({"rank1": np.float32(0.5)}, "old")
assert torchreid.utils.load_checkpoint("old") == {"rank1": 0.5}
distances, pids = np.eye(3, dtype=np.float32), np.arange(3)
assert len(torchreid.metrics.evaluate_rank(distances, pids, pids, 0 * pids, 0 * pids + 1)[0]) == 50
with host_mends.bare_host():
    assert len(torchreid.metrics.evaluate_rank(distances, pids, pids, 0 * pids, 0 * pids + 1)[0]) == 3
host_mends.apply()
print("mends", len(host_mends.MENDS))
"""


@pytest.fixture(scope="module")
def github_layout(tmp_path_factory):
    """GitHub's layout made from the installed one: the same modules directly under ``torchreid``."""
    if not IN_SUBPACKAGE:
        pytest.skip("this is GitHub's layout already")
    folder = tmp_path_factory.mktemp("github")
    source = Path(torchreid.__file__).parent / "reid"
    shutil.copytree(source, folder / "torchreid", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "torchreid").rglob("*.py"):
        path.write_text(path.read_text(encoding="utf-8").replace("torchreid.reid", "torchreid"), encoding="utf-8")
    return folder


def run_in(layout, repo, *command, cwd):
    paths = os.pathsep.join([str(layout), str(repo)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], env=environment, cwd=cwd, capture_output=True, text=True)


@pytest.mark.slow
def test_githubs_layout(github_layout, repo, tmp_path):
    done = run_in(github_layout, repo, "-c", GITHUB, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("mends ")


@pytest.mark.slow
def test_all_mends_in_githubs_layout(github_layout, repo):
    options = ["-q", "-m", "not slow", "-p", "no:cacheprovider"]
    done = run_in(github_layout, repo, "-m", "pytest", *options, str(Path(__file__).parent), cwd=repo)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "GitHub's layout has these import paths" in done.stdout  # it was that layout


if __name__ == "__main__":
    with bare_host():
        KNOWN.write_text(json.dumps(as_installed(), indent=1) + "\n", encoding="utf-8")
