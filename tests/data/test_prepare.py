"""Sets written to disk: the loader's pixels, names, tables, restarts; and what a comparison finds."""

import shutil

import numpy as np
import PIL.Image
import pytest

from torchreid_xres.data import DATASETS, datasets  # noqa: F401
from torchreid_xres.data import prepare as module
from torchreid_xres.data.options import dataset_options
from torchreid_xres.data.prepare import verify_source, verify_written, write_set
from torchreid_xres.data.protocol import Manifest, file_sha256

OPTIONS = {"synthetic": True, "lr_camera": "1"}


def seen_by_loader(root, role, name="folder", **options):
    with dataset_options({name: options or OPTIONS}):
        return DATASETS.build(name, root=str(root), mode=role, transform=None, verbose=False)


@pytest.fixture(scope="module")
def source(tiny_root, tmp_path_factory):
    """The tiny set with a palette image among the queries."""
    root = tmp_path_factory.mktemp("source") / "set"
    shutil.copytree(tiny_root, root)
    first = sorted((root / "query").rglob("*.png"))[0]
    PIL.Image.open(first).convert("P").save(first)
    return root


@pytest.fixture(scope="module")
def png_set(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / "png"
    return out, write_set("folder", source, out, options=OPTIONS)


@pytest.fixture
def written(png_set, tmp_path):
    """A copy of the written set that a test may spoil."""
    shutil.copytree(png_set[0], tmp_path / "set")
    return tmp_path / "set"


def test_png_files_have_the_pixels_of_the_loader(source, png_set):
    out, done = png_set
    assert (done.found, done.psnr) == (0, None)
    assert done.unchanged == len(done.manifest.images)
    for role in ("train", "query", "gallery"):
        dataset = seen_by_loader(source, role)
        files = sorted((out / role).iterdir(), key=lambda file: file.name.split("_")[2])
        assert len(files) == len(dataset.data)
        for item, file in zip(dataset, files, strict=True):
            with PIL.Image.open(file) as img:
                assert img.mode == "RGB"
                np.testing.assert_array_equal(np.asarray(img), np.asarray(item["img"]))
    low = [image for image in done.manifest.images.values() if image["rate"] > 1]
    assert low, "an untouched set would prove nothing"


def test_names_tell_identity_and_camera(source, png_set):
    out, _ = png_set
    split = seen_by_loader(source, "query").split
    for role in ("train", "query", "gallery"):
        told = []
        for file in sorted((out / role).iterdir(), key=lambda file: file.name.split("_")[2]):
            identity, camera, _ = file.name.split("_", 2)
            told.append((int(identity), int(camera[1]) - 1))
        assert told == [(image.pid, image.camid) for image in getattr(split, role)]


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (("train", 7, 0, 3, "png"), "train/0007_c1s1_000003_00.png"),
        (("gallery", -1, 5, 12, "jpg"), "gallery/-1_c6s1_000012_00.jpg"),
        (("query", 5123, 19, 0, "png"), "query/5123_c20s1_000000_00.png"),
    ],
)
def test_written_names(args, name):
    assert module.written_name(*args) == name


def test_the_manifest_describes_the_files_and_their_sources(source, png_set):
    out, done = png_set
    manifest = Manifest.load(out / "manifest.json")
    assert manifest == done.manifest
    own = seen_by_loader(source, "query").manifest
    assert Manifest.load(out / "protocol.json") == own
    assert manifest.options["written"] == {"format": "png", "quality": None, "protocol": own.sha256}
    assert manifest.counts == own.counts
    for file, image in manifest.images.items():
        assert file_sha256(out / file) == image["sha256"]
        assert own.images[image["source"]]["rate"] == image["rate"]
    assert not (out / "unfinished.json").exists()


def test_the_table_is_read_by_the_data_set_folder(source, png_set):
    out, _ = png_set
    ours, again = seen_by_loader(source, "query"), seen_by_loader(out, "query", synthetic=False)
    assert len(again.data) == len(ours.data)
    for first, second in zip(ours, again, strict=True):
        np.testing.assert_array_equal(np.asarray(first["img"]), np.asarray(second["img"]))
        assert first["camid"] == second["camid"]
    for role in ("train", "query", "gallery"):
        kinds = [len({image.pid for image in getattr(each.split, role)}) for each in (ours, again)]
        assert kinds[0] == kinds[1]


def test_jpeg_says_what_it_costs(source, tmp_path):
    fine = write_set("folder", source, tmp_path / "fine", options=OPTIONS, suffix="jpg", quality=98)
    coarse = write_set("folder", source, tmp_path / "coarse", options=OPTIONS, suffix="jpg", quality=30)
    assert 15 < coarse.psnr < fine.psnr - 3
    ratios = []
    for role in ("train", "query", "gallery"):
        dataset = seen_by_loader(source, role)
        files = sorted((tmp_path / "coarse" / role).glob("*.jpg"), key=lambda file: file.name.split("_")[2])
        for item, file in zip(dataset, files, strict=True):
            difference = np.asarray(PIL.Image.open(file), float) - np.asarray(item["img"], float)
            ratios.append(20 * np.log10(255) - 10 * np.log10((difference**2).mean()))
    assert coarse.psnr == pytest.approx(np.mean(ratios))


def test_an_interrupted_writing_goes_on(source, tmp_path, monkeypatch):
    real, calls = module._write, []

    def stops(img, path, quality):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(path)
        return real(img, path, quality)

    monkeypatch.setattr(module, "_write", stops)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_set("folder", source, out, options=OPTIONS)
    with pytest.raises(FileNotFoundError, match="not finished"):
        verify_written(out)
    monkeypatch.setattr(module, "_write", real)
    done = write_set("folder", source, out, options=OPTIONS)
    assert done.found == 5
    assert verify_written(out) == {}


def test_written_again_only_what_is_gone_or_changed_is_made(written, source):
    files = sorted((written / "gallery").iterdir())
    files[0].unlink()
    files[1].write_bytes(b"spoiled")
    before = files[2].stat().st_mtime_ns
    done = write_set("folder", source, written, options=OPTIONS)
    assert len(done.manifest.images) - done.found == 2
    assert files[2].stat().st_mtime_ns == before
    assert verify_written(written) == {}


def test_a_folder_of_something_else_is_left_alone(written, source, tmp_path):
    with pytest.raises(ValueError, match="needs a folder of its own"):
        write_set("folder", source, written, options={**OPTIONS, "seed": 1})
    with pytest.raises(ValueError, match="needs a folder of its own"):
        write_set("folder", source, written, options=OPTIONS, suffix="jpg")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("text")
    with pytest.raises(ValueError, match="holds other files"):
        write_set("folder", source, mine, options=OPTIONS)
    assert [file.name for file in mine.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suffix": "gif"}, "no format 'gif'"),
        ({"quality": 0}, "1 to 100"),
        ({"split_id": 9}, "no split 9"),
        ({"options": {"pictures": "x"}}, "has no place here"),
        ({"options": {"kernl": "area"}}, "did you mean 'kernel'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(source, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_set("folder", source, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_named(source, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    victim = sorted((broken / "gallery").rglob("*.png"))[-1]
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(OSError, match=victim.name):
        write_set("folder", broken, tmp_path / "out", options=OPTIONS)
    assert not [file for file in (tmp_path / "out").rglob("*") if file.name.startswith(".")]


def test_a_comparison_names_missing_changed_and_extra_files(written):
    query = sorted((written / "query").iterdir())
    query[0].unlink()
    PIL.Image.new("RGB", (4, 4)).save(query[1])
    (written / "query" / "notes.txt").write_text("mine")
    (written / "query" / ".DS_Store").touch()
    (written / "more").mkdir()
    (written / "more" / "a.png").touch()
    (written / "link").symlink_to(written / "nowhere")
    names = [f"query/{file.name}" for file in query]
    assert verify_written(written) == {
        names[0]: "missing", names[1]: "changed", "query/notes.txt": "extra", "more/a.png": "extra", "link": "unseen",
    }  # fmt: skip


def test_a_comparison_of_a_set_without_images(written):
    names = {f"{role}/{file.name}" for role in ("train", "query", "gallery") for file in (written / role).iterdir()}
    for role in ("train", "query", "gallery"):
        shutil.rmtree(written / role)
    assert verify_written(written) == dict.fromkeys(names, "missing")


def test_a_damaged_manifest_is_refused(written):
    path = written / "manifest.json"
    path.write_text(path.read_text().replace('"rate": 1.0', '"rate": 2.0', 1))
    with pytest.raises(ValueError, match="states the hash"):
        verify_written(written)
    with pytest.raises(FileNotFoundError, match="no written set"):
        verify_written(written / "query")


def test_a_source_is_compared_with_the_protocol(source, png_set, tmp_path):
    protocol = Manifest.load(png_set[0] / "protocol.json")
    assert verify_source(protocol, source) == {}
    other = tmp_path / "other"
    shutil.copytree(source, other)
    first, second, *_ = sorted((other / "gallery" / "010").iterdir())
    first.unlink()
    second.write_bytes((other / "gallery" / "011" / "011_c2_0.png").read_bytes())
    shutil.copy(second, other / "gallery" / "010" / "010_c2_9.png")
    assert verify_source(protocol, other) == {
        "gallery/010/010_c2_0.png": "missing",
        "gallery/010/010_c2_1.png": "changed",
        "gallery/010/010_c2_9.png": "extra",
    }


def test_another_rate_is_named(source):
    with dataset_options({"folder": OPTIONS}):
        manifest = DATASETS.build("folder", root=str(source), mode="query", verbose=False).manifest
    name, image = next((name, image) for name, image in manifest.images.items() if image["rate"] == 4)
    manifest.images[name] = {**image, "rate": 3.0}
    assert verify_source(manifest, source) == {name: "at rate 4.0 instead of 3.0"}


def test_the_manifest_of_a_written_set_describes_no_source(source, png_set):
    with pytest.raises(ValueError, match="manifest of a written set"):
        verify_source(png_set[1].manifest, source)


@pytest.mark.slow
def test_real_queries_are_written_as_the_loader_sees_them(shared_data, tmp_path):
    done = write_set("mlr_cuhk03", shared_data, tmp_path, options={"query_rate": 3})
    assert done.manifest.counts["query"] == {"images": 479, "identities": 100, "low": 479}
    files = sorted((tmp_path / "query").iterdir(), key=lambda file: file.name.split("_")[2])
    for item, file in zip(seen_by_loader(shared_data, "query", "mlr_cuhk03", query_rate=3), files, strict=True):
        np.testing.assert_array_equal(np.asarray(PIL.Image.open(file)), np.asarray(item["img"]))
    assert verify_written(tmp_path) == {}
