"""Who is low resolution by size: the bound itself, and where the full size is known from."""

import doctest

import pytest
from torchvision.transforms import Compose, RandomCrop, Resize

from torchreid_xres.data import native
from torchreid_xres.data.native import input_resize, low_by_size, native_rate


def test_examples():
    assert doctest.testmod(native).failed == 0


@pytest.mark.parametrize("size, low", [((128, 128), True), ((128, 129), False), ((1, 128 * 128), True)])
def test_low_is_from_half_the_area_down(size, low):
    assert low_by_size(size, (256, 128)) is low


def test_the_rate_is_that_of_the_sides():
    assert native_rate((64, 32), (256, 128)) == 4 and native_rate((128, 64), (64, 32)) == 0.5


def test_only_a_first_resize_to_two_sides_is_the_input():
    resize = Resize((64, 32))
    assert input_resize(Compose([resize, RandomCrop(8)])) is resize
    for other in (None, Compose([]), Compose([Resize(64)]), Compose([RandomCrop(8), resize]), resize):
        assert input_resize(other) is None
