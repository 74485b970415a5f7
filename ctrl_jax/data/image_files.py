"""The binary files that CIFAR and MNIST are published in.

    CIFAR-10   data_batch_1.bin ... data_batch_5.bin, test_batch.bin: records of 3073 bytes, a label
               0-9, then 32 x 32 red, green and blue values, rows first.
    CIFAR-100  train.bin, test.bin: the same with two labels, 0-19 and 0-99, of which the second is
               read.
    MNIST      train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-...: big-endian, the number
               0x00000803 or 0x00000801, the size of each axis, then bytes; plain or gzipped.

The folder may also be the one that theirs lies in. CIFAR is published as Python pickles too. They
are refused: to read a pickle is to execute it.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._whole import whole_file
from ctrl_jax.data.compressed import check_ratio
from ctrl_jax.data.splits import Split

CIFAR_SHAPE = (3, 32, 32)
CIFAR_PIXELS = 3 * 32 * 32
CIFAR_RECORD = 1 + CIFAR_PIXELS
CIFAR_FILES: dict[Split, str] = {"train": "data_batch_*.bin", "test": "test_batch.bin"}
CIFAR_100_FILES: dict[Split, str] = {"train": "train.bin", "test": "test.bin"}
MNIST_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}
MNIST_IMAGES = "{}-images-idx3-ubyte"
MNIST_LABELS = "{}-labels-idx1-ubyte"
UNPACKED = ("cifar-10-batches-bin", "cifar-100-binary", "raw", "MNIST/raw", "MNIST")
PICKLE = b"\x80"  # how they begin, of every protocol since 2


class Pixels(NamedTuple):
    """Images (n, h, w, c) uint8 and labels (n,) int32."""

    images: np.ndarray
    labels: np.ndarray


def read_binary(folder: Path, split: Split = "train", name: str = "path") -> Pixels | None:
    """Return the images of a folder in one of the formats; None where it holds none of them.

    Args:
        folder: where the files lie, or the folder that they unpack to.
        split: which half of the published set; a folder with another half only is refused.
        name: what errors call the folder.

    Raises:
        ValueError: a file is missing, truncated or of another format.
    """
    for place in (folder, *(folder / inner for inner in UNPACKED)):
        if not place.is_dir():
            continue
        if _has(place, CIFAR_FILES):
            return read_cifar10(place, split, name)
        if _has(place, CIFAR_100_FILES):
            return _read_cifar(place, CIFAR_100_FILES[split], 2, name)
        if any(place.glob("*-images[-.]idx3-ubyte*")):
            return read_mnist(place, split, name)
    return None


def read_cifar10(folder: Path, split: Split = "train", name: str = "path") -> Pixels:
    """Return the images and labels of CIFAR-10's binary files, those of `split` in order.

    Raises:
        ValueError: a file is missing, or not a whole number of records with labels 0 to 9.
    """
    return _read_cifar(folder, CIFAR_FILES[split], 1, name)


def _read_cifar(folder: Path, pattern: str, labels: int, name: str) -> Pixels:
    files = sorted(folder.glob(pattern))
    if not files:
        rule = f"it holds no {pattern}"
        raise refuse(name, str(folder), rule, "add the missing files of the binary version")
    parts = [_read_records(file, labels, name) for file in files]
    return Pixels(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def write_cifar10(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write images (n, 32, 32, 3) uint8 and labels 0 to 9 as a file of CIFAR-10's binary format."""
    pixels = np.moveaxis(images, -1, 1).reshape(len(images), -1)
    records = np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)
    with whole_file(path) as part:
        part.write_bytes(records.tobytes())


def read_mnist(folder: Path, split: Split = "train", name: str = "path") -> Pixels:
    """Return the images and labels of MNIST's files, or of another set in its format.

    Raises:
        ValueError: a file is missing, truncated, of another format, or labels do not match.
    """
    prefix = MNIST_PREFIX[split]
    images = _read_idx(folder, MNIST_IMAGES.format(prefix), 3, name)
    labels = _read_idx(folder, MNIST_LABELS.format(prefix), 1, name)
    if len(images) != len(labels):
        rule = f"it has {len(images)} images and {len(labels)} labels of {prefix}"
        raise refuse(name, str(folder), rule, "fetch both files again")
    return Pixels(images[..., None], labels.astype(np.int32))


def refuse_pickles(folder: Path, name: str) -> None:
    """Raise ValueError if a folder, or one in it, holds a Python pickle; none is opened as one."""
    for file in sorted(path for place in (folder, *_folders(folder)) for path in place.iterdir()):
        if file.is_file() and _begins(file, PICKLE):
            rule = "it is a Python pickle, and to read a pickle is to execute the code in it"
            repair = "fetch the binary version (cifar-10-binary.tar.gz: data_batch_1.bin, ...)"
            raise refuse(name, str(file), rule, repair)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]


def _begins(file: Path, start: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(start)) == start


def _has(folder: Path, files: dict[Split, str]) -> bool:
    return any(any(folder.glob(pattern)) for pattern in files.values())


def _read_records(file: Path, labels: int, name: str) -> Pixels:
    """The records of a file, each with as many labels, of which the last one counts."""
    size, record = file.stat().st_size, labels + CIFAR_PIXELS
    if size == 0 or size % record:
        rule = f"its {size} bytes are no whole number of records of {record}"
        raise refuse(name, str(file), rule, "it is truncated or another format: fetch it again")
    records = np.fromfile(file, np.uint8).reshape(-1, record)
    found, most = records[:, labels - 1], {1: 9, 2: 99}[labels]
    if found.max() > most:
        rule = f"it has a label {found.max()}; CIFAR-{most + 1} has 0 to {most}"
        raise refuse(name, str(file), rule, "it is another format: fetch it again")
    images = records[:, labels:].reshape(-1, *CIFAR_SHAPE)
    return Pixels(np.moveaxis(images, 1, -1), found.astype(np.int32))


def _read_idx(folder: Path, stem: str, axes: int, name: str) -> np.ndarray:
    file = _idx_file(folder, stem)
    if file is None:
        rule = f"it holds neither {stem} nor {stem}.gz"
        raise refuse(name, str(folder), rule, "add the missing file")
    content = _read_bytes(file, name)
    head = 4 * (1 + axes)
    magic = int.from_bytes(content[:4], "big")
    if len(content) < head or magic != 0x0800 + axes:
        rule = f"it begins with {content[:4].hex() or 'nothing'}, not with {0x0800 + axes:08x}"
        raise refuse(name, str(file), rule, "it is another format: fetch it again")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", axes, offset=4))
    if len(content) - head != math.prod(shape):
        rule = f"it has {len(content) - head} bytes of pixels or labels where {shape} is announced"
        raise refuse(name, str(file), rule, "it is truncated or damaged: fetch it again")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _idx_file(folder: Path, stem: str) -> Path | None:
    """The file; some unpackers write a dot for a hyphen, or a folder of its name around it."""
    names = [f"{s}{end}" for end in ("", ".gz") for s in (stem, stem.replace("-idx", ".idx"))]
    outer = [folder / name for name in names]
    inner = [place / name for place in outer if place.is_dir() for name in names]
    return next((file for file in (*outer, *inner) if file.is_file()), None)


def _read_bytes(file: Path, name: str) -> bytes:
    if file.suffix != ".gz":
        return file.read_bytes()
    parts, size = [], 0
    try:
        with gzip.open(file) as stream:
            while part := stream.read(2**20):
                parts.append(part)
                size += len(part)
                check_ratio(name, file, size)
    except (OSError, EOFError, zlib.error) as error:
        rule = f"it cannot be unzipped ({error})"
        raise refuse(name, str(file), rule, "fetch it again") from error
    return b"".join(parts)
