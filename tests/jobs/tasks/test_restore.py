"""Writing pyramids: what is written, when it is written again, and what a stop at any point leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_xres import files, host
from torchreid_xres.config import ConfigError
from torchreid_xres.data.base import dataset_options
from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.jobs.tasks import restore as stage
from torchreid_xres.jobs.tasks.restore import DONE, LEVELS, write_pyramids
from torchreid_xres.sr.pyramid import PyramidRestorer

SIZES = {"train": [(12, 6), (8, 5)], "query": [(12, 6), (9, 7)], "gallery": [(12, 6), (16, 8)]}


@pytest.fixture
def root(tmp_path):
    """Two identities each in train and test, two cameras, one picture each: eight pictures of several sizes."""
    generator = np.random.default_rng(0)
    for role, camera in (("train", 1), ("train", 2), ("query", 1), ("gallery", 2)):
        for number, size in enumerate(SIZES[role]):
            identity = number + (10 if role == "train" else 20)
            path = tmp_path / "set" / role / str(identity) / f"{identity}_c{camera}_0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)
    return tmp_path / "set"


def folder_set(root, **options):
    with dataset_options({"folder": {"synthetic": True, "lr_camera": "1"}, "*": {"rates": [2, 3], **options}}):
        return host.init_image_dataset("folder", root=str(root), mode="gallery", verbose=False)


@pytest.fixture
def model():
    restorer = PyramidRestorer("light", {"features": 4, "blocks": 1}, head_features=4).eval()
    for head in restorer.heads.values():
        torch.nn.init.normal_(head[-1].weight, std=0.1)  # away from bicubic
    restorer.restored = 0
    restorer.register_forward_pre_hook(lambda net, args: setattr(net, "restored", net.restored + len(args[0])))
    return restorer


def write(model, root, folder, **options):
    """Write the pyramids and return the facts, with how many images went through the network."""
    model.restored = 0
    facts = write_pyramids(model, {"folder": folder_set(root, **options)}, folder)
    assert model.restored == facts["restored"]
    return facts


def pictures(folder):
    return {
        str(path.relative_to(folder)): np.asarray(Image.open(path)).astype(int)
        for path in sorted(folder.rglob("*.png"))
    }


def same(a, b):
    """Up to a grey level: batches of another size may round otherwise."""
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and abs(a[n] - b[n]).max() <= 1 for n in a)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_becomes_four_pictures(root, tmp_path, model, workers):
    dataset = folder_set(root)
    facts = write_pyramids(model, {"folder": dataset}, tmp_path / "out", workers=workers)
    assert facts["images"] == facts["restored"] == 8 and facts["seconds_per_1000"] > 0
    assert len(pictures(tmp_path / "out")) == 8 * len(LEVELS)
    assert sum(rate > 1 for rate in dataset.rate_of.values()) == 4
    for name, image in dataset.manifest.images.items():
        seen = degrade_image(dataset.read(str(Path(dataset.split.folder, name))), image["rate"])
        x1, *restored = (np.asarray(Image.open(tmp_path / "out" / level / f"{name}.png")) for level in LEVELS)
        assert (x1 == np.asarray(seen)).all()
        with torch.no_grad():
            expected = model(torch.from_numpy(x1.copy()).permute(2, 0, 1)[None] / 255)
        for picture, truth in zip(restored, expected, strict=True):
            assert abs(picture - 255 * truth[0].permute(1, 2, 0).numpy()).max() < 0.51


def test_images_of_one_size_share_a_batch(root, tmp_path, model, monkeypatch):
    batches = []
    model.register_forward_pre_hook(lambda net, args: batches.append(tuple(args[0].shape)))
    write(model, root, tmp_path / "a", rates=[2])
    assert len(batches) == len({shape[2:] for shape in batches})
    batches.clear()
    monkeypatch.setattr(stage, "BATCH_PIXELS", 1)
    write(model, root, tmp_path / "b", rates=[2])
    assert [shape[0] for shape in batches] == 8 * [1]
    assert same(pictures(tmp_path / "a"), pictures(tmp_path / "b"))


def test_nothing_is_restored_twice(root, tmp_path, model):
    out = tmp_path / "out"
    write(model, root, out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    facts = write(model, root, out)
    assert facts["restored"] == 0 and facts["seconds_per_1000"] is None
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}


def test_a_changed_file_is_restored_again_and_no_other(root, tmp_path, model):
    out = tmp_path / "out"
    write(model, root, out)
    before = pictures(out)
    changed = root / "gallery" / "20" / "20_c2_0.png"
    Image.fromarray(np.full((10, 6, 3), 90, np.uint8)).save(changed)
    assert write(model, root, out)["restored"] == 1
    after = pictures(out)
    differ = {name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()}
    assert differ == {f"{level}/gallery/20/20_c2_0.png.png" for level in LEVELS}
    assert after["x3/gallery/20/20_c2_0.png.png"].shape == (30, 18, 3)


def test_another_rate_kernel_precision_or_restorer_is_another_pyramid(root, tmp_path, model):
    out = tmp_path / "out"
    write(model, root, out, rates=[2])
    assert write(model, root, out, rates=[3])["restored"] == 4  # the low half
    assert write(model, root, out, rates=[3], kernel="bicubic")["restored"] == 8
    with torch.no_grad():
        model.heads["x4"][-1].bias[0] += 0.5
    assert write(model, root, out, rates=[3], kernel="bicubic")["restored"] == 8
    bf16 = write_pyramids(model, {"folder": folder_set(root, rates=[3], kernel="bicubic")}, out, precision="bf16")
    assert bf16["restored"] == 8


def test_a_missing_picture_is_written_again(root, tmp_path, model):
    out = tmp_path / "out"
    write(model, root, out)
    whole = pictures(out)
    (out / "x3" / "query" / "21" / "21_c1_0.png.png").unlink()
    assert write(model, root, out)["restored"] == 1
    assert same(pictures(out), whole)


class StopHereError(Exception):
    pass


def stop_at(monkeypatch, point):
    """Let the ``point``-th file that is put in its place fail instead."""
    real, calls = files.os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == point:
            raise StopHereError
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)


@pytest.mark.parametrize("point", range(1, 34))  # the record, then eight images of four pictures
def test_a_stop_at_any_file_is_made_good_by_the_next_call(root, tmp_path, model, monkeypatch, point):
    write(model, root, tmp_path / "whole")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_at(patch, point)
        with pytest.raises(StopHereError):
            write(model, root, out)
    done = len((out / DONE).read_text().splitlines()) if (out / DONE).exists() else 0
    assert done >= (point - 2) // 4 if point > 1 else done == 0
    for name, picture in pictures(out).items():  # no file is half of one
        assert picture.shape == pictures(tmp_path / "whole")[name].shape
    assert write(model, root, out)["restored"] == 8 - done
    assert same(pictures(out), pictures(tmp_path / "whole"))


def test_a_record_that_was_cut_short_anywhere_is_made_good(root, tmp_path, model):
    out = tmp_path / "out"
    write(model, root, out)
    whole, record = pictures(out), (out / DONE).read_bytes()
    for cut in range(0, len(record) + 1, 37):
        (out / DONE).write_bytes(record[:cut])
        # A line that lacks nothing but its end is whole.
        assert write(model, root, out)["restored"] == 8 - (record[:cut] + b"\n").count(b'"}\n')
        assert same(pictures(out), whole)
        assert len((out / DONE).read_text().splitlines()) == 8


def test_a_record_with_an_altered_byte_is_made_good(root, tmp_path, model):
    out = tmp_path / "out"
    write(model, root, out)
    whole, record = pictures(out), (out / DONE).read_bytes()
    (out / DONE).write_bytes(record[:20] + b"\xff" + record[21:])
    assert write(model, root, out)["restored"] == 1
    assert same(pictures(out), whole)


def test_a_stop_on_the_way_to_another_file_and_back_is_noticed(root, tmp_path, model, monkeypatch):
    out, file = tmp_path / "out", root / "gallery" / "21" / "21_c2_0.png"
    write(model, root, out)
    whole = pictures(out)
    shutil.copy(file, tmp_path / "kept.png")
    Image.fromarray(np.full((16, 8, 3), 90, np.uint8)).save(file)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)  # the record, x1, x2
        with pytest.raises(StopHereError):
            write(model, root, out)
    assert not same(pictures(out), whole)
    shutil.copy(tmp_path / "kept.png", file)
    assert write(model, root, out)["restored"] == 1
    assert same(pictures(out), whole)


def test_two_sets_with_images_of_one_name_are_refused(root, tmp_path, model):
    shutil.copytree(root, tmp_path / "other")
    sets = {"folder": folder_set(root), "other": folder_set(tmp_path / "other")}
    with pytest.raises(ValueError, match=r"both have an image 'train/10/10_c1_0\.png'"):
        write_pyramids(model, sets, tmp_path / "out")


def test_an_unreadable_image_is_named_and_the_rest_kept(root, tmp_path, model):
    # Its header is whole, so it fails only when its turn comes.
    file = max(root.rglob("*.png"), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match=file.name):
        write(model, root, tmp_path / "out")
    file.write_bytes(content)
    write(model, root, tmp_path / "out")
    assert len(pictures(tmp_path / "out")) == 32


TINY_RESTORER = {"trunk": "light", "trunk_options": {"features": 4, "blocks": 1}, "head_features": 4}
STAGES = {
    "restorer": {
        "model": {"name": "prpr_restorer", "options": TINY_RESTORER},
        "data": {"transforms": ["random_flip"]},
        "train": {"batch_size": 4},
    },
    "pyramid": {
        "task": "restore",
        "model": {
            "name": "prpr_restorer",
            "options": TINY_RESTORER,
            "load_weights": "{restorer}/last.pth.tar",
        },
    },
    "x2": {"model": {"name": "tiny_net"}, "data": {"pictures": "{pyramid}/x2"}},
}


def test_the_stages_of_a_job_train_restore_and_train_on_a_level(tiny_config):
    cfg = tiny_config(train__max_epoch=1, train__epoch_batches=2, data__pairs=False, stages=STAGES)
    records = run_job(cfg)
    psnr, restored, level = records
    assert psnr["stage"] == "restorer" and "psnr_x4" in psnr
    assert restored["task"] == "restore" and restored["images"] == restored["restored"] == 84
    assert level["stage"] == "x2" and "rank1" in level
    assert json.loads(json.dumps(restored)) == restored
    folder = Path(cfg.data.save_dir) / "split0" / cfg.model.name / "pyramid"
    assert Image.open(folder / "x2" / "gallery" / "008" / "008_c2_0.png.png").size == (64, 128)
    dataset = own_runs(cfg, 0, Path(cfg.data.save_dir))[2].datamanager().train_loader.dataset
    assert dataset[0]["size"].tolist() in ([[64, 32], [42, 20], [32, 16], [128, 64]])


@pytest.mark.parametrize("changes", [{"model__name": "prpr_restorer"}, {"model__load_weights": "w.pth"}])
def test_the_task_needs_a_restorer_and_its_weights(tiny_config, changes):
    with pytest.raises(ConfigError, match=r"needs model\.name prpr_restorer and its weights"):
        run_job(tiny_config(task="restore", data__pairs=False, **changes))


def test_weights_of_another_restorer_are_refused(tiny_config, tmp_path):
    torch.save(PyramidRestorer("light", head_features=4).state_dict(), tmp_path / "w.pth")
    options = {**TINY_RESTORER, "head_features": 5}
    cfg = tiny_config(
        task="restore", model__name="prpr_restorer", model__options=options, model__load_weights=str(tmp_path / "w.pth")
    )
    with pytest.raises(ValueError, match=r"w\.pth does not fit PyramidRestorer"):
        run_job(cfg)
