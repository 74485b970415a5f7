"""Sheets of pictures: a row for each caption, in the pictures' own pixels where they are few."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ctrl_jax._whole import whole_file

LARGEST = 256
"""Side of a picture on a sheet, in pixels; larger ones are made smaller."""

SMALLEST = 96
"""Smaller ones are made larger, by whole pixels."""


def draw_sheet(path: Path, rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> None:
    """Draw rows of pictures, each under its caption, by the first of several processes.

    Args:
        path: of the PNG file.
        rows: a caption, and pictures (h, w, 3) in bytes, all of one size.
    """
    tiles = [[_tile(picture) for picture in pictures] for _, pictures in rows]
    width, height = tiles[0][0].size
    border, font = 4, ImageFont.load_default(size=14)
    columns = max(map(len, tiles))
    whole = columns * (width + border) + border
    letters = max(int((whole - 2 * border) / font.getlength("n")), 8)
    captions = [textwrap.wrap(caption, letters)[:3] for caption, _ in rows]
    heights = [18 * len(lines) + height + 2 * border for lines in captions]
    sheet = Image.new("RGB", (whole, sum(heights) + border), "white")
    draw = ImageDraw.Draw(sheet)
    top = border
    for lines, pictures, taken in zip(captions, tiles, heights, strict=True):
        draw.multiline_text((border, top), "\n".join(lines), fill="black", font=font, spacing=2)
        for column, picture in enumerate(pictures):
            place = (border + column * (width + border), top + 18 * len(lines) + border)
            sheet.paste(picture, place)
        top += taken
    if jax.process_index() == 0:
        with whole_file(path) as part:
            sheet.save(part)


def _tile(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    side = max(image.size)
    if side > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    elif side < SMALLEST:
        factor = -(-SMALLEST // side)
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    return image
