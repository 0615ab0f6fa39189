"""Contact sheets: pictures of any sizes side by side, with captions and frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

GAP = 6  # pixels between cells, and around them
FRAME = 3  # pixels that a frame is wide
LINE = 13  # pixels from one line of a caption to the next
LONGEST = 150  # pixels that a line of a caption may take beside those of the pictures
WIDEST = 2  # a picture takes at most so many times the height; a wider one is made smaller

Font = PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont


class Cell(NamedTuple):
    """One place of a contact sheet.

    Attributes:
        image: the picture, of any size; None leaves the place empty.
        caption: below it; lines that are too long lose their middle.
        colour: of its frame, as Pillow names colours; empty for no frame.
    """

    image: PIL.Image.Image | None
    caption: str = ""
    colour: str = ""


def contact_sheet(cells: Sequence[Cell], columns: int, height: int = 160) -> PIL.Image.Image:
    """Draw pictures in rows, each brought to one height, their captions below.

    Args:
        cells: row by row.
        columns: cells in a row.
        height: of a picture in pixels.

    Returns:
        The sheet, 8-bit RGB. All cells are as wide as the widest picture or line of a caption needs.

    Raises:
        ValueError: without cells, or for numbers below 1.

    Example:
        >>> picture = PIL.Image.new("RGB", (32, 64), "grey")
        >>> sheet = contact_sheet([Cell(picture, "query"), Cell(picture, "1: 0.93", "green")], columns=2)
        >>> sheet.size  # 2 x (80 + 2 x 3) + 3 x 6, 160 + 2 x 3 + 13 + 2 x 6
        (190, 191)
    """
    if not cells or columns < 1 or height < 1:
        raise ValueError(f"a sheet needs cells, columns and a height; there are {len(cells)}, {columns} and {height}")
    pictures = [None if cell.image is None else _at_height(cell.image, height) for cell in cells]
    lines = [cell.caption.split("\n") if cell.caption else [] for cell in cells]
    font = PIL.ImageFont.load_default()
    widths = [picture.width for picture in pictures if picture is not None]
    widths += [min(LONGEST, math.ceil(_length(line, font))) for caption in lines for line in caption]
    width = max(widths, default=LONGEST)
    step_x = width + 2 * FRAME + GAP
    step_y = height + 2 * FRAME + LINE * max(map(len, lines)) + GAP
    rows = -(-len(cells) // columns)
    canvas = PIL.Image.new("RGB", (min(columns, len(cells)) * step_x + GAP, rows * step_y + GAP), "white")
    pen = PIL.ImageDraw.Draw(canvas)
    for place, (cell, picture, caption) in enumerate(zip(cells, pictures, lines, strict=True)):
        left, top = GAP + place % columns * step_x, GAP + place // columns * step_y
        if picture is not None:
            start = left + FRAME + (width - picture.width) // 2, top + FRAME + (height - picture.height) // 2
            if cell.colour:
                right, bottom = start[0] + picture.width, start[1] + picture.height
                pen.rectangle((start[0] - FRAME, start[1] - FRAME, right + FRAME - 1, bottom + FRAME - 1), cell.colour)
            canvas.paste(picture, start)
        for number, line in enumerate(caption):
            shown = _fitting(line, width, font)
            start = left + FRAME + (width - int(_length(shown, font))) // 2
            pen.text((start, top + height + 2 * FRAME + number * LINE), shown, fill="black", font=font)
    return canvas


def _at_height(img: PIL.Image.Image, height: int) -> PIL.Image.Image:
    scale = min(height / img.height, WIDEST * height / img.width)
    size = max(1, round(img.width * scale)), max(1, round(img.height * scale))
    return img.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)


def _fitting(line: str, width: int, font: Font) -> str:
    """Return a line without as much of its middle as it takes to fit."""
    kept, shown = len(line), _drawable(line, font)
    while _length(shown, font) > width and kept > 2:
        kept -= 1
        shown = _drawable(f"{line[: kept // 2]}..{line[len(line) - kept + kept // 2 :]}", font)
    return shown


def _length(line: str, font: Font) -> float:
    return font.getlength(_drawable(line, font))


def _drawable(line: str, font: Font) -> str:
    if isinstance(font, PIL.ImageFont.FreeTypeFont):
        return line
    # Pillow before 10.1, or without FreeType, has Latin letters only.
    return line.encode("latin-1", "replace").decode("latin-1")
