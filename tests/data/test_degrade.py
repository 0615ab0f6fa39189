"""Kernels: against readable loops, PIL against tensors, and what a loss needs of them (gradients, types)."""

import doctest
import math

import numpy as np
import PIL.Image
import pytest
import torch

from torchreid_xres.data import degrade
from torchreid_xres.data.degrade import KERNELS, degrade_image, degrade_tensor, low_size, round_trip, undo_enlargement

RATES = (2, 3, 4, 8, 2.5, 3.7, 1.3)
ANTIALIASED = [kernel for kernel in KERNELS if kernel != "bilinear_plain"]


def picture(kind, height=101, width=67):
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "black and white":
        return rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
    y, x = np.mgrid[:height, :width] / 10
    return np.stack([127 + 120 * np.sin(x), 127 + 120 * np.cos(y), 127 + 60 * np.sin(x + y)], -1).astype(np.uint8)


def to_tensor(pixels):
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]


def to_pixels(tensor):
    return tensor[0].permute(1, 2, 0).numpy().astype(int)


def test_examples():
    assert doctest.testmod(degrade).failed == 0


@pytest.mark.parametrize(
    "height, width, rate, expected",
    [
        (128, 64, 2, (64, 32)),
        (128, 64, 3, (42, 21)),
        (100, 7, 8, (12, 1)),
        (5, 3, 8, (1, 1)),
        (33, 12, 1.1, (30, 10)),  # 33 / 1.1 is 29.999999999999996 in floats
        (128, 128, 8, (16, 16)),
        (17, 39, 1, (17, 39)),
    ],
)
def test_low_size(height, width, rate, expected):
    assert low_size(height, width, rate) == expected


@pytest.mark.parametrize("rate", [0.5, 0, -2, math.inf, math.nan, "2", None, True])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match="a rate is a number of at least 1"):
        degrade_image(PIL.Image.new("RGB", (8, 8)), rate)


def test_wrong_kernel_and_mode():
    with pytest.raises(ValueError, match="no kernel 'bicubik'; did you mean 'bicubic'"):
        degrade_image(PIL.Image.new("RGB", (8, 8)), 2, "bicubik")
    with pytest.raises(ValueError, match="area, bilinear, bicubic, lanczos, bilinear_plain"):
        degrade_tensor(torch.zeros(1, 3, 8, 8), (4, 4), "x")
    with pytest.raises(ValueError, match="mode RGB or L, not 'P'"):
        degrade_image(PIL.Image.new("P", (8, 8)), 2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rate_one_changes_nothing(kernel):
    img = PIL.Image.fromarray(picture("noise"))
    assert degrade_image(img, 1, kernel) is img
    x = torch.rand(2, 3, 9, 7)
    assert torch.equal(degrade_tensor(x, (9, 7), kernel), x)
    assert torch.equal(round_trip(x, (9, 7), kernel), x)


@pytest.mark.parametrize("size", [(24, 12), (50, 26), (64, 12), (80, 20), (64, 32)])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_an_enlargement_by_the_loader_is_undone(kernel, size):
    large = (64, 32)
    height, width = min(size[0], 64), min(size[1], 32)
    small = 64 + picture("noise", height, width) // 2  # so that nothing is clipped
    loaded = PIL.Image.fromarray(small).resize(large[::-1], getattr(PIL.Image.Resampling, kernel.upper()))
    x = torch.from_numpy(np.array(loaded)).permute(2, 0, 1)[None].float()
    back = undo_enlargement(x, size, kernel)[0].permute(1, 2, 0).numpy()
    assert back.shape == small.shape
    assert np.sqrt(np.mean((back - small) ** 2)) < 0.7  # grey levels
    if size == large:
        assert np.array_equal(back, small)
    else:
        blurred = degrade_tensor(x, (height, width), kernel)[0].permute(1, 2, 0).numpy()
        assert np.sqrt(np.mean((back - small) ** 2)) < 0.2 * np.sqrt(np.mean((blurred - small) ** 2))


# ---- readable loops


def slow_weights(old, new, kernel):
    """How much each old pixel counts in each new one, one pair at a time."""
    scale = old / new
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * scale
        for j in range(old):
            if kernel == "area":
                matrix[i, j] = max(0.0, min(j + 1, (i + 1) * scale) - max(j, i * scale))
            else:
                t = abs(j + 0.5 - centre) / scale
                if kernel == "bilinear":
                    matrix[i, j] = max(0.0, 1 - t)
                elif kernel == "bicubic":  # Keys, a = -1/2
                    if t < 1:
                        matrix[i, j] = 1.5 * t**3 - 2.5 * t**2 + 1
                    elif t < 2:
                        matrix[i, j] = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
                elif t == 0:
                    matrix[i, j] = 1.0
                elif t < 3:  # Lanczos, three lobes
                    matrix[i, j] = 3 * math.sin(math.pi * t) * math.sin(math.pi * t / 3) / (math.pi * t) ** 2
        matrix[i] /= matrix[i].sum()
    return matrix


def slow_plain(pixels, h, w):
    """Bilinear between the four pixels around each new centre, however large the step."""
    H, W, _ = pixels.shape
    out = np.zeros((h, w, 3))
    for i in range(h):
        for j in range(w):
            y = min(max((i + 0.5) * H / h - 0.5, 0), H - 1)
            x = min(max((j + 0.5) * W / w - 0.5, 0), W - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, H - 1), min(x0 + 1, W - 1)
            fy, fx = y - y0, x - x0
            top = (1 - fx) * pixels[y0, x0].astype(float) + fx * pixels[y0, x1]
            bottom = (1 - fx) * pixels[y1, x0].astype(float) + fx * pixels[y1, x1]
            out[i, j] = (1 - fy) * top + fy * bottom
    return out


@pytest.mark.parametrize("kernel", ANTIALIASED)
@pytest.mark.parametrize("old, new", [(12, 6), (13, 4), (7, 5), (9, 1), (6, 6)])
def test_weights_are_those_of_the_slow_loop(kernel, old, new):
    fast = degrade._weights(old, new, kernel, torch.float64, torch.device("cpu"))
    assert np.allclose(fast.numpy(), slow_weights(old, new, kernel), atol=1e-12)


@pytest.mark.parametrize("kind", ["noise", "black and white"])
@pytest.mark.parametrize("kernel", ANTIALIASED)
@pytest.mark.parametrize("height, width", [(101, 67), (200, 40), (31, 90)])
def test_images_are_those_of_the_slow_loop(kernel, kind, height, width):
    # Also the proof that the order of Pillow's passes is fixed: the other order is off by ten levels and more.
    pixels = picture(kind, height, width)
    h, w = low_size(height, width, 3.7)
    rows = np.einsum("hwc,vw->hvc", pixels.astype(float), slow_weights(width, w, kernel))
    if kernel != "area":
        rows = np.floor(rows + 0.5).clip(0, 255)
    expected = np.einsum("hvc,uh->uvc", rows, slow_weights(height, h, kernel)).clip(0, 255)
    got = np.asarray(degrade_image(PIL.Image.fromarray(pixels), 3.7, kernel)).astype(int)
    assert np.abs(got - expected).max() <= 1


def test_plain_bilinear_is_the_slow_loop():
    pixels = picture("noise")
    for rate in RATES:
        expected = slow_plain(pixels, *low_size(*pixels.shape[:2], rate))
        got = np.asarray(degrade_image(PIL.Image.fromarray(pixels), rate, "bilinear_plain")).astype(int)
        assert np.abs(got - expected).max() <= 1


def test_antialiasing():
    # One-pixel stripes at a quarter of the size are grey; the plain kernel picks two neighbours, at rate 5 one stripe.
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[:, ::2] = 200
    for kernel in ANTIALIASED:
        grey = np.asarray(degrade_image(PIL.Image.fromarray(stripes), 5, kernel))[2:-2, 2:-2]
        assert np.abs(grey.astype(int) - 100).max() <= 21, kernel
    aliased = np.asarray(degrade_image(PIL.Image.fromarray(stripes), 5, "bilinear_plain"))
    assert aliased.min() == 0 and aliased.max() == 200


# ---- tensors


@pytest.mark.parametrize("kind", ["smooth", "noise", "black and white"])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_tensors_equal_images(kernel, rate, kind):
    for size in ((101, 67), (256, 89)):
        pixels = picture(kind, *size)
        expected = np.asarray(degrade_image(PIL.Image.fromarray(pixels), rate, kernel)).astype(int)
        got = to_pixels(degrade_tensor(to_tensor(pixels), expected.shape[:2], kernel))
        assert np.abs(got - expected).max() <= 1
        if kind == "smooth" or kernel in ("area", "bilinear", "bilinear_plain"):
            # Floats have no 8-bit rounding between the passes; only overshoot at hard edges can tell.
            floats = degrade_tensor(to_tensor(pixels).float(), expected.shape[:2], kernel)
            assert np.abs(to_pixels(floats.round()) - expected).max() <= 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_real_images_equal(shared_data, kernel):
    for file in sorted((shared_data / "cuhk03_p1" / "images").iterdir())[::900]:
        img = PIL.Image.open(file).convert("RGB")
        for rate in (2, 3, 4, 8, 2.5, 3.7):
            expected = np.asarray(degrade_image(img, rate, kernel)).astype(int)
            got = to_pixels(degrade_tensor(to_tensor(img), expected.shape[:2], kernel))
            assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_grey_images(kernel):
    pixels = picture("noise")[..., 0]
    small = degrade_image(PIL.Image.fromarray(pixels), 3, kernel)
    assert small.mode == "L" and small.size == (22, 33)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kernel", KERNELS)
def test_gpu_equals_cpu(kernel):
    x = to_tensor(picture("black and white"))
    on_gpu = degrade_tensor(x.cuda(), (27, 18), kernel)
    assert on_gpu.is_cuda
    assert (on_gpu.cpu().int() - degrade_tensor(x, (27, 18), kernel).int()).abs().max() <= 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients(kernel):
    x = torch.rand(1, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: degrade_tensor(x, (3, 4), kernel), (x,))
    assert torch.autograd.gradcheck(lambda x: round_trip(x, (3, 4), kernel), (x,))


@pytest.mark.parametrize("kernel", KERNELS)
def test_degrading_commutes_with_normalisation(kernel):
    x = torch.rand(2, 3, 32, 20)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    assert torch.allclose(
        round_trip((x - mean) / std, (9, 7), kernel), (round_trip(x, (9, 7), kernel) - mean) / std, atol=1e-5
    )


def test_weights_made_in_inference_mode_serve_training():
    degrade._weights.cache_clear()
    with torch.inference_mode():
        degrade_tensor(torch.rand(1, 1, 23, 11), (5, 4))
    x = torch.rand(1, 1, 23, 11, requires_grad=True)
    degrade_tensor(x, (5, 4)).sum().backward()
    assert x.grad is not None


def test_autocast_does_not_round_the_weights():
    x = torch.rand(1, 3, 64, 32)
    plain = round_trip(x, (16, 8), "bicubic")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(round_trip(x, (16, 8), "bicubic"), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8])
def test_type_is_kept_and_the_input_left_alone(dtype):
    x = (torch.rand(2, 3, 20, 10) * 255).to(dtype)
    before = x.clone()
    out = round_trip(x, (5, 5), "lanczos")
    assert out.dtype == dtype and out.shape == x.shape
    assert torch.equal(x, before)
    assert (out.float() - round_trip(before.double(), (5, 5), "lanczos").float().clamp(0, 255)).abs().max() <= 2


def test_wrong_tensors():
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\) of floats or uint8, got \(3, 8, 8\)"):
        degrade_tensor(torch.zeros(3, 8, 8), (4, 4))
    with pytest.raises(ValueError, match="int64"):
        degrade_tensor(torch.zeros(1, 3, 8, 8, dtype=torch.int64), (4, 4))
    with pytest.raises(ValueError, match=r"cannot down-sample \(8, 8\) to \(9, 4\)"):
        degrade_tensor(torch.zeros(1, 3, 8, 8), (9, 4))
    with pytest.raises(ValueError, match="cannot down-sample"):
        round_trip(torch.zeros(3, 8, 8), (0, 4))


def test_round_trip_is_down_and_up():
    pixels = picture("smooth", 64, 32)
    for kernel in KERNELS:
        small = degrade_image(PIL.Image.fromarray(pixels), 4, kernel)
        expected = np.asarray(small.resize((32, 64), PIL.Image.Resampling.BILINEAR)).astype(int)
        x = to_tensor(pixels)
        assert np.abs(to_pixels(round_trip(x, (16, 8), kernel)) - expected).max() <= 1
        assert np.abs(to_pixels(round_trip(x.float(), (16, 8), kernel).round()) - expected).max() <= 1


def test_round_trip_of_one_image_is_that_of_a_batch():
    x = torch.rand(2, 3, 30, 20)
    assert torch.allclose(round_trip(x[1], (7, 6)), round_trip(x, (7, 6))[1], atol=1e-6)


def test_round_trip_clips_sizes_that_lose_nothing():
    x = torch.rand(3, 12, 10)
    assert torch.equal(round_trip(x, (500, 300)), x)
    assert torch.allclose(round_trip(x, (500, 5)), round_trip(x, (12, 5)))
