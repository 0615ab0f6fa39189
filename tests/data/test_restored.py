"""Restored pictures beside their originals: the same crop and flip, and no other random numbers for what follows."""

import random

import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip, ToTensor

from torchreid_xres import host
from torchreid_xres.data.base import dataset_options
from torchreid_xres.data.restored import Patches, RestoredPairs, picture_name


@pytest.fixture(scope="module")
def tiny_set(tiny_root):
    """A training set of pairs on tiny images, with a crop and a flip."""
    # The host's own transforms draw from Python's generator.
    darker = Lambda(lambda x: x * random.random())
    transform = Compose([RandomHorizontalFlip(), ToTensor(), darker, RandomCrop((64, 32), padding=4)])
    with dataset_options({"folder": {"synthetic": True, "lr_camera": "1"}, "*": {"pairs": True}}):
        return host.init_image_dataset(
            "folder", root=str(tiny_root), transform=transform, mode="train", verbose=False
        )


def test_a_picture_gets_the_crop_and_flip_of_its_original(tiny_set, tmp_path):
    for path, *_ in tiny_set.train:
        out = tmp_path / picture_name(tiny_set, path)
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(out)
    pairs = RestoredPairs(tiny_set, tmp_path)
    assert len(pairs) == len(tiny_set)
    for index in range(20):
        item = pairs[index]
        assert "img_lr" not in item
        torch.testing.assert_close(item["img_sr"], item["img_hr"])
    doubled = RestoredPairs(tiny_set + tiny_set, tmp_path)
    assert len(doubled) == 2 * len(tiny_set)
    for index in (3, 50, 70):
        item = doubled[index]
        torch.testing.assert_close(item["img_sr"], item["img_hr"])
    # Reading the picture leaves the random numbers of what comes after as they are without it.
    draws = []
    for dataset in (tiny_set, pairs):
        torch.manual_seed(5)
        random.seed(5)
        items = [dataset[i] for i in range(4)]
        draws.append((torch.rand(3).tolist(), random.random(), [item["rate_lr"] for item in items]))
    assert draws[0] == draws[1]


def test_sets_without_pictures_are_refused(tiny_set, tmp_path):
    with pytest.raises(FileNotFoundError, match="no restored pictures of folder in"):
        RestoredPairs(tiny_set, tmp_path)
    with pytest.raises(TypeError, match="only sets of this package"):
        part = [("a.png", 0, 0)]
        RestoredPairs(host.ImageDataset(part, part, part, mode="train", verbose=False), tmp_path)


@pytest.mark.parametrize("train", [True, False])
def test_pieces_of_images_that_are_too_small_have_no_black_border(tiny_set, monkeypatch, train):
    monkeypatch.setattr(type(tiny_set), "read", lambda self, path: Image.new("RGB", (31, 50), "white"))
    patches = Patches([tiny_set], (96, 48), train)
    assert all(torch.equal(patches[i]["img"], torch.ones(3, 96, 48)) for i in range(8))


def test_the_middle_of_a_large_image_is_its_middle(tiny_set):
    patches = Patches([tiny_set], (32, 16), train=False)
    member, path = patches.images[0]
    middle = ToTensor()(member.read(path))[:, 16:48, 8:24]
    assert torch.equal(patches[0]["img"], middle)
