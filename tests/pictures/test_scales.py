import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from torchreid_xres.models.cmsr2 import CMSR2, resolution_versions
from torchreid_xres.pictures.scales import draw_scales, scales_from_rates


@pytest.fixture
def picture():
    return to_pil_image(torch.rand(3, 48, 24))


def test_every_rate_goes_through_the_cascade_and_targets_are_the_trainings(picture):
    cascade = CMSR2((3, 1), widths=(4, 8), skip=True)  # untrained, it hands every image through
    one = scales_from_rates(cascade, picture, (32, 16), rates=(4, 1))
    for scale in (0, 1):
        torch.testing.assert_close(one.made[:, scale], one.inputs, atol=1e-5, rtol=0)
    versions = resolution_versions(one.inputs[1:], torch.tensor([[48, 24]]), (3, 1))
    torch.testing.assert_close(one.targets, torch.cat([versions[3], versions[1]]))


def test_quality_compares_input_and_result_with_each_target(picture):
    one = scales_from_rates(CMSR2((3, 1), widths=(4, 8)), picture, (32, 16), rates=(4, 2, 1))
    quality = one.quality()
    assert quality.shape == (3, 2, 2)
    assert quality[2, 1, 0] == float("inf")  # the whole image is the target of scale 1
    error = (one.made[0, 1] - one.targets[1]).double().square().mean()
    torch.testing.assert_close(quality[0, 1, 1], -10 * error.log10())


def test_the_grid_shows_every_picture_in_its_place(picture):
    one = scales_from_rates(CMSR2((3, 1), widths=(4, 8)), picture, (32, 16), rates=(4, 1))
    drawn = draw_scales([one])
    left, top = 48 + 4, 16 + 4
    places = {(1, 0): one.inputs[0], (2, 2): one.made[1, 1], (0, 1): one.targets[0]}
    for (row, column), image in places.items():
        x, y = left + column * (16 + 4), top + row * (32 + 4)
        found = drawn.crop((x, y, x + 16, y + 32))
        assert found.tobytes() == to_pil_image(image).tobytes()
