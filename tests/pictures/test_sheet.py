import PIL.Image
import PIL.ImageFont
import pytest

from torchreid_xres.pictures import sheet
from torchreid_xres.pictures.sheet import Cell, contact_sheet

RED = PIL.Image.new("RGB", (20, 40), "red")


def test_pictures_of_all_sizes_come_to_one_height_and_stay_in_proportion():
    drawn = contact_sheet([Cell(RED), Cell(PIL.Image.new("RGB", (160, 80), "blue"))], columns=2, height=80)
    assert drawn.size == (2 * (160 + 2 * sheet.FRAME) + 3 * sheet.GAP, 80 + 2 * sheet.FRAME + 2 * sheet.GAP)
    counts = {colour: count for count, colour in drawn.getcolors(1 << 20)}
    assert counts[(255, 0, 0)] == 80 * 40 and counts[(0, 0, 255)] == 80 * 160


def test_a_very_wide_picture_does_not_widen_the_sheet_without_end():
    drawn = contact_sheet([Cell(PIL.Image.new("RGB", (10_000, 10))), Cell(RED)], columns=2, height=50)
    assert drawn.width < 2 * 50 * (sheet.WIDEST + 1)


def test_the_frame_goes_around_the_picture_not_over_it():
    drawn = contact_sheet([Cell(RED, "hit", "lime")], columns=1, height=40)
    counts = {colour: count for count, colour in drawn.getcolors(1 << 20)}
    assert counts[(255, 0, 0)] == 40 * 20
    assert counts[(0, 255, 0)] == (40 + 2 * sheet.FRAME) * (20 + 2 * sheet.FRAME) - 40 * 20


def test_rows_empty_places_and_captions_of_several_lines():
    one = contact_sheet([Cell(RED, "a\nb")], columns=3, height=40)
    three = contact_sheet([Cell(RED, "a\nb"), Cell(None), Cell(RED)], columns=2, height=40)
    assert three.height - sheet.GAP == 2 * (one.height - sheet.GAP)
    assert three.width - sheet.GAP == 2 * (one.width - sheet.GAP)


def test_long_captions_lose_their_middle_and_strange_letters_are_drawn():
    font = PIL.ImageFont.load_default()
    shown = sheet._fitting("0001_c1s1_001051_00_a_long_name.jpg", 100, font)
    assert font.getlength(shown) <= 100 and shown.startswith("0001") and shown.endswith(".jpg")
    contact_sheet([Cell(RED, "写真 №1 \N{GRINNING FACE}")], columns=1)


@pytest.mark.parametrize(("cells", "columns", "height"), [([], 1, 9), ([Cell(RED)], 0, 9), ([Cell(RED)], 1, 0)])
def test_nothing_to_draw_is_said(cells, columns, height):
    with pytest.raises(ValueError, match="a sheet needs"):
        contact_sheet(cells, columns, height)


def test_a_font_without_foreign_letters_draws_what_it_can(monkeypatch):
    font = PIL.ImageFont.load_default_imagefont() if hasattr(PIL.ImageFont, "load_default_imagefont") else None
    if font is None:
        pytest.skip("this Pillow has one default font only")
    monkeypatch.setattr(PIL.ImageFont, "load_default", lambda: font)
    contact_sheet([Cell(RED, "写真 №1 and a line that is too long for it")], columns=1)
