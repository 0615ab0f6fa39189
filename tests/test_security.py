"""No file that a user is given runs code: checkpoints, features, indexes, galleries, configurations, records.

Archives that lead out of their folder are in ``data/test_download.py``, the page's escaping in ``report/test_page.py``.
"""

import ast
import inspect
import io
import json
import pickle
import shutil
import sqlite3
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Tuple  # noqa: UP035 (as TorchScript wants it)

import numpy as np
import pytest
import torch
from tiny_jobs import untrained_run
from torch import nn

from torchreid_xres import checkpoint, host
from torchreid_xres.config import ConfigError, load_config
from torchreid_xres.data.io import read_image
from torchreid_xres.data.protocol import Manifest
from torchreid_xres.engine.base import LAST
from torchreid_xres.features.features import FeatureSet
from torchreid_xres.inference import Extractor
from torchreid_xres.jobs.run import Run
from torchreid_xres.jobs.stages import Stages
from torchreid_xres.jobs.tasks.panning import load_panning
from torchreid_xres.jobs.tasks.restore_pairs import record_key
from torchreid_xres.keypoints.annotations import read_annotations
from torchreid_xres.models import MODELS, build_model
from torchreid_xres.models.weights import load_weights
from torchreid_xres.search import Gallery
from torchreid_xres.search.reader import DATABASE
from torchreid_xres.search.storage import Storage
from torchreid_xres.sr import build_front_end
from torchreid_xres.sr.build import read_state
from torchreid_xres.tensors import read_tensors, refuse_code

# -- what the code may call ----------------------------------------------------------------------------------------

# Calls that run what a file or a text holds, however they are made.
NEVER = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load",
    "marshal.loads", "joblib.load", "shelve.open", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "torch.jit.load",
    "torch.hub.load", "torch.load", "shutil.unpack_archive",
}  # fmt: skip
# Calls that do so unless they are told not to: the keyword and the value they need.
TOLD = {
    "torch.hub.load_state_dict_from_url": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "subprocess.run": ("shell", False),
}
# Where such a call is as it must be: file and call.
ELSEWHERE = {("torchreid_xres/tensors.py", "torch.load"): "what old versions run is refused before"}


def unsafe_calls(source):
    """Return line and name of each call that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        keyword, needed = TOLD.get(name, (None, None))
        default = {"shell": False}.get(keyword)  # what is safe when nothing is said
        never = name in NEVER or name.endswith(".extractall")
        if never or (keyword and given.get(keyword, default) is not needed):
            found.append((node.lineno, name))
    return found


def test_unsafe_calls_are_seen():
    bad = ["eval('1')", "torch.load(p)", "torch.load(p, weights_only=True)", "np.load(p, allow_pickle=True)",
           "zipfile.ZipFile(p).extractall()", "subprocess.run(c, shell=True)", "yaml.load(f)"]  # fmt: skip
    good = ["read_tensors(p)", "subprocess.run(c)", "model.eval()", "yaml.safe_load(f)"]
    assert all(len(unsafe_calls(line)) == 1 for line in bad) and not any(map(unsafe_calls, good))


def test_no_line_of_the_project_runs_what_it_reads(repo):
    files = [path for part in ("torchreid_xres", "tools", "benchmarks") for path in (repo / part).rglob("*.py")]
    assert len(files) > 100
    found = []
    for path in files:
        for line, name in unsafe_calls(path.read_text(encoding="utf-8")):
            if not any(path.as_posix().endswith(file) and name == call for file, call in ELSEWHERE):
                found.append(f"{path.relative_to(repo)}:{line}: {name}")
    assert found == []



# -- files that hold code ------------------------------------------------------------------------------------------


class Touch:
    """Unpickled, it makes the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def mark(tmp_path):
    """The file that code makes where it runs; none of these tests may leave it."""
    path = tmp_path / "code ran"
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def net():
    return nn.Sequential(nn.Linear(2, 2))


def zipped(path, mark, net):
    torch.save({"state_dict": {**net.state_dict(), "more": Touch(mark)}, "epoch": 1}, path)


def legacy(path, mark, net):
    torch.save({"state_dict": net.state_dict(), "x": Touch(mark)}, path, _use_new_zipfile_serialization=False)


def bare(path, mark, net):
    path.write_bytes(pickle.dumps(Touch(mark)))


def whole_module(path, mark, net):
    torch.save(net, path)


class Writer(nn.Module):
    """TorchScript that makes the file when it is loaded."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> Tuple[str, bool]:  # noqa: UP006 (as TorchScript wants it)
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[str, bool]):  # noqa: UP006
        self.path, self.training = state
        torch.save(torch.zeros(1), self.path)

    def forward(self, x):
        return x


def script(path, mark, net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still read
        torch.jit.save(torch.jit.script(Writer(str(mark))), path)


def tarred(path, mark, net):
    """As torch 0.1 saved: no storages, no tensors, and an object."""
    none = pickle.dumps(0)
    with tarfile.open(path, "w") as archive:
        members = {"storages": none + pickle.dumps([]), "tensors": none, "pickle": pickle.dumps(Touch(mark))}
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


FILES = {f.__name__: f for f in (zipped, legacy, bare, whole_module, script, tarred)}
READERS = {
    "checkpoint.load": lambda path, net: checkpoint.load(path),
    "host.load_checkpoint": lambda path, net: host.load_checkpoint(str(path)),
    "host.load_pretrained_weights": lambda path, net: host.load_pretrained_weights(net, str(path)),
    "host.resume_from_checkpoint": lambda path, net: host.resume_from_checkpoint(str(path), net),
    "read_state": lambda path, net: read_state(path),
    "load_weights": lambda path, net: load_weights(net, path),
    "load_panning": lambda path, net: load_panning(path),
    "front end": lambda path, net: build_front_end("vdsr", depth=3, features=4, weights=path),
    "spandrel": lambda path, net: build_front_end("spandrel", weights=path),
    "sr_reid": lambda path, net: build_model(
        "sr_reid", pretrained=False, reid="osnet_x0_25", sr="bicubic", reid_weights=str(path)
    ),
    "Extractor": lambda path, net: Extractor.of_host("osnet_x0_25", path, size=(32, 16)),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("reader", READERS)
def test_a_checkpoint_with_code_is_refused(reader, kind, tmp_path, mark, net):
    if reader == "spandrel":
        pytest.importorskip("spandrel")
    path = tmp_path / "given.pth"
    FILES[kind](path, mark, net)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=r"given\.pth"):
        READERS[reader](path, net)
    assert all(map(torch.equal, before, net.parameters()))


HOURGLASS = {"stacks": 1, "depth": 2, "width": 8}
RCAN = {"groups": 1, "blocks": 1, "features": 4, "reduction": 2}
# Every option of a model that names a file of weights: the smallest model that reads it.
PLACES = {
    ("kgnet", "hourglass_weights"): {"hourglass": HOURGLASS},
    ("kgnet", "reid_weights"): {"kgr": False, "kga": False, "sr": "bicubic"},
    ("dgrl", "sr_weights"): {"sr": "rcan", "sr_options": RCAN},
    ("dgrl", "reid_weights"): {"sr": "bicubic"},
    ("hrnet_reid", "backbone_weights"): {"backbone": "hrnet_w18_small"},
    ("msifla", "reid_weights"): {"widths": [4, 8]},
    ("prpr_restorer", "trunk_weights"): {"trunk": "light", "head_features": 4},
    ("prpr", "trunk_weights"): {"trunk": "light", "head_features": 4},
    ("psh_rnet", "sr_weights"): {"sr": "vdsr", "sr_options": {"depth": 3, "features": 4}},
    ("psh_rnet", "reid_weights"): {"sr": "bicubic", "backbone": "hrnet_w18_small"},
    ("asymmetric", "reid_weights"): {"reid": "osnet_x0_25", "size": (32, 16)},
    ("asymmetric", "query_weights"): {"reid": "osnet_x0_25", "size": (32, 16)},
    ("sr_reid", "sr_weights"): {"sr": "vdsr", "sr_options": {"depth": 3, "features": 4}},
    ("sr_reid", "reid_weights"): {"sr": "bicubic"},
}


@pytest.mark.parametrize("name, option", PLACES)
def test_no_model_runs_code_from_a_file_of_weights(name, option, tmp_path, mark, net):
    path = tmp_path / "given.pth"
    zipped(path, mark, net)
    with pytest.raises(ValueError, match=r"given\.pth is no checkpoint, or holds more than tensors[^\n]*$"):
        build_model(name, 3, pretrained=False, **PLACES[name, option], **{option: str(path)})


def test_the_list_of_files_of_weights_is_whole():
    found = {
        (name, option)
        for name in MODELS
        for option in inspect.signature(MODELS[name].build).parameters
        if option.endswith("_weights") and option != "scale_weights"  # numbers
    }
    assert found <= set(PLACES)


def test_pictures_and_records_that_are_kept_run_no_code(tmp_path, mark):
    bare(tmp_path / "given", mark, None)
    with pytest.raises(OSError, match="given"):
        read_image(tmp_path / "given")
    with pytest.raises(ValueError, match="given"):
        read_annotations(tmp_path / "given")
    assert record_key(tmp_path / "given") == ""  # of the views that DGRL's restorer made


@pytest.mark.parametrize("kind, told", [("script", "is a TorchScript archive"), ("tarred", "is a tar file")])
@pytest.mark.parametrize("reader", READERS)
def test_torch_is_not_asked_for_what_its_old_versions_read(reader, kind, told, tmp_path, mark, net, monkeypatch):
    """torch 2.4 and 2.5 run the one and unpack the other, whatever ``weights_only`` says."""
    if reader == "spandrel":
        pytest.importorskip("spandrel")
    path = tmp_path / "given.pth"
    FILES[kind](path, mark, net)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(ValueError, match=rf"given\.pth {told}"):
        READERS[reader](path, net)


def test_a_script_is_known_whatever_its_folder_is_called(tmp_path, mark, net):
    script(tmp_path / "given.pth", mark, net)
    for folder in ("archive", ".data", "x.pkl"):
        with zipfile.ZipFile(tmp_path / "given.pth") as given, zipfile.ZipFile(tmp_path / "new.pth", "w") as new:
            for name in given.namelist():
                new.writestr(f"{folder}/{name.partition('/')[2]}", given.read(name))
        with pytest.raises(ValueError, match="TorchScript"):
            refuse_code(tmp_path / "new.pth")
    torch.save({"constants.pkl": 1}, tmp_path / "constants.pkl")
    assert read_tensors(tmp_path / "constants.pkl") == {"constants.pkl": 1}


@pytest.mark.parametrize("kind", ["zipped", "legacy", "bare", "script", "tarred"])
@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
def test_these_files_do_run_code_where_they_are_unpickled(tmp_path, kind):
    mark, path = tmp_path / "ran", tmp_path / kind
    FILES[kind](path, mark, nn.Linear(2, 2))
    assert not mark.exists()
    if kind == "bare":
        pickle.loads(path.read_bytes())
    elif kind == "script":
        torch.jit.load(path)
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_safetensors_file_is_read_as_such_whatever_it_holds(tmp_path, mark):
    path = tmp_path / "given.safetensors"
    bare(path, mark, None)
    with pytest.raises(ValueError, match=r"given\.safetensors cannot be read"):
        read_state(path)


@pytest.fixture
def run_folder(tiny_root, tmp_path):
    """The folder of a run with random weights."""
    keys = {
        "model.name": "osnet_x0_25", "data.root": tiny_root, "data.sources": ["folder"], "data.targets": ["folder"],
        "data.options.folder": {"synthetic": True, "lr_camera": "1"}, "data.height": 32, "data.width": 16,
        "data.workers": 0, "model.pretrained": False, "use_gpu": False, "data.save_dir": tmp_path, "train.max_epoch": 1,
        "train.precision": "fp32",
    }  # fmt: skip
    cfg = load_config(None, [str(part) for pair in keys.items() for part in pair])
    return untrained_run(cfg, tmp_path / "run")


def test_a_run_does_not_go_on_from_code(run_folder, mark, net):
    zipped(run_folder / LAST, mark, net)
    with pytest.raises(ValueError, match=r"last\.pth\.tar is no checkpoint"):
        Run.load(run_folder).train()
    with pytest.raises(ValueError, match=r"last\.pth\.tar"):
        Extractor(run_folder)


def test_a_best_model_with_code_is_replaced(run_folder, mark, net):
    state = {"state_dict": net.state_dict(), "rank1": Touch(mark)}
    (run_folder / "model").mkdir()
    torch.save(state, run_folder / "model" / "model-best.pth.tar")
    run = Run.load(run_folder)
    engine = run.engine()
    engine.start_epoch = 1  # as of a run that goes on, which looks for what was best
    engine.save_model(1, 0.5, str(run_folder))
    best = torch.load(run_folder / "model" / "model-best.pth.tar", weights_only=True)
    assert best["rank1"] == 0.5


OBJECT = '!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.PosixPath ["{mark}"]]'


def test_a_configuration_with_code_is_refused(run_folder, tmp_path, mark):
    path = tmp_path / "given.yaml"
    for text in (OBJECT, "model: {{name: " + OBJECT + "}}", "_BASE_: " + OBJECT):
        path.write_text(text.format(mark=mark))
        with pytest.raises(ConfigError, match=r"given\.yaml is not YAML"):
            load_config(path)
    text = OBJECT.format(mark=mark)
    assert load_config(None, ["model.name", text]).model.name == text
    (run_folder / "config.yaml").write_text(OBJECT.format(mark=mark))
    with pytest.raises(ConfigError, match=r"config\.yaml is not YAML"):
        Run.load(run_folder)


@pytest.mark.parametrize("name", ["features", "pid", "names", "about"])
def test_features_with_code_are_refused(name, tmp_path, mark):
    arrays = {
        "features": np.zeros((2, 3), np.float32), "names": np.array(["a", "b"]), "pid": np.zeros(2, int),
        "camid": np.zeros(2, int), "rate": np.ones(2), "low": np.zeros(2, bool), "size": np.ones((2, 2), int),
        "about": np.array(json.dumps({"format": 1})),
    }  # fmt: skip
    arrays[name] = np.array([Touch(mark), Touch(mark)], dtype=object)
    path = tmp_path / "given.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"given\.npz is not a readable feature file: .*allow_pickle"):
        FeatureSet.load(path)
    bare(path, mark, None)
    with pytest.raises(ValueError, match=r"given\.npz is not a readable feature file"):
        FeatureSet.load(path)


def test_an_index_with_code_is_refused(tmp_path, mark):
    pytest.importorskip("faiss")
    from torchreid_xres.metrics.search import GalleryIndex

    folder = tmp_path / "index"
    index = GalleryIndex(4)
    index.add(torch.randn(5, 4), cameras=np.zeros(5, int))
    index.save(folder)
    assert len(GalleryIndex.load(folder)) == 5
    for name in ("cameras.npy", "index.faiss", "about.json"):
        given = shutil.copytree(folder, tmp_path / name)
        bare(given / name, mark, None)
        with pytest.raises((ValueError, RuntimeError)):
            GalleryIndex.load(given)
    np.save(folder / "cameras.npy", np.array([Touch(mark)] * 5, dtype=object))
    with pytest.raises(ValueError, match=r"cameras\.npy is not what was written"):
        GalleryIndex.load(folder)
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"crc32": {}}))  # as an index of before
    with pytest.raises(ValueError, match="allow_pickle"):
        GalleryIndex.load(folder)


def test_a_gallery_with_code_is_refused(run_folder, tiny_root, tmp_path, mark, net):
    gallery = Gallery(tmp_path / "gallery", Extractor(run_folder))
    gallery.update(tiny_root / "query")
    # A gallery names the checkpoint it was made with; another's is read like any other.
    zipped(tmp_path / "given.pth", mark, net)
    storage = Storage(gallery.folder / DATABASE)
    with storage.changing() as changes:
        changes.make(weights=str(tmp_path / "given.pth"))
    with pytest.raises(ValueError, match=r"given\.pth"):
        Gallery(gallery.folder).make_extractor()
    with storage.changing() as changes:
        changes.make(about="[1, 2")
    with pytest.raises(ValueError, match="is not a readable gallery: what it says of its model lacks all"):
        Gallery(gallery.folder)
    with sqlite3.connect(gallery.folder / DATABASE) as database:
        database.execute("UPDATE facts SET value = ? WHERE name = 'about'", [pickle.dumps(Touch(mark))])
    with pytest.raises(ValueError, match="is not a readable gallery: what it says of itself"):
        Gallery(gallery.folder)
    bare(gallery.folder / DATABASE, mark, net)
    with pytest.raises(ValueError, match="is not a readable gallery"):
        Gallery(gallery.folder)


def test_records_with_code_are_refused(run_folder, tmp_path, mark):
    bare(tmp_path / "stages.json", mark, None)
    with pytest.raises(ValueError, match=r"stages\.json is damaged"):
        Stages(tmp_path, "key")
    bare(tmp_path / "manifest.json", mark, None)
    with pytest.raises(ValueError):
        Manifest.load(tmp_path / "manifest.json")
    bare(run_folder / "run.json", mark, None)
    with pytest.raises(ValueError):
        Run.load(run_folder)


# -- what the host reads from the net ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zipped", "script", "tarred"])
@pytest.mark.parametrize("name", ["resnet50", "osnet_x0_25"])
def test_published_weights_with_code_are_refused(name, kind, tmp_path, monkeypatch, net):
    pytest.importorskip("gdown")
    mark = tmp_path / "code ran"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = {"resnet50": "hub/checkpoints/resnet50-19c8e357.pth", "osnet_x0_25": "checkpoints/osnet_x0_25_imagenet.pth"}
    path = tmp_path / kept[name]  # as if fetched before
    path.parent.mkdir(parents=True)
    FILES[kind](path, mark, net)
    if kind != "zipped":
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(ValueError):
        host.build_model(name, 3, pretrained=True, use_gpu=False)
    assert not mark.exists()
