"""Images: the digits that ship with scikit-learn, or a user's own.

All images leave here as float32 in [-1, 1], with axes (n, height, width, channels).
"""

import os
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.data.class_folders import (
    MOST,
    class_folders,
    holds_pictures,
    inner_folders,
    picture_files,
    split_folder,
)
from ctrl_jax.data.compressed import check_ratio
from ctrl_jax.data.image_files import read_binary, refuse_pickles
from ctrl_jax.data.pictures import check_memory, read_pictures
from ctrl_jax.data.splits import Split


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


def load_folder(
    path: str | os.PathLike[str], split: Split = "train", *, name: str = "path"
) -> Images:
    """Load a user's images.

    Args:
        path: a folder of pictures of one size, or a folder of class folders of them (their labels:
            `class_folders`), or of a folder for each split, or the folder of CIFAR's binary or
            MNIST's files, or an `.npz` file with `images` (n, h, w) or (n, h, w, c), as uint8 or as
            floats in [-1, 1], and optional integer `labels` (n,).
        split: which of the splits of CIFAR, MNIST or a folder of splits; the other kinds have one
            part, "train", only.
        name: what errors call the path.

    Returns:
        Images in [-1, 1], and labels where there are any.

    Raises:
        ValueError: anything missing, unknown, unreadable, not finite or of the wrong shape, or
            more than fits into memory.
    """
    path = Path(path)
    if path.is_dir() and (pixels := read_binary(path, split, name)) is not None:
        return Images(_scale(pixels.images, name), pixels.labels)
    inner = split_folder(path, split) if path.is_dir() and not holds_pictures(path) else None
    if inner is not None:
        return _load_pictures(inner, name)
    if split != "train":
        rule = f"it is not divided into halves, of which {split} was asked for"
        raise refuse(name, str(path), rule, "give a folder in CIFAR-10's or MNIST's format")
    if path.suffix == ".npz":
        return _load_npz(path, name)
    if not path.is_dir():
        packed = path.suffix in (".gz", ".tgz", ".tar", ".zip") and path.exists()
        rule, repair = "it must be a folder or an .npz file", "check the path"
        raise refuse(name, str(path), rule, "unpack it first" if packed else repair)
    return _load_pictures(path, name)


def _load_pictures(path: Path, name: str) -> Images:
    files = picture_files(path)
    groups = {label: picture_files(folder) for label, folder in class_folders(path).items()}
    some = {label: group for label, group in groups.items() if group}
    if files and some:
        rule = "it has images both beside and inside class folders"
        raise refuse(name, str(path), rule, "move all images into class folders, or none")
    if files:
        return Images(read_pictures(files, name), None)
    if not some:
        refuse_pickles(path, name)
        deeper = [
            folder
            for folder in sorted(inner_folders(path))
            if any(map(holds_pictures, folder.iterdir()))
        ]
        rule, repair = "it holds no png or jpg or other images", "check the path"
        if deeper:
            rule = f"its images lie deeper, in folders of {deeper[0].name}"
            repair = "give the folder that holds the class folders"
        raise refuse(name, str(path), rule, repair)
    if len(some) < len(groups):
        folders = class_folders(path)
        empty = [f"{folders[label].name} ({label})" for label in groups if label not in some]
        text = f"{name} {path}: class folders without images: {', '.join(empty)}"
        warnings.warn(text, RunWarning, stacklevel=4)
    labels = np.repeat(np.array([*some], np.int32), [len(group) for group in some.values()])
    return Images(read_pictures([file for group in some.values() for file in group], name), labels)


def _load_npz(path: Path, name: str) -> Images:
    try:
        with zipfile.ZipFile(path) as archive:
            keys = sorted(item.filename.removesuffix(".npy") for item in archive.infolist())
            unpacked = sum(item.file_size for item in archive.infolist())
    except FileNotFoundError as error:
        raise refuse(name, str(path), "there is no such file", "check the path") from error
    except Exception as error:
        raise _unread_npz(path, name, error) from error
    if "images" not in keys or {*keys} - {"images", "labels"}:
        rule = "its keys must be images and, if there are any, labels"
        raise refuse(f"{name} {path}", keys, rule, "rename or remove the others")
    check_ratio(name, path, unpacked)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in keys}
    except Exception as error:
        raise _unread_npz(path, name, error) from error
    images = _scale(arrays["images"], f"{name} {path}: images")
    labels = arrays.get("labels")
    where = f"{name} {path}: labels"
    return Images(images, None if labels is None else _check_labels(where, labels, len(images)))


def _unread_npz(path: Path, name: str, error: Exception) -> ValueError:
    rule = f"it cannot be read as an .npz file of plain arrays ({error})"
    return refuse(name, str(path), rule, "write it again with numpy.savez")


def _scale(pixels: np.ndarray, name: str) -> np.ndarray:
    """Check an array of images and bring it to (n, h, w, c) float32 in [-1, 1]."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.size == 0 or pixels.shape[-1] > 4:
        rule = "its shape must be (n, h, w) or (n, h, w, c) with c at most 4, and nothing 0"
        first = pixels.ndim == 4 and pixels.shape[1] <= 4
        repair = "move the channels there, by np.moveaxis(images, 1, -1)" if first else "reshape it"
        raise refuse(name, pixels.shape, rule, repair)
    check_memory(name, Path(), pixels.shape)
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


def _check_labels(name: str, labels: np.ndarray, count: int) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise refuse(name, str(labels.dtype), "they must be integers", "convert them")
    if labels.shape != (count,):
        raise refuse(name, labels.shape, f"one per image is needed: ({count},)", "match the images")
    if labels.min() < 0 or labels.max() > MOST:
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        rule = f"they must be zero or above, and at most {MOST}"
        raise refuse(name, wrong, rule, "renumber the classes")
    return labels.astype(np.int32)
