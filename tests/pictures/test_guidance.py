import pytest
import torch
from torchvision.transforms.functional import resize, to_pil_image, to_tensor

from torchreid_xres.keypoints import FACES4, gaussian_maps
from torchreid_xres.models.kgnet import KGNet
from torchreid_xres.pictures.guidance import draw_guidance, guidance_images

TINY = {
    "reid": "osnet_x0_25", "hourglass": {"stacks": 1, "depth": 2, "width": 8}, "sr_scale": 4, "kgr_blocks": 1,
    "sr_options": {"features": 8, "groups": 1, "blocks": 1},
}  # fmt: skip


@pytest.fixture
def picture():
    return to_pil_image(torch.rand(3, 96, 80))


def network(monkeypatch, **changes):
    """An untrained network that finds one point of the front."""
    model = KGNet(pretrained=False, **{**TINY, **changes}).eval()
    points = torch.full((1, 20, 2), -1.0)
    points[0, FACES4["front"][4]] = torch.tensor([0.25, 0.75])  # the front logo is on no other face
    if model.hourglass is not None:
        monkeypatch.setattr(model.hourglass, "forward", lambda img: gaussian_maps(points, (16, 16)))
    return model


def test_images_are_those_of_the_network(monkeypatch, picture):
    one = guidance_images(network(monkeypatch), picture, (64, 64), rate=4)
    torch.testing.assert_close(one.original, to_tensor(resize(picture, [64, 64])))
    assert (one.restored - one.enlarged).abs().max() < 0.05  # untrained, it restores next to nothing
    assert torch.equal(one.low[:, :4, :4], one.low[:, :1, :1].expand(3, 4, 4))  # squares of 4 pixels
    assert one.visible() == 1 and one.maps.shape == (20, 64, 64)
    torch.testing.assert_close(one.recovery.sum(dim=0), torch.ones(64, 64))
    before, after = one.quality()
    error = (one.enlarged - one.original).double().square().mean()
    assert before == pytest.approx(-10 * error.log10().item()) and after == pytest.approx(before, abs=1)


def test_a_row_shows_each_picture_in_its_place_and_faces_where_they_are(monkeypatch, picture):
    model = network(monkeypatch)
    one = guidance_images(model, picture, (64, 64), rate=4)
    drawn = draw_guidance([one, one])
    assert drawn.size == (13 * 68 + 4, 16 + 2 * 68 + 4)

    def cell(row, column):
        x, y = 4 + column * 68, 20 + row * 68
        return to_tensor(drawn.crop((x, y, x + 64, y + 64)))

    for column, image in enumerate(one[:5]):
        assert (cell(1, column) - image).abs().max() <= 1 / 255
    backdrop = 0.4 * one.enlarged
    lit = [(cell(0, column) - backdrop).abs().sum(dim=0) for column in range(5, 13)]
    # Heat maps, KGR's front and KGA's front are lit at the point (48, 16); the other faces stay dark there.
    shown = [float(picture[44:52, 12:20].mean()) > 0.2 for picture in lit]
    assert shown == [True, True, False, False, False, True, False, False]


def test_parts_that_are_off_have_no_column(monkeypatch, picture):
    for changes, columns in (({"kga": False}, 10), ({"kgr": False}, 9), ({"kgr": False, "kga": False}, 5)):
        one = guidance_images(network(monkeypatch, **changes), picture, (64, 64), rate=4)
        assert draw_guidance([one]).size[0] == columns * 68 + 4
        assert (one.visible() == 0) == (columns == 5)
