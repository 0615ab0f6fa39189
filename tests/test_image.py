"""The resizing rule against PIL and a slow loop, MATLAB's colours, padding."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_xres.image import pad_to, resize, rgb_to_ycbcr, ycbcr_to_rgb


def cubic(t: float) -> float:
    """Keys' kernel, a = -0.5."""
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def resize_row(row: list[float], length: int) -> list[float]:
    step = len(row) / length
    width = max(step, 1.0)
    out = []
    for i in range(length):
        centre = (i + 0.5) * step - 0.5
        weights = [cubic((j - centre) / width) for j in range(len(row))]
        out.append(sum(w * v for w, v in zip(weights, row, strict=True)) / sum(weights))
    return out


@pytest.mark.parametrize("length", [3, 7, 10, 25, 40])
def test_resize_against_a_loop(length):
    row = torch.rand(10, dtype=torch.float64)
    expected = torch.tensor(resize_row(row.tolist(), length), dtype=torch.float64)
    across = resize(row.view(1, 1, 1, 10), (1, length)).flatten()
    down = resize(row.view(1, 1, 10, 1), (length, 1)).flatten()
    torch.testing.assert_close(across, expected)
    torch.testing.assert_close(down, expected)


@pytest.mark.parametrize("size", [(64, 48), (7, 5), (30, 9)])
def test_resize_against_pil(size):
    # Mid-greys: PIL cuts overshoot off between its two passes, and rounds after each; we do not.
    pixels = np.random.default_rng(0).integers(80, 176, (20, 12, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.BICUBIC), dtype=np.float64)
    x = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 255
    y = resize(x, size)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.abs(y - expected).max() < 1.25


def test_a_single_column_of_many_channels_is_resized_like_a_row():
    x = torch.rand(2, 3, 10, 1).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(resize(x, (25, 1)), resize(x.mT.contiguous(), (1, 25)).mT)


def test_resize_to_the_same_size_changes_nothing():
    x = torch.rand(1, 3, 5, 4)
    assert resize(x, (5, 4)) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_resize_of_16_bit_numbers(dtype):
    x = torch.rand(1, 3, 8, 8).to(dtype)
    y = resize(x, (16, 16))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), resize(x.float(), (16, 16)), rtol=0, atol=8e-3)


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        # MATLAB: rgb2ycbcr(uint8(...))
        ((0, 0, 0), (16, 128, 128)),
        ((255, 255, 255), (235, 128, 128)),
        ((255, 0, 0), (81, 90, 240)),
        ((0, 255, 0), (145, 54, 34)),
        ((0, 0, 255), (41, 240, 110)),
    ],
)
def test_colours_are_matlabs(rgb, ycbcr):
    x = torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1) / 255
    assert (rgb_to_ycbcr(x) * 255).round().flatten().tolist() == list(ycbcr)


def test_colours_return():
    x = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(ycbcr_to_rgb(rgb_to_ycbcr(x)), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({}, (5, 3)),
        ({"multiple": 4}, (8, 4)),
        ({"minimum": 16}, (16, 16)),
        ({"multiple": 3, "minimum": 4}, (6, 6)),
        ({"multiple": 4, "square": True}, (8, 8)),
    ],
)
def test_padding_repeats_the_border(needs, expected):
    x = torch.rand(1, 2, 5, 3)
    y = pad_to(x, **needs)
    assert y.shape[-2:] == expected
    for i in range(expected[0]):
        for j in range(expected[1]):
            assert torch.equal(y[..., i, j], x[..., min(i, 4), min(j, 2)])


def test_padding_that_is_not_needed_changes_nothing():
    x = torch.rand(1, 3, 8, 4)
    assert pad_to(x, multiple=4, minimum=4) is x
