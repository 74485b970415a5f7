"""Images: the digits that ship with scikit-learn, or a user's own.

All images leave here as float32 in [-1, 1], with axes (n, height, width, channels).
"""

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.data.image_files import Split, read_binary

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_GRAY = frozenset({"1", "L", "LA"})
_COLOR = frozenset({"RGB", "RGBA", "P", "PA"})


class Digits(NamedTuple):
    """Real handwritten digits of 8 x 8 pixels, in two halves.

    Fields:
        train_images: (n, 8, 8, 1) float32 in [-1, 1], for pre-training.
        train_labels: (n,) int32, 0 to 9.
        held_out_images: (m, 8, 8, 1) float32 in [-1, 1], for what must not have seen them.
        held_out_labels: (m,) int32, 0 to 9.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    held_out_images: np.ndarray
    held_out_labels: np.ndarray


class Images(NamedTuple):
    """Images in memory.

    Fields:
        images: (n, height, width, channels) float32 in [-1, 1].
        labels: (n,) int32, or None where there are none.
    """

    images: np.ndarray
    labels: np.ndarray | None


def load_digits() -> Digits:
    """Load scikit-learn's handwritten digits, split in two halves class by class.

    The split is the same everywhere: the first half is for pre-training, the second for what
    must not have seen it.

    Returns:
        Images in [-1, 1] and labels 0 to 9.
    """
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    images = (np.asarray(images, np.float32) / 8 - 1).reshape(-1, 8, 8, 1)
    labels = np.asarray(labels, np.int32)
    random = np.random.RandomState(0)
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        members = random.permutation(np.flatnonzero(labels == digit))
        held_out[members[len(members) // 2 :]] = True
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def load_folder(path: str | os.PathLike[str], split: Split = "train") -> Images:
    """Load a user's images.

    Args:
        path: a folder of png or jpg files of one size, or a folder of class folders of them
            (labels follow the folders' names in order), or the folder of CIFAR-10's binary or
            MNIST's files, or an `.npz` file with `images` (n, h, w) or (n, h, w, c), as uint8
            or as floats in [-1, 1], and optional integer `labels` (n,).
        split: which half of CIFAR-10 or MNIST; the other kinds have one part, "train", only.

    Returns:
        Images in [-1, 1], and labels where there are any.

    Raises:
        ValueError: anything missing, unknown, unreadable, not finite or of the wrong shape.
    """
    path = Path(path)
    if path.is_dir() and (pixels := read_binary(path, split)) is not None:
        return Images(_scale(pixels.images, "data"), pixels.labels)
    if split != "train":
        rule = f"it is not divided into halves, of which {split} was asked for"
        raise refuse("data", str(path), rule, "give a folder in CIFAR-10's or MNIST's format")
    if path.suffix == ".npz":
        return _load_npz(path)
    if not path.is_dir():
        raise refuse("data", str(path), "it must be a folder or an .npz file", "check the path")
    folders = sorted(p for p in path.iterdir() if p.is_dir() and _image_files(p))
    files = _image_files(path)
    if files and folders:
        rule = "it has images both beside and inside class folders"
        raise refuse("data", str(path), rule, "move all images into class folders, or none")
    if not files and not folders:
        raise refuse("data", str(path), "it holds no png or jpg images", "check the path")
    labels = None
    if folders:
        groups = [_image_files(folder) for folder in folders]
        files = [file for group in groups for file in group]
        labels = np.repeat(np.arange(len(groups), dtype=np.int32), [len(g) for g in groups])
    return Images(_read_images(files), labels)


def _image_files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    images = [file for file in files if file.suffix.lower() in _SUFFIXES]
    if images and len(images) < len(files):
        count = len(files) - len(images)
        text = f"data {folder}: {count} files that are not png or jpg are left out"
        warnings.warn(text, RunWarning, stacklevel=4)
    return images


def _read_images(files: list[Path]) -> np.ndarray:
    """Read images of one size, as gray where all are gray; transparency is dropped."""
    from PIL import Image

    read: list[Any] = []
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
                read.append(image.copy())
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            rule = f"it cannot be read as an image ({error})"
            raise refuse("data", str(file), rule, "repair or remove the file") from error
        if image.mode not in _GRAY | _COLOR:
            rule = f"its mode {image.mode} is not 8-bit gray or color"
            raise refuse("data", str(file), rule, "convert it to 8-bit PNG")
        if image.size != read[0].size:
            rule = f"it is {_size(image)}, but {files[0].name} is {_size(read[0])}"
            raise refuse("data", str(file), rule, "resize all images to one size")
    mode = "L" if all(image.mode in _GRAY for image in read) else "RGB"
    pixels = np.stack([np.asarray(image.convert(mode)) for image in read])
    return _scale(pixels, "data")


def _size(image: Any) -> str:
    return f"{image.width} x {image.height}"


def _load_npz(path: Path) -> Images:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError as error:
        raise refuse("data", str(path), "there is no such file", "check the path") from error
    except Exception as error:
        rule = f"it cannot be read as an .npz file of plain arrays ({error})"
        raise refuse("data", str(path), rule, "write it again with numpy.savez") from error
    unknown = sorted({*arrays} - {"images", "labels"})
    if unknown or "images" not in arrays:
        rule = "its keys must be images and, if there are any, labels"
        raise refuse(f"data {path}", sorted(arrays), rule, "rename or remove the others")
    images = _scale(arrays["images"], f"data {path}: images")
    labels = arrays.get("labels")
    return Images(images, None if labels is None else _check_labels(path, labels, len(images)))


def _scale(pixels: np.ndarray, name: str) -> np.ndarray:
    """Check an array of images and bring it to (n, h, w, c) float32 in [-1, 1]."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.size == 0 or pixels.shape[-1] > 4:
        rule = "its shape must be (n, h, w) or (n, h, w, c) with c at most 4, and nothing 0"
        raise refuse(name, pixels.shape, rule, "reshape it")
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(127.5) - 1
    if not np.issubdtype(pixels.dtype, np.floating):
        raise refuse(name, str(pixels.dtype), "it must be uint8 or floating", "convert it")
    if not np.isfinite(pixels).all():
        count = int((~np.isfinite(pixels)).sum())
        raise refuse(
            name, f"{count} NaN or inf", "all values must be finite", "remove those images"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if low < -1 or high > 1:
        rule = "floats must lie in [-1, 1]"
        raise refuse(name, (low, high), rule, "scale them, or store uint8 from 0 to 255")
    if low >= 0:
        text = f"{name}: values lie in [{low:g}, {high:g}]; [-1, 1] is expected, 0 being mid-gray"
        warnings.warn(text, RunWarning, stacklevel=4)
    return pixels.astype(np.float32)


def _check_labels(path: Path, labels: np.ndarray, count: int) -> np.ndarray:
    name = f"data {path}: labels"
    if not np.issubdtype(labels.dtype, np.integer):
        raise refuse(name, str(labels.dtype), "they must be integers", "convert them")
    if labels.shape != (count,):
        raise refuse(name, labels.shape, f"one per image is needed: ({count},)", "match the images")
    if labels.min() < 0:
        raise refuse(name, int(labels.min()), "they must be zero or above", "renumber the classes")
    return labels.astype(np.int32)
