"""The host's data: each fault on the bare host, and its cure."""

import io
import json
import pickle
import shutil
import sys
import tarfile
import urllib.error
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from torchreid_xres import host
from torchreid_xres.host_mends import bare_host
from torchreid_xres.host_mends.data import TRANSFORMS


def truncated(folder):
    path = folder / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (32, 16, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    return path


@pytest.mark.mend("read-image")
def test_truncated_jpeg(tmp_path, monkeypatch):
    path = truncated(tmp_path)
    tools = host.module("utils.tools")
    tries = Counter()

    def patience(text):
        tries[text] += 1
        if tries[text] >= 50:
            raise TimeoutError

    monkeypatch.setattr(tools, "print", patience, raising=False)
    with bare_host(), pytest.raises(TimeoutError):
        tools.read_image(str(path))
    for reader in (tools, host.torchreid.utils, host.module("data.datasets.dataset")):
        with pytest.raises(OSError, match=r"cut\.jpg"):
            reader.read_image(str(path))


@pytest.mark.mend("loader-workers")
def test_a_pickled_data_set_brings_the_mends_along(tiny):
    dataset = host.ImageDataset(tiny.train, tiny.query, tiny.query, verbose=False)
    with bare_host():
        assert b"torchreid_xres" not in pickle.dumps(dataset)
    content = pickle.dumps(dataset)
    assert b"torchreid_xres.host_mends" in content
    assert vars(pickle.loads(content)) == vars(dataset)


@pytest.mark.slow
def test_spawned_workers_are_mended(tmp_path):
    items = [(str(truncated(tmp_path)), 0, 0)] * 4
    dataset = host.ImageDataset(items, items, items, verbose=False)
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, multiprocessing_context="spawn", timeout=120)
    batches = iter(loader)
    with pytest.raises(OSError, match=r"cut\.jpg"):  # a bare worker would never answer
        next(batches)
    batches._shutdown_workers()


@pytest.mark.mend("sum-of-sets")
def test_sum_keeps_the_members_getitem_and_k_tfm(tiny):
    class Extra(tiny.cls):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "extra": index}

    def summed():
        return sum([Extra(transform=lambda image: image, k_tfm=2, verbose=False) for _ in range(2)])

    with bare_host():
        bare = summed()
        assert "extra" not in bare[17] and not isinstance(bare[17]["img"], list)
    total = summed()
    assert len(total) == len(bare) and total.num_train_pids == bare.num_train_pids == 8
    assert total[17]["extra"] == 1 and len(total[17]["img"]) == 2
    for one, other in ((total[0], bare[0]), (total[17], bare[17])):
        assert all(one[key] == other[key] for key in ("pid", "camid", "dsetid", "impath"))


def test_sum_of_video_sets_stays_the_hosts(tiny):
    tracklets = [((path,), pid, cam) for path, pid, cam in tiny.train]
    video_set = host.torchreid.data.VideoDataset
    video = video_set(tracklets, tracklets, tracklets, transform=lambda image: image, verbose=False)
    assert type(video + video) is video_set


@pytest.mark.mend("transform-names")
def test_unknown_transform(tiny):
    with bare_host():
        steps = tiny.manager(transforms=["random_flp"]).transform_tr.transforms
        assert len(steps) == 3  # resize, tensor, normalise: nothing random
    with pytest.raises(ValueError, match=r"'random_flp'; did you mean 'random_flip'\? There are: random_"):
        tiny.manager(transforms=["random_flp"])
    for known in ("Random_Flip", list(TRANSFORMS), None, []):
        tiny.manager(transforms=known)
    build = host.module("data.transforms").build_transforms
    assert build(8, 4, "random_flip", [0.5] * 3, [0.5] * 3)[1].transforms[-1].mean == [0.5] * 3


@pytest.mark.mend("empty-epochs")
def test_training_set_smaller_than_a_batch(tiny, tmp_path):
    with bare_host():
        manager = tiny.manager(batch_size_train=17)
        assert len(list(manager.train_loader)) == 0
    with pytest.raises(ValueError, match=r"tiny has 16 images.*batch_size_train=17.*batch_size_train <= 16"):
        tiny.manager(batch_size_train=17)
    assert len(tiny.manager(batch_size_train=16).train_loader) == 1


def test_target_training_set_smaller_than_a_batch(tiny, monkeypatch):
    class Small(tiny.cls):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.train = self.data = self.train[:5] if self.mode == "train" else self.data

    monkeypatch.setitem(getattr(host.module("data.datasets"), "__image_datasets"), "small", Small)
    with pytest.raises(ValueError, match="small has 5 images"):
        tiny.manager(targets="small", load_train_targets=True)


@pytest.mark.mend("identity-sampler")
def test_too_few_identities_for_a_batch(tiny):
    settings = {"train_sampler": "RandomIdentitySampler", "batch_size_train": 10, "num_instances": 2}
    with bare_host(), pytest.raises(AssertionError) as fault:
        tiny.manager(**settings)
    assert not str(fault.value.args)[1:-1]  # not a word
    with pytest.raises(ValueError, match=r"needs 5 identities; the training set has 4\. Take batch_size_train <= 8"):
        tiny.manager(**settings)


@pytest.mark.mend("group-samplers")
@pytest.mark.parametrize(
    "sampler, option", [("RandomDomainSampler", "num_cams"), ("RandomDatasetSampler", "num_datasets")]
)
def test_groups_that_do_not_divide_the_batch(tiny, sampler, option):
    settings = {"train_sampler": sampler, "batch_size_train": 8, option: 3}
    with bare_host(), pytest.raises(AssertionError):
        tiny.manager(**settings)
    with pytest.raises(ValueError, match=f"{sampler} .*batch_size=8 is not a multiple of 3"):
        tiny.manager(**settings)
    tiny.manager(train_sampler="RandomDomainSampler", num_cams=2)


@pytest.mark.mend("download")
def test_failed_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def no_route(url, path):
        Path(path).write_bytes(b"half an archive")
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(host.module("data.datasets.dataset"), "download_url", no_route)
    viper = host.module("data.datasets.image.viper").VIPeR
    with bare_host():
        with pytest.raises(urllib.error.URLError):
            viper(root=str(tmp_path / "bare"))
        with pytest.raises(RuntimeError, match='cam_a" is not found'):
            viper(root=str(tmp_path / "bare"))
    (tmp_path / "mended" / "viper").mkdir(parents=True)  # as an earlier try left it
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"VIPeR is not at .*fetched from http.*no route.*by hand"):
            viper(root=str(tmp_path / "mended"))
        assert not (tmp_path / "mended" / "viper").exists()


def served(path, *names, links=()):
    """Pack members, and links (name, target), into an archive; return the address from which it is fetched."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "content")
        return path.as_uri()
    with tarfile.open(path, "w:gz") as archive:
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 7
            archive.addfile(member, io.BytesIO(b"content"))
    return path.as_uri()


@pytest.mark.mend("download")
@pytest.mark.parametrize(
    "names, links, reason",
    [
        (["VIPeR/a.bmp", "../../ESCAPED"], [], "ESCAPED' leads out of the folder"),
        (["VIPeR/a.bmp", "out/ESCAPED"], [("out", "../..")], "'out' is neither a file nor a folder"),
    ],
)
def test_a_served_archive_writes_nothing_outside_the_sets_folder(tmp_path, monkeypatch, names, links, reason):
    viper = host.module("data.datasets.image.viper").VIPeR
    monkeypatch.setattr(viper, "dataset_url", served(tmp_path / "VIPeR.tgz", *names, links=links))
    if sys.version_info < (3, 14):  # from then on tarfile refuses by itself
        with bare_host(), pytest.raises(RuntimeError, match="is not found"):
            viper(root=str(tmp_path / "bare" / "root"))
        assert (tmp_path / "bare" / "ESCAPED").exists()
    with pytest.raises(RuntimeError, match=rf"VIPeR is not at .*fetched from file.*{reason}.*that you trust"):
        viper(root=str(tmp_path / "mended" / "root"))
    assert not list((tmp_path / "mended").rglob("*ESCAPED*")) and not any((tmp_path / "mended" / "root").iterdir())


@pytest.mark.parametrize("name", ["VIPeR.v1.0.zip", "VIPeR.tar.gz"])
def test_a_downloaded_set_is_where_the_bare_host_has_it(tmp_path, monkeypatch, name):
    names = [f"VIPeR/cam_{cam}/{pid:03d}_0.bmp" for cam in "ab" for pid in range(4)]
    viper = host.module("data.datasets.image.viper").VIPeR
    monkeypatch.setattr(viper, "dataset_url", served(tmp_path / name, *names))
    with bare_host():
        viper(root=str(tmp_path / "bare"), verbose=False)
    viper(root=str(tmp_path / "mended"), verbose=False)
    bare, mended = ([p.relative_to(r) for p in sorted(r.rglob("*"))] for r in (tmp_path / "bare", tmp_path / "mended"))
    assert bare == mended and Path("viper", name) in mended and len(mended) == 14


def test_sets_without_a_download_and_users_files_are_left_alone(tmp_path):
    cuhk03 = host.module("data.datasets.image.cuhk03").CUHK03
    with pytest.raises(RuntimeError, match="manually prepared"):
        cuhk03(root=str(tmp_path))
    (tmp_path / "cuhk03").mkdir()
    (tmp_path / "cuhk03" / "mine").write_text("keep", encoding="utf-8")
    with pytest.raises(RuntimeError, match="is not found"):
        cuhk03(root=str(tmp_path))
    assert (tmp_path / "cuhk03" / "mine").exists()


def make_viper(root):
    for cam in ("cam_a", "cam_b"):
        folder = root / "viper" / "VIPeR" / cam
        folder.mkdir(parents=True)
        for pid in range(4):
            PIL.Image.new("RGB", (8, 16), (60 * pid, 0, 0)).save(folder / f"{pid:03d}_0.bmp")
    return host.module("data.datasets.image.viper").VIPeR(root=str(root), verbose=False)


def moved(root):
    new = root.with_name(f"{root.name}_moved")
    shutil.move(root, new)
    return host.module("data.datasets.image.viper").VIPeR(root=str(new), verbose=False)


@pytest.mark.mend("read-splits")
def test_moved_folder_with_the_bare_hosts_split_file(tmp_path):
    with bare_host():
        make_viper(tmp_path / "set")
        with pytest.raises(OSError, match="does not exist"):
            moved(tmp_path / "set")[0]
    shutil.move(tmp_path / "set_moved", tmp_path / "set")
    dataset = moved(tmp_path / "set")
    assert len(dataset) == 4 and dataset[0]["img"].size == (8, 16)
    assert Path(dataset.train[0][0]) == next((tmp_path / "set_moved").rglob(Path(dataset.train[0][0]).name))


@pytest.mark.mend("write-splits")
def test_new_split_files_hold_relative_paths(tmp_path):
    with bare_host():
        bare = make_viper(tmp_path / "bare")
        assert str(tmp_path) in (tmp_path / "bare" / "viper" / "splits.json").read_text(encoding="utf-8")
    np.random.seed(0)
    made = make_viper(tmp_path / "set")
    text = (tmp_path / "set" / "viper" / "splits.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and '"./VIPeR/cam_a/000_0.bmp"' in text
    np.random.seed(0)
    with bare_host():
        again = make_viper(tmp_path / "again")
    assert [i[1:] for i in made.train] == [i[1:] for i in again.train] == [i[1:] for i in bare.train]
    assert [Path(i[0]).name for i in made.train] == [Path(i[0]).name for i in again.train]
    assert moved(tmp_path / "set")[0]["img"].size == (8, 16)
    assert not list((tmp_path / "set_moved" / "viper").glob(".*"))


def test_cuhk03_split_file_from_elsewhere(tmp_path):
    folder = tmp_path / "cuhk03"
    for name in ("images_detected", "images_labeled", "cuhk03_release"):
        (folder / name).mkdir(parents=True)
    for name in ("detected", "labeled"):
        (folder / f"cuhk03_new_protocol_config_{name}.mat").touch()
    (folder / "cuhk03_release" / "cuhk-03.mat").touch()
    PIL.Image.new("RGB", (8, 16)).save(folder / "images_detected" / "1_001_1_01.png")
    stored = {
        "linux": "/old/place/cuhk03/images_detected/1_001_1_01.png",
        "windows": "D:\\old\\cuhk03\\images_detected\\1_001_1_01.png",
    }
    for text in stored.values():
        items = [[text, 0, 0]]
        split = [{"train": items, "query": items, "gallery": items, "num_train_pids": 1}]
        for name in ("classic_detected", "classic_labeled", "new_detected", "new_labeled"):
            (folder / f"splits_{name}.json").write_text(json.dumps(split), encoding="utf-8")
        dataset = host.module("data.datasets.image.cuhk03").CUHK03(root=str(tmp_path), verbose=False)
        assert dataset[0]["img"].size == (8, 16)


def test_only_paths_of_images_are_changed(tmp_path):
    viper = host.module("data.datasets.image.viper")
    content = {"name": "cam_a", "gone": "/nowhere/x.bmp", "other": str(tmp_path.parent / "x"), "n": [1, 2.5, None]}
    viper.write_json(content, tmp_path / "a.json")
    assert viper.read_json(tmp_path / "a.json") == content
    with bare_host():
        bare = host.torchreid.utils.write_json
    assert host.torchreid.utils.write_json is bare  # a user's own JSON files are no business of ours
