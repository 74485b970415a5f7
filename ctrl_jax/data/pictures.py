"""Picture files of any mode and depth to one array, as viewers show them.

Cameras store how they were held; pictures are turned accordingly. Gray of 8 or 16 bits, black and
white, palettes, CMYK: all become gray where every picture is gray, and RGB otherwise. Transparency
is dropped, and of several frames the first is read, which is said.
"""

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning

GRAY = ("1", "L", "LA", "La")
DEEP = "I"  # and I;16, I;16B ...: whole numbers of 16 bits
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)


class Header(NamedTuple):
    """What a file says of its picture: width and height as shown, and whether it is gray."""

    size: tuple[int, int]
    gray: bool
    transparent: bool
    frames: int


def read_pictures(files: list[Path], name: str) -> np.ndarray:
    """Return pictures (n, h, w, 1 or 3) as float32 in [-1, 1].

    Args:
        files: pictures of one size.
        name: what errors call the data.

    Raises:
        ValueError: one cannot be read, is too large or of another size, or all do not fit into
            memory.
    """
    headers = [_opened(file, name, _header) for file in files]
    for file, header in zip(files, headers, strict=True):
        if header.size != headers[0].size:
            rule = f"it is {_size(header)}, but {files[0].name} is {_size(headers[0])}"
            raise refuse(name, str(file), rule, "resize all images to one size")
    gray = all(header.gray for header in headers)
    (width, height), channels = headers[0].size, 1 if gray else 3
    shape = (len(files), height, width, channels)
    check_memory(name, files[0].parent, shape)
    _tell(name, files[0].parent, headers)
    found = np.empty(shape, np.float32)
    for n, file in enumerate(files):
        found[n] = _opened(file, name, lambda image: _pixels(image, gray))
    return found


def check_memory(name: str, path: Path, shape: tuple[int, ...]) -> None:
    """Raise ValueError if images of a shape, in float32, are more than the machine's memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system says
        return
    needed = 4 * int(np.prod(shape, dtype=np.float64))
    if needed > memory:
        rule = f"its images {shape} take {needed / 2**30:.3g} GiB of {memory / 2**30:.3g} GiB"
        raise refuse(name, str(path), rule, "give fewer or smaller images")


def _opened(file: Path, name: str, read: Any) -> Any:
    from PIL import Image

    try:
        # Pillow warns of what it takes for a bomb, and refuses only what is twice as large.
        bomb = Image.DecompressionBombWarning
        with warnings.catch_warnings(action="error", category=bomb), Image.open(file) as image:
            return read(image)
    except Exception as error:  # every format has its own
        rule = f"it cannot be read as an image ({' '.join(str(error).split())})"
        raise refuse(name, str(file), rule, "repair or remove the file") from error


def _header(image: Any) -> Header:
    width, height = image.size
    turned = image.getexif().get(ORIENTATION) in TURNED
    # LAB has a band called A as well.
    alpha = "A" in image.getbands() and image.mode != "LAB"
    transparent = alpha or "transparency" in image.info
    gray = image.mode in GRAY or image.mode.startswith(DEEP)
    if image.mode == "P":
        palette = np.asarray(image.getpalette("RGB") or [0, 0, 1]).reshape(-1, 3)
        gray = bool((palette == palette[:, :1]).all())
    size = (height, width) if turned else (width, height)
    return Header(size, gray, transparent, getattr(image, "n_frames", 1))


def _pixels(image: Any, gray: bool) -> np.ndarray:
    """A picture (h, w, channels) in [-1, 1]."""
    from PIL import ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("it has floating numbers of unknown range; store 8 or 16 bits")
    if image.mode.startswith(DEEP):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its numbers are not of 16 bits")
        scaled = (values / 32767.5 - 1).astype(np.float32)[..., None]
        return scaled if gray else np.repeat(scaled, 3, axis=2)
    if image.mode == "P":
        image = image.convert("RGB")  # of a gray palette the three are equal
    values = np.asarray(image.convert("L" if gray else "RGB"))
    pixels = values.astype(np.float32) / np.float32(127.5) - 1
    return pixels[..., None] if gray else pixels


def _tell(name: str, folder: Path, headers: list[Header]) -> None:
    for count, what in (
        (sum(h.transparent for h in headers), "have transparency, which is dropped"),
        (sum(h.frames > 1 for h in headers), "have several frames, of which the first is read"),
    ):
        if count:
            text = f"{name} {folder}: {count} of {len(headers)} images {what}"
            warnings.warn(text, RunWarning, stacklevel=4)


def _size(header: Header) -> str:
    return f"{header.size[0]} x {header.size[1]}"
