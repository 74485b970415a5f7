"""What becomes of a picture before an image tower sees it, in JAX.

Read from the `preprocessor_config.json` of a folder, or from the part `image_processor` of its
`processor_config.json`, which goes first, as in transformers.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._records import read_json
from ctrl_jax.pretrained.record_entries import Entries
from ctrl_jax.rewards.pictures import as_bytes, read_pictures
from ctrl_jax.rewards.resize import Kernel, resize

FILE, NESTED = "preprocessor_config.json", "processor_config.json"
KERNELS: dict[int, Kernel] = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
USUAL = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_valid_processor_keys",
    "data_format",
    "input_data_format",
    "return_tensors",
}


class Preprocessing(NamedTuple):
    """How pictures are brought to a tower's size and scale.

    Fields:
        height: of what the tower sees, in pixels.
        width: the same.
        shortest: the shorter side before the middle is cut out; None where pictures are stretched
            to height and width.
        kernel: of the resizing.
        mean: of each channel, taken off.
        std: of each channel, divided by.
        padded: whether all of a picture is shown instead, its longer side brought to `height`, and
            black beside it.
    """

    height: int
    width: int
    shortest: int | None
    kernel: Kernel
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padded: bool = False

    def __call__(self, pictures: Float[Array, "batch h w 3"]) -> Float[Array, "batch rows cols 3"]:
        """Return what the tower sees of pictures in [0, 1], rounded as in files.

        Args:
            pictures: what lies beyond [0, 1] is cut.

        Raises:
            ValueError: they have another shape, or are whole numbers.
        """
        pictures = as_bytes(read_pictures("pictures", pictures))
        height, width = self._before_crop(*pictures.shape[1:3])
        pictures = resize(pictures, height, width, kernel=self.kernel)
        if self.padded:
            rows, columns = self.height - height, self.width - width
            around = [(0, 0), *((n // 2, n - n // 2) for n in (rows, columns)), (0, 0)]
            pictures = jnp.pad(pictures, around)
        else:
            top, left = (height - self.height) // 2, (width - self.width) // 2
            pictures = pictures[:, top : top + self.height, left : left + self.width]
        mean, std = (
            jnp.asarray(values, pictures.dtype).reshape(1, 1, 1, 3)
            for values in (self.mean, self.std)
        )
        return (pictures - mean) / std

    def _before_crop(self, rows: int, columns: int) -> tuple[int, int]:
        if self.padded:
            scale = self.height / max(rows, columns)
            return round(rows * scale), round(columns * scale)
        if self.shortest is None:
            return self.height, self.width
        longest = int(self.shortest * max(rows, columns) / min(rows, columns))
        return (self.shortest, longest) if rows <= columns else (longest, self.shortest)


def read_preprocessing(folder: str | os.PathLike[str]) -> Preprocessing:
    """Return what `preprocessor_config.json` or `processor_config.json` of a folder asks for.

    Args:
        folder: of a saved model.

    Raises:
        ValueError: there is no such file, or an entry of it is not understood.
    """
    entries = _entries(Path(folder))
    for key in ("do_resize", "do_rescale", "do_normalize"):
        entries.expect(key, True)
    entries.get("do_convert_rgb", bool, True)  # pictures have three channels here
    factor = entries.positive("rescale_factor", 1 / 255)
    if abs(factor * 255 - 1) > 1e-6:
        raise entries.refuse("rescale_factor", factor, "only 1/255 is implemented")
    kernel = entries.get("resample", int, 3)
    if kernel not in KERNELS:
        rule = "only 2, bilinear, and 3, bicubic, are implemented"
        raise entries.refuse("resample", kernel, rule)
    height, width, shortest = _sizes(entries)
    mean, std = (_channels(entries, key) for key in ("image_mean", "image_std"))
    if min(std) <= 0:
        raise entries.refuse("image_std", std, "it must list numbers above zero")
    entries.finish(USUAL)
    return Preprocessing(height, width, shortest, KERNELS[kernel], mean, std)


def _entries(folder: Path) -> Entries:
    repair = "save the image processor there with its save_pretrained"
    if (folder / NESTED).is_file():
        nested = read_json(folder / NESTED, name="folder", repair=repair).get("image_processor")
        if isinstance(nested, dict):
            return Entries(nested, f"{NESTED}: image_processor")
    return Entries(read_json(folder / FILE, name="folder", repair=repair), FILE)


def _sizes(entries: Entries) -> tuple[int, int, int | None]:
    """Height and width that the tower sees, and the shorter side that the middle is cut out of."""
    size = _size(entries, "size", {"shortest_edge": 224})
    cut = entries.get("do_center_crop", bool, True)
    crop = _size(entries, "crop_size", {"height": 224, "width": 224})
    shortest = size.get("shortest_edge")
    if shortest is None:
        sides = size["height"], size["width"]
        if cut and sides != (crop.get("height"), crop.get("width")):
            rule = f"the middle of pictures of size {sides} must be all of it"
            raise entries.refuse("crop_size", crop, rule)
        return *sides, None
    if not cut or "height" not in crop:
        rule = "with size.shortest_edge a middle of crop_size height and width must be cut out"
        raise entries.refuse("do_center_crop", cut, rule)
    if max(crop.values()) > shortest:
        rule = f"it must be at most the shorter side, {shortest}"
        raise entries.refuse("crop_size", crop, rule)
    return crop["height"], crop["width"], shortest


def _size(entries: Entries, key: str, default: Mapping[str, int]) -> dict[str, int]:
    """A size as it is written today, or one number, which older files have."""
    value = entries.record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        old = {"shortest_edge": value} if key == "size" else {"height": value, "width": value}
        entries.asked.add(key)
        value = old
    else:
        value = entries.get(key, dict, dict(default))
    known = [{"shortest_edge"}, {"height", "width"}]
    if {*value} not in known or not all(type(v) is int and 0 < v < 2**15 for v in value.values()):
        rule = "it must say shortest_edge, or height and width, as whole numbers above zero"
        raise entries.refuse(key, value, rule)
    return value


def _channels(entries: Entries, key: str) -> tuple[float, ...]:
    value: Any = entries.get(key, list)
    if len(value) != 3 or not all(type(v) in (int, float) and abs(v) < 1e3 for v in value):
        raise entries.refuse(key, value, "it must list three numbers")
    return tuple(map(float, value))
