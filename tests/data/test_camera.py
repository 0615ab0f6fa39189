import io

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_xres.data.camera import Camera
from torchreid_xres.data.degrade import low_size, resize_tensor, round_trip

CLEAN = {"blur": 0.0, "noise": 0.0, "jpeg": 0.0}
SIZES = torch.tensor([[64, 32]]).repeat(40, 1)


def images(count=40):
    return torch.rand(count, 3, 32, 16)


def test_a_clean_view_is_a_round_trip_through_the_size_that_is_told():
    sharp, sizes = images(), SIZES.clone()
    sizes[20:] = torch.tensor([40, 30])
    seen, small = Camera(rates=(2.0, 6.0), share=1.0, kernels=["area"], **CLEAN).views(sharp, sizes)
    for one, view, size in zip(sharp, seen, small.tolist(), strict=True):
        torch.testing.assert_close(view, round_trip(one, size).clamp(0, 1))
    rates = sizes[:, 0] / small[:, 0]
    assert 2 <= rates.min() < 2.5 and 4.5 < rates.max() <= 6 and (small[20:, 0] >= 8).all()


def test_a_share_stays_sharp_and_rates_are_log_uniform():
    torch.manual_seed(1)
    sizes = torch.tensor([[512, 256]]).repeat(400, 1)
    sharp = torch.rand(400, 3, 8, 4)
    seen, small = Camera(rates=(1.0, 16.0), share=0.75, **CLEAN).views(sharp, sizes)
    same = (small == sizes).all(dim=1)
    assert 60 < same.sum() < 150 and torch.equal(seen[same], sharp[same])
    low = small[~same, 0] < 512 / 4
    assert 0.4 < low.float().mean() < 0.6  # half of the logarithms
    assert small[:, 0].min() >= 32


def test_the_rate_leaves_eight_pixels():
    camera = Camera(rates=(1.0, 8.0))
    assert [camera.largest_rate(height) for height in (128, 64, 32, 8, 5)] == [8, 8, 4, 1, 1]
    _, small = Camera(rates=(4.0, 8.0), share=1.0).views(images(), torch.tensor([[24, 12]]).repeat(40, 1))
    assert set(small[:, 0].tolist()) == {8}


@pytest.mark.parametrize("kernel", ["area", "bilinear", "bicubic"])
def test_kernels_are_those_named(kernel):
    sharp = images(4)
    seen, small = Camera(rates=(4, 4), share=1.0, kernels=[kernel], **CLEAN).views(sharp, SIZES[:4])
    wanted = round_trip(sharp, tuple(small[0].tolist()), kernel).clamp(0, 1)
    torch.testing.assert_close(seen, wanted)


@pytest.mark.parametrize("fault", CLEAN)
def test_each_fault_can_be_switched(fault):
    def views(**changes):
        torch.manual_seed(2)
        camera = Camera(rates=(3.0, 3.0), share=1.0, kernels=["area"], enlargement="bicubic", **CLEAN | changes)
        return camera.views(images(), SIZES)[0]

    clean, half, all_ = views(), views(**{fault: 0.5}), views(**{fault: 1.0})
    changed = [(view - clean).abs().amax((1, 2, 3)) > 1e-3 for view in (half, all_)]
    assert changed[1].float().mean() > 0.9 and 8 < changed[0].sum() < 32
    assert all_.min() >= 0 and all_.max() <= 1 and (all_ - clean).abs().mean() < 0.2


def test_jpeg_is_pillows_at_the_small_size():
    torch.manual_seed(3)
    sharp = images(1)
    camera = Camera(rates=(2.0, 2.0), share=1.0, kernels=["area"], **CLEAN | {"jpeg": 1.0})
    seen, small = camera.views(sharp, torch.tensor([[32, 16]]))
    assert small.tolist() == [[16, 8]]
    pixels = sharp[0].unflatten(1, (16, 2)).unflatten(3, (8, 2)).mean((2, 4))
    bits = Image.fromarray((255 * pixels).round().byte().permute(1, 2, 0).numpy())
    found = []
    for quality in range(30, 96):
        bits.save(file := io.BytesIO(), "JPEG", quality=quality)
        back = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
        found.append((resize_tensor(back[None], (32, 16), "bilinear") - seen).abs().max().item())
    assert min(found) < 1e-5


def test_the_same_state_of_the_generator_draws_the_same_views():
    sharp, camera = images(), Camera(blur=0.5, noise=0.5, jpeg=0.5)
    state = torch.get_rng_state()
    first = camera.views(sharp, SIZES)
    torch.set_rng_state(state)
    again = camera.views(sharp, SIZES)
    assert all(map(torch.equal, first, again)) and not torch.equal(camera.views(sharp, SIZES)[0], first[0])


def test_a_view_at_a_rate():
    sharp = images(1)[0]
    seen = Camera().view_at(sharp, (64, 32), 4.0)
    torch.testing.assert_close(seen, round_trip(sharp, low_size(64, 32, 4.0)))


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"rates": (2.0,)}, r"the least and the largest, not \[2\.0\]"),
        ({"rates": (4.0, 2.0)}, "the least and the largest"),
        ({"rates": (0.5, 2.0)}, "a rate is a number of at least 1"),
        ({"kernels": ()}, "needs a kernel"),
        ({"kernels": ("aera",)}, "no kernel 'aera'; did you mean 'area'"),
        ({"enlargement": "nearest"}, "no kernel 'nearest'"),
        ({"jpeg": 1.5}, "jpeg is a share of the images, from 0 to 1, not 1.5"),
    ],
)
def test_what_no_camera_does(settings, told):
    with pytest.raises(ValueError, match=told):
        Camera(**settings)
