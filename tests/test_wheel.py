"""What is built is whole: installed away from the checkout it has its programs, configurations and suites."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from setuptools import find_packages

# The quick start in little: its drawn people, its networks, one epoch.
SHORT = [
    "train.max_epoch", "1", "train.epoch_batches", "2", "train.batch_size", "8", "train.precision", "fp32",
    "data.height", "32", "data.width", "16", "use_gpu", "False",
    "data.options", "{synth_person: {train_identities: 4, test_identities: 2}}",
]  # fmt: skip


def test_every_folder_of_the_checkout_is_installed(repo):
    """The names in setup.py, and what of them is no Python, are those that there are."""
    text = (repo / "setup.py").read_text(encoding="utf-8")
    for name, folder in re.findall(r'"(torchreid_xres[\w.]*)": "(\w+)"', text):
        assert (repo / folder).is_dir() and name not in find_packages(repo)
    suffixes = {path.suffix for path in (repo / "configs").rglob("*.*")}
    assert suffixes == {".yaml"} and {path.name for path in (repo / "configs").iterdir() if path.is_dir()} == {"_base_"}


def test_what_torchreid_imports_without_declaring_it_is_said_in_one_place(repo):
    """Each of those is imported by it, and it declares none of them."""
    from importlib import metadata

    listed = re.search(r"^TORCHREID_IMPORTS = \[(.*?)^\]", (repo / "setup.py").read_text("utf-8"), re.DOTALL | re.M)[1]
    names = re.findall(r'"([\w-]+)', listed)
    declared = [line for line in metadata.requires("torchreid") or [] if "extra ==" not in line]
    assert len(names) == 7 and not declared
    found = Path(metadata.distribution("torchreid").locate_file("torchreid"))
    code = "\n".join(path.read_text(encoding="utf-8") for path in found.rglob("*.py"))
    imported = {"opencv-python-headless": "cv2", "tensorboard": r"torch\.utils\.tensorboard"}
    for name in names:
        assert re.search(rf"^\s*(import|from) {imported.get(name, name)}\b", code, re.MULTILINE), name


@pytest.fixture(scope="module")
def wheel(repo, tmp_path_factory):
    """The wheel, built by way of the source archive."""
    pytest.importorskip("build", reason="python -m build is not installed; it is in the extra test")
    if not (repo / ".git").exists():
        pytest.skip("no checkout: git says what belongs to the project")
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repo, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (repo / name).is_file() and not name.startswith(("tests/", "benchmarks/results/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repo / name, copy / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def xres(wheel, tmp_path_factory):
    """A function that calls the installed command, in an environment that sees this one's packages, in a new folder."""
    home, elsewhere = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere")
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if sys.platform == "win32" else "bin")
    (packages,) = [Path(path) for path in home.rglob("site-packages")]
    install = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "-q", "--no-deps", wheel]
    subprocess.run(install, check=True, timeout=300)
    seen = [path for path in sys.path if path.endswith("-packages")]
    (packages / "beside.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")

    def run(*args):
        command = [scripts / "xres", *map(str, args)]
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=elsewhere, env=env)

    run.folder, run.packages = elsewhere, packages
    return run


@pytest.mark.slow
def test_the_wheel_passes_the_indexs_check(wheel):
    pytest.importorskip("twine", reason="twine is not installed; it is in the extra test")
    made = [*wheel.parent.iterdir()]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *made], capture_output=True, text=True)
    assert done.returncode == 0 and len(made) == 2, done.stdout


@pytest.mark.slow
def test_the_installed_command_has_the_whole_product(xres, repo):
    assert all(name in xres("--help").stdout for name in ("train ", "search ", "bench "))
    listed = xres("list", "configs")
    assert listed.returncode == 0, listed.stderr
    assert all(f"| {path.stem} " in listed.stdout for path in (repo / "configs").glob("*.yaml"))
    suite = xres("bench", "--suite", "synth_person", "--list")
    assert suite.returncode == 0 and "bicubic: front end" in suite.stdout, suite.stderr
    assert not list(xres.packages.rglob("results"))


@pytest.mark.slow
def test_the_quick_start_begins_away_from_the_checkout(xres):
    done = xres("train", "--config-file", "quickstart", "--json", "end.json", *SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("next: xres report log/quickstart/")
    assert (xres.folder / "end.json").is_file() and (xres.folder / "log" / "quickstart" / "config.yaml").is_file()
