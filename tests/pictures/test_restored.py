import math

import numpy as np
import PIL.Image
import pytest
import torch

from torchreid_xres.config import load_config
from torchreid_xres.metrics.image import ssim
from torchreid_xres.models import build_model
from torchreid_xres.models.layers import Normalization
from torchreid_xres.pictures.restored import restorations, restored_cells
from torchreid_xres.pictures.seen import Trained


@pytest.fixture
def picture():
    noise = np.random.default_rng(0).integers(0, 255, (16, 8, 3), np.uint8)
    return PIL.Image.fromarray(noise).resize((32, 64), PIL.Image.Resampling.BICUBIC)


def trained(name, **options):
    data = load_config(None, ["data.height", "64", "data.width", "32"]).data
    return Trained(name, build_model(name, pretrained=False, **options).eval(), data, Normalization())


def test_restorations_are_compared_with_the_original(picture):
    sr = {"depth": 3, "features": 4, "channels": 3}
    one = restorations(trained("sr_reid", sr="vdsr", sr_options=sr), picture, (4, 2, 1))
    quality = one.quality()
    assert quality.shape == (3, 2, 2)
    for made, row in ((one.enlarged, quality[:, 0]), (one.restored, quality[:, 1])):
        for image, (decibels, index) in zip(made, row.tolist(), strict=True):
            error = ((image - one.original).double() ** 2).mean().item()
            assert decibels == pytest.approx(-10 * math.log10(error) if error > 1e-12 else decibels, abs=1e-6)
            assert index == pytest.approx(ssim(image[None], one.original[None]).item())
    # At rate 1 an image passes the front end by.
    assert torch.equal(one.restored[2], one.enlarged[2]) and not torch.equal(one.restored[0], one.enlarged[0])
    assert quality[0, 0, 0] < quality[1, 0, 0] < quality[2, 0, 0]

    cells, columns = restored_cells([one, one], height=64)
    assert columns == 7 and len(cells) == 14
    assert cells[0].image.size == (32, 64) and cells[0].caption.startswith("x4, 16x8\n")
    assert cells[1].caption == f"restored\n{quality[0, 1, 0]:.1f} dB\nSSIM {quality[0, 1, 1]:.3f}"
    assert cells[6].caption == "original"


def test_a_model_without_a_front_end_is_refused(picture):
    with pytest.raises(ValueError, match="osnet_x0_25 has no front end"):
        restorations(trained("osnet_x0_25", num_classes=2), picture)
