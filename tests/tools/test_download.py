"""tools/download.py, as a user calls it; nothing here touches a network."""



from torchreid_xres.data.catalogue import catalogue
from torchreid_xres.data.protocol import file_sha256


def test_the_list_shows_offers_and_the_sets_to_be_asked_for(run_tool):
    status, shown, _ = run_tool("list")
    assert status == 0
    for name in catalogue():
        assert f"| {name} " in shown
    assert shown.rstrip().splitlines()[-2].startswith("Sets that are not fetched")
    assert "mlr_market1501" in shown


def test_a_set_under_agreement_is_explained_not_fetched(run_tool, tmp_path):
    status, shown, _ = run_tool("get", "mlr_market1501", "--root", tmp_path)
    assert status == 1
    for told in ("academic research only", "Market-1501-v15.09.15", "http://www.liangzheng.org"):
        assert told in shown
    status, shown, _ = run_tool("get", "mlr_dukemtmcreid", "--root", tmp_path)
    assert status == 1 and "withdrawn by its authors" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_checked(run_tool, tmp_path, shared_data):
    folder = tmp_path / "weights"
    folder.mkdir()
    name = "osnet_x0_25_msmt17"
    held = shared_data / "weights" / f"{name}.pth"
    (folder / held.name).write_bytes(held.read_bytes())
    status, shown, _ = run_tool("get", name, "--weights", folder)
    assert status == 0
    assert "was there" in shown and "model.reid_weights" in shown and f"{file_sha256(held)}, as published" in shown
    (folder / held.name).write_bytes(b"spoilt")
    status, _, error = run_tool("get", name, "--weights", folder)
    assert status == 2 and error.startswith("DownloadError: ") and "remove it" in error


def test_one_failure_does_not_stop_the_others(run_tool, tmp_path):
    (tmp_path / "fsrcnn_x2.pth").write_bytes(b"spoilt")
    status, shown, error = run_tool("get", "resnet51", "fsrcnn_x2", "synth_person", "--weights", tmp_path)
    assert status == 2
    assert "nothing is named 'resnet51'" in error and "fsrcnn_x2.pth" in error
    assert "nothing to get" in shown
