"""PSNR and SSIM against slow loops, and against torchmetrics where it is installed."""

import math

import pytest
import torch

from torchreid_xres.metrics.image import psnr, ssim


def pair(height=14, width=17, channels=3, n=2):
    x = torch.rand(n, channels, height, width)
    return x, (x + 0.1 * torch.randn_like(x)).clamp(0, 1)


def slow_psnr(x, y, shave, luminance):
    total, number = 0.0, 0
    for i in range(shave, x.shape[1] - shave):
        for j in range(shave, x.shape[2] - shave):
            a, b = x[:, i, j].tolist(), y[:, i, j].tolist()
            if luminance:
                a, b = ([(16 + 65.481 * p[0] + 128.553 * p[1] + 24.966 * p[2]) / 255] for p in (a, b))
            for u, v in zip(a, b, strict=True):
                total += (u - v) ** 2
                number += 1
    return 10 * math.log10(number / total)


def slow_ssim(x, y, window, sigma):
    """Mean over all windows that lie inside, of one channel (H, W)."""
    height, width = x.shape
    values = []
    centre = window // 2
    gauss = [
        [math.exp(-((i - centre) ** 2 + (j - centre) ** 2) / (2 * sigma**2)) for j in range(window)]
        for i in range(window)
    ]
    total = sum(map(sum, gauss))
    for top in range(height - window + 1):
        for left in range(width - window + 1):
            sums = [0.0] * 5
            for i in range(window):
                for j in range(window):
                    w = gauss[i][j] / total
                    a, b = x[top + i, left + j].item(), y[top + i, left + j].item()
                    for k, term in enumerate((a, b, a * a, b * b, a * b)):
                        sums[k] += w * term
            ma, mb, aa, bb, ab = sums
            c1, c2 = 1e-4, 9e-4
            numerator = (2 * ma * mb + c1) * (2 * (ab - ma * mb) + c2)
            values.append(numerator / ((ma * ma + mb * mb + c1) * (aa - ma * ma + bb - mb * mb + c2)))
    return sum(values) / len(values)


@pytest.mark.parametrize("shave", [0, 3])
@pytest.mark.parametrize("luminance", [False, True])
def test_psnr_against_a_loop(shave, luminance):
    x, y = pair()
    expected = [slow_psnr(a, b, shave, luminance) for a, b in zip(x, y, strict=True)]
    assert psnr(x, y, shave, luminance).tolist() == pytest.approx(expected, rel=1e-5)


def test_ssim_against_a_loop():
    x, y = pair(height=13, width=12, n=1)
    expected = sum(slow_ssim(x[0, c], y[0, c], 11, 1.5) for c in range(3)) / 3
    assert ssim(x, y).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("height", "width", "side"), [(8, 4, 3), (1, 9, 1), (10, 30, 9)])
def test_ssim_of_small_images_shrinks_the_window(height, width, side):
    x, y = pair(height, width, channels=1, n=1)
    expected = slow_ssim(x[0, 0], y[0, 0], side, 1.5 * side / 11)
    assert ssim(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_equal_images():
    x, _ = pair()
    assert psnr(x, x).tolist() == [math.inf] * 2
    assert ssim(x, x, luminance=True).tolist() == pytest.approx([1, 1])


def test_images_are_measured_one_by_one():
    x, y = pair()
    for measure in (psnr, ssim):
        alone = [measure(x[i : i + 1], y[i : i + 1]).item() for i in range(2)]
        assert measure(x, y).tolist() == pytest.approx(alone)
        assert alone[0] != alone[1]


def test_against_torchmetrics():
    oracle = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    x, y = pair(height=40, width=30)
    x, y = x.double(), y.double()
    # It reflects the image at its border; where the window lies inside, the two must agree.
    _, index = oracle.structural_similarity_index_measure(
        x, y, data_range=1.0, reduction="none", return_full_image=True
    )
    expected = index[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert ssim(x, y).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    each = oracle.peak_signal_noise_ratio(x, y, data_range=1.0, dim=(1, 2, 3), reduction="none")
    assert psnr(x, y).tolist() == pytest.approx(each.tolist(), rel=1e-6)


def test_errors_name_the_fault():
    x, y = pair()
    with pytest.raises(ValueError, match="one shape"):
        psnr(x, y[..., :5])
    with pytest.raises(TypeError, match="divide 8-bit"):
        ssim((x * 255).byte(), (y * 255).byte())
    with pytest.raises(ValueError, match="needs 3 channels, not 1"):
        psnr(x[:, :1], y[:, :1], luminance=True)
    with pytest.raises(ValueError, match="border of 7 leaves nothing of images of 14x17"):
        psnr(x, y, shave=7)
    with pytest.raises(ValueError, match="odd number of pixels, not 4"):
        ssim(x, y, window=4)
