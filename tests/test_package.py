"""What a new user meets first: the import and the host's own calls."""

import importlib
import subprocess
import sys

import pytest

import torchreid_xres
from torchreid_xres import host
from torchreid_xres.data import DATASETS
from torchreid_xres.models import MODELS


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_import_is_silent_and_plain_torchreid_calls_see_everything():
    done = run_python(
        "import torchreid_xres, torchreid\n"
        "model = torchreid.models.build_model('sr_reid', pretrained=False)\n"
        "names = torchreid.data.datasets.__dict__['__image_datasets']\n"
        "assert {'mlr_market1501', 'vehicle2cam', 'market1501'} <= set(names)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_again_changes_nothing():
    models, reader = dict(host.model_factory()), host.init_image_dataset
    importlib.reload(torchreid_xres)
    assert set(host.model_factory()) == set(models) and host.init_image_dataset is reader


def test_all_that_is_registered_reaches_the_host():
    table = vars(host.module("data.datasets"))["__image_datasets"]
    assert all(table[name] is DATASETS[name].build for name in DATASETS)
    assert set(MODELS) <= set(host.model_factory())


def test_a_name_of_the_hosts_zoo_is_never_replaced():
    with pytest.raises(ValueError, match="torchreid has a model 'resnet50' already"):
        host.register_model("resnet50", lambda **kwargs: None)
