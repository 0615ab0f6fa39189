"""Contact sheets: pictures of any sizes side by side, with captions and frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

GAP = 6  # pixels between cells, and around them
FRAME = 3  # pixels that a frame is wide
LINE = 13  # pixels from one line of a caption to the next
NARROWEST = 72  # pixels, so that a caption below a narrow picture can be read
WIDEST = 3  # a picture takes at most so many times the height; a wider one is made smaller


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
        The sheet, 8-bit RGB. All cells are as wide as the widest picture needs.

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
    width = max(NARROWEST, *(picture.width for picture in pictures if picture is not None), 0)
    lines = [cell.caption.split("\n") if cell.caption else [] for cell in cells]
    step_x = width + 2 * FRAME + GAP
    step_y = height + 2 * FRAME + LINE * max(map(len, lines)) + GAP
    rows = -(-len(cells) // columns)
    canvas = PIL.Image.new("RGB", (min(columns, len(cells)) * step_x + GAP, rows * step_y + GAP), "white")
    pen = PIL.ImageDraw.Draw(canvas)
    font = PIL.ImageFont.load_default()
    for place, (cell, picture, caption) in enumerate(zip(cells, pictures, lines, strict=True)):
        left, top = GAP + place % columns * step_x, GAP + place // columns * step_y
        if picture is not None:
            start = left + FRAME + (width - picture.width) // 2, top + FRAME + (height - picture.height) // 2
            if cell.colour:
                right, bottom = start[0] + picture.width, start[1] + picture.height
                pen.rectangle((start[0] - FRAME, start[1] - FRAME, right + FRAME - 1, bottom + FRAME - 1), cell.colour)
            canvas.paste(picture, start)
        for number, line in enumerate(caption):
            spot = left + FRAME, top + height + 2 * FRAME + number * LINE
            pen.text(spot, _fitting(line, width, font), fill="black", font=font)
    return canvas


def _at_height(img: PIL.Image.Image, height: int) -> PIL.Image.Image:
    scale = min(height / img.height, WIDEST * height / img.width)
    size = max(1, round(img.width * scale)), max(1, round(img.height * scale))
    return img.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)


def _fitting(line: str, width: int, font: PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont) -> str:
    """Return a line without as much of its middle as it takes to fit."""
    if isinstance(font, PIL.ImageFont.ImageFont):  # Pillow before 10.1, or without FreeType: Latin letters only
        line = line.encode("latin-1", "replace").decode("latin-1")
    kept, shown = len(line), line
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{line[: kept // 2]}..{line[len(line) - kept + kept // 2 :]}"
    return shown
