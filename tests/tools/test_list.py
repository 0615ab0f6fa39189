import importlib.util
import json

import pytest


@pytest.fixture
def tool(repo, capsys):
    """Run the tool's main in this process and return its exit code and what it printed."""
    spec = importlib.util.spec_from_file_location("list_tool", repo / "tools" / "list.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*args):
        code = module.main([str(arg) for arg in args])
        return code, *capsys.readouterr()

    return run


def test_everything_is_listed(tool, tmp_path):
    code, shown, said = tool("--root", tmp_path)
    assert code == 0 and not said
    for name in ("kgnet", "osnet_x1_0", "vdsr_ca", "mlr_market1501", "mutual_kl", "quickstart", "read-splits"):
        assert f"| {name} " in shown, name


def test_some_of_it_as_a_table_and_as_json(tool, tmp_path):
    code, shown, _ = tool("models", "--match", "PRPR", "--width", 80)
    assert code == 0 and shown.startswith("models: 2\n")
    file = tmp_path / "new" / "models.json"
    assert tool("models", "losses", "--json", file)[0] == 0
    assert set(json.loads(file.read_text())) == {"models", "losses"}
    code, shown, _ = tool("models", "--match", "PRPR", "--json", "-")
    assert [row["name"] for row in json.loads(shown)["models"]] == ["prpr", "prpr_restorer"]


def test_nothing_that_matches_is_said(tool):
    assert tool("losses", "--match", "no such text") == (0, "losses: 0\n\n\n", "")


@pytest.mark.parametrize(
    "args, message",
    [
        (("model",), "KeyError: there is no list of 'model'"),
        (("configs", "--configs", "nowhere"), "NotADirectoryError: there is no folder of configurations nowhere"),
    ],
)
def test_a_users_mistake_is_one_message(tool, args, message):
    code, _, said = tool(*args)
    assert code == 2 and said.startswith(message) and "Traceback" not in said
