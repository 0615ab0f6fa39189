"""The extractor gives the features of an evaluation, takes pictures of every kind, and says what it cannot take."""

import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.config import ConfigError
from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.data.io import read_image
from torchreid_xres.engine.base import LAST
from torchreid_xres.engine.extraction import run_features
from torchreid_xres.inference import Extractor
from torchreid_xres.inference.extractor import native_rate
from torchreid_xres.models import MODELS

# What they make is no feature of an identity.
RESTORERS = {"prpr_restorer", "dgrl_restorer", "hourglass_vehicle20"}


def test_every_registered_model_is_tried(methods):
    assert set(methods) | RESTORERS == {*MODELS, "osnet_x0_25"}


def test_features_are_those_of_the_evaluation(method, methods, run_of, tiny_root):
    folder = run_of(method)
    expected = run_features(folder, ("query", "gallery"))
    by_size = Extractor(folder, full_size=(64, 32), batch_size=5)
    told = Extractor(folder, batch_size=18)
    for role, found in expected.items():
        pictures = [
            degrade_image(read_image(tiny_root / name), rate)
            for name, rate in zip(found.names, found.rate.tolist(), strict=True)
        ]
        wanted = found.features
        if methods[method].get("test.normalize_feature"):  # an evaluation normalises when it ranks
            wanted = F.normalize(wanted, dim=1)
        if role == "query":
            assert (found.rate > 1).all() and len(set(found.rate.tolist())) > 1
        # The same pixels through the same layers; batches of another size change the order of sums.
        close = {"rtol": 1e-4, "atol": 1e-4 * wanted.abs().max().item()}
        torch.testing.assert_close(told(pictures, rates=found.rate.tolist(), role=role), wanted, **close)
        torch.testing.assert_close(by_size(pictures), wanted, **close)
