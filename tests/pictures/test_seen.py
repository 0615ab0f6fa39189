import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from torchvision.transforms import ToTensor

from torchreid_xres.config import load_config
from torchreid_xres.data.degrade import degrade_image
from torchreid_xres.models.layers import Normalization
from torchreid_xres.pictures.seen import Trained, seen_at, squares


@pytest.fixture
def picture():
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 44, 3), np.uint8))


def test_files_are_read_as_the_data_sets_read_them(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (8, 4)).save(tmp_path / "turned.png", exif=exif)
    PIL.Image.fromarray(np.full((4, 8), 1023, np.uint16)).save(tmp_path / "deep.png")
    trained = Trained("net", nn.Identity(), load_config(None, ["data.grey_bits", "10"]).data, Normalization())
    assert trained.read(tmp_path / "turned.png").size == (4, 8)
    assert trained.read(tmp_path / "deep.png").getpixel((0, 0)) == (255, 255, 255)


def test_images_are_those_of_the_protocol(picture):
    data = load_config(None, ["data.height", "32", "data.width", "16", "data.kernel", "bicubic"]).data
    normalize = Normalization()
    seen = seen_at(picture, (1, 3), data, normalize)
    assert seen.pictures[1].tobytes() == degrade_image(picture, 3.0, "bicubic").tobytes()
    assert seen.batch["size"].tolist() == [[60, 44], [20, 14]]
    assert seen.batch["low"].tolist() == [False, True] and seen.batch["rate"].tolist() == [1, 3]
    small = seen.pictures[1].resize((16, 32), PIL.Image.Resampling.BILINEAR)
    torch.testing.assert_close(seen.batch["img"][1:], normalize(ToTensor()(small)[None]))
    torch.testing.assert_close(normalize(seen.original[None]), seen.batch["img"][:1])
    with pytest.raises(ValueError, match="at least 1"):
        seen_at(picture, (0.5,), data, normalize)


def test_small_pictures_become_squares(picture):
    grown = squares(picture.crop((0, 0, 5, 10)), 32)
    assert grown.size == (20, 40)
    first = np.asarray(grown)[:4, :4]
    assert (first == np.asarray(picture)[0, 0]).all()
    assert squares(picture, 60) is picture and squares(picture, 61).height == 120
