import json

import pytest


def test_everything_is_listed(run_tool, tmp_path):
    code, shown, said = run_tool("--root", tmp_path)
    assert code == 0 and not said
    for name in ("kgnet", "osnet_x1_0", "vdsr_ca", "mlr_market1501", "mutual_kl", "quickstart", "read-splits"):
        assert f"| {name} " in shown, name


def test_some_of_it_as_a_table_and_as_json(run_tool, tmp_path):
    code, shown, _ = run_tool("models", "--match", "PRPR", "--width", 80)
    assert code == 0 and shown.startswith("models: 2\n")
    file = tmp_path / "new" / "models.json"
    assert run_tool("models", "losses", "--json", file)[0] == 0
    assert set(json.loads(file.read_text())) == {"models", "losses"}
    code, shown, _ = run_tool("models", "--match", "PRPR", "--json", "-")
    assert [row["name"] for row in json.loads(shown)["models"]] == ["prpr", "prpr_restorer"]


def test_nothing_that_matches_is_said(run_tool):
    assert run_tool("losses", "--match", "no such text") == (
        0, "losses: 0\n\n\nnext: xres train --config-file NAME loss.name LOSS\n", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    "args, message",
    [
        (("model",), "KeyError: there is no list of 'model'"),
        (("configs", "--configs", "nowhere"), "NotADirectoryError: there is no folder of configurations nowhere"),
    ],
)
def test_a_users_mistake_is_one_message(run_tool, args, message):
    code, _, said = run_tool(*args)
    assert code == 2 and said.startswith(message) and "Traceback" not in said
