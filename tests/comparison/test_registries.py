import pytest
import yaml

from torchreid_xres.comparison.registries import KINDS, data_set_at, inventory, registry_table
from torchreid_xres.models import MODELS
from torchreid_xres.sr import FRONT_ENDS


def by_name(kind, root, configs):
    return {row["name"]: row for row in inventory(kind, root, configs)}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "configs"])
def test_rows_of_a_kind_have_the_same_keys_and_no_gaps(kind, tmp_path, repo):
    rows = inventory(kind, tmp_path, repo / "configs")
    assert rows and len({tuple(row) for row in rows}) == 1
    assert all(str(value).strip() for row in rows for value in row.values()), "a dash where there is nothing"


def test_models_are_ours_and_torchreids(tmp_path):
    rows = by_name("models", tmp_path, tmp_path)
    assert set(MODELS) <= set(rows) and rows["kgnet"]["engine"] == "KGNetEngine"
    assert rows["osnet_x0_25"]["source"] == "torchreid"


def test_losses_are_found_with_their_papers(tmp_path):
    rows = by_name("losses", tmp_path, tmp_path)
    assert rows["batch_hard_triplet"]["module"] == "losses.batch_hard"
    assert "Hermans" in rows["batch_hard_triplet"]["source"]
    assert "Tensor" not in rows and "permutations" not in rows  # what the modules import is no loss


def test_a_data_set_is_looked_for_and_nothing_is_written(tmp_path):
    rows = by_name("data-sets", tmp_path, tmp_path)
    assert rows["mlr_market1501"]["on disk"].startswith("not found: looked for the folders market1501/")
    assert rows["mlr_dukemtmcreid"]["terms"].startswith("withdrawn")
    assert rows["synth_person"]["on disk"] == "draws itself on first use"
    assert not any(tmp_path.iterdir())


def test_a_partial_data_set_is_told_from_none(tmp_path):
    folder = tmp_path / "vehicle_2cam"
    (folder / "images").mkdir(parents=True)
    for name in ("train.txt", "val.txt"):
        (folder / name).write_text("car_1_cam1.jpg\ncar_1_cam2.jpg\n")
        (folder / "images" / "car_1_cam1.jpg").write_bytes(b"")
    assert data_set_at("vehicle2cam", tmp_path).startswith("unusable: ")


def test_the_cuhk03_archive_is_not_unpacked_by_looking(tmp_path):
    archive = tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"MATLAB")
    assert data_set_at("mlr_cuhk03", tmp_path) == f"archive in {archive.parent}, unpacked on first use"


def test_real_sets_are_counted(shared_data):
    assert data_set_at("vehicle2cam", shared_data).startswith("810 train + 102 query + 102 gallery images in ")


def test_configurations_say_what_they_need(tmp_path, repo):
    config = {
        "model": {"name": "sr_reid", "reid_weights": "{root}/weights/there.pth"},
        "sr": {"name": "fsrcnn", "weights": "{root}/weights/missing.pth"},
        "data": {"sources": ["vehicle2cam"], "targets": ["vehicle2cam"], "height": 64, "width": 32},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "there.pth").write_bytes(b"")
    row = by_name("configs", tmp_path, tmp_path)["mine"]
    assert (row["method"], row["front end"], row["input"]) == ("sr_reid", "fsrcnn", "64x32")
    assert row["needs"].split(", ") == [
        "the set vehicle2cam", "{root}/weights/there.pth", "{root}/weights/missing.pth (missing)",
    ]  # fmt: skip
    rows = by_name("configs", tmp_path, repo / "configs")
    assert rows["quickstart"]["needs"] == "nothing" and rows["quickstart"]["data set"] == "synth_person"
    assert rows["prpr_quickstart"]["method"] == "prpr" and "fuse" in rows["prpr_quickstart"]["stages"]
    assert set(rows) == {path.stem for path in (repo / "configs").glob("*.yaml")}
    with pytest.raises(NotADirectoryError, match="no folder of configurations"):
        inventory("configs", tmp_path, tmp_path / "none")


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(KeyError, match="there is no list of 'model'; there are: models, "):
        inventory("model", tmp_path, tmp_path)


def test_the_readmes_table_is_the_same_registry():
    lines = registry_table("front ends").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(FRONT_ENDS)
