"""The binary files that CIFAR-10 and MNIST are published in.

    CIFAR-10  data_batch_1.bin ... data_batch_5.bin, test_batch.bin: records of 3073 bytes, a label
              0-9, then 32 x 32 red, green and blue values, rows first.
    MNIST     train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-...: big-endian, the number
              0x00000803 or 0x00000801, the size of each axis, then bytes; plain or gzipped.

CIFAR-10 is published as Python pickles too. They are refused: to read a pickle is to execute it.
"""

import gzip
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ctrl_jax._checks import refuse

Split = Literal["train", "test"]

CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_FILES: dict[Split, str] = {"train": "data_batch_*.bin", "test": "test_batch.bin"}
MNIST_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}
MNIST_IMAGES = "{}-images-idx3-ubyte"
MNIST_LABELS = "{}-labels-idx1-ubyte"


class Pixels(NamedTuple):
    """Images (n, h, w, c) uint8 and labels (n,) int32."""

    images: np.ndarray
    labels: np.ndarray


def read_binary(folder: Path, split: Split = "train") -> Pixels | None:
    """Return the images of a folder in one of the two formats; None where it holds neither.

    Args:
        folder: where the files lie.
        split: which half of the published set; a folder with another half only is refused.

    Raises:
        ValueError: a file is missing, truncated, of another format, or a pickle.
    """
    if _has_cifar(folder):
        return read_cifar10(folder, split)
    if _has_mnist(folder):
        return read_mnist(folder, split)
    _refuse_pickles(folder)
    return None


def read_cifar10(folder: Path, split: Split = "train") -> Pixels:
    """Return the images and labels of CIFAR-10's binary files, those of `split` in order.

    Raises:
        ValueError: a file is missing, or not a whole number of records with labels 0 to 9.
    """
    files = sorted(folder.glob(CIFAR_FILES[split]))
    if not files:
        rule = f"it holds no {CIFAR_FILES[split]}"
        raise refuse("data", str(folder), rule, "add the missing files of the binary version")
    parts = [_read_records(file) for file in files]
    return Pixels(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def write_cifar10(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write images (n, 32, 32, 3) uint8 and labels 0 to 9 as a file of CIFAR-10's binary format."""
    pixels = np.moveaxis(images, -1, 1).reshape(len(images), -1)
    records = np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)
    path.write_bytes(records.tobytes())


def read_mnist(folder: Path, split: Split = "train") -> Pixels:
    """Return the images and labels of MNIST's files, or of another set in its format.

    Raises:
        ValueError: a file is missing, truncated, of another format, or labels do not match.
    """
    prefix = MNIST_PREFIX[split]
    images = _read_idx(folder, MNIST_IMAGES.format(prefix), axes=3)
    labels = _read_idx(folder, MNIST_LABELS.format(prefix), axes=1)
    if len(images) != len(labels):
        rule = f"it has {len(images)} images and {len(labels)} labels of {prefix}"
        raise refuse("data", str(folder), rule, "fetch both files again")
    return Pixels(images[..., None], labels.astype(np.int32))


def _has_cifar(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in CIFAR_FILES.values())


def _has_mnist(folder: Path) -> bool:
    return any(folder.glob("*-images-idx3-ubyte*"))


def _refuse_pickles(folder: Path) -> None:
    pickles = [*folder.glob("data_batch_[0-9]"), *folder.glob("test_batch"), *folder.glob("*.pkl")]
    if pickles:
        raise refuse(
            "data",
            str(pickles[0]),
            "it is a Python pickle, and to read a pickle is to execute the code in it",
            "fetch the binary version (cifar-10-binary.tar.gz: data_batch_1.bin, ...)",
        )


def _read_records(file: Path) -> Pixels:
    size = file.stat().st_size
    if size == 0 or size % CIFAR_RECORD:
        rule = f"its {size} bytes are no whole number of records of {CIFAR_RECORD}"
        raise refuse("data", str(file), rule, "it is truncated or another format: fetch it again")
    records = np.fromfile(file, np.uint8).reshape(-1, CIFAR_RECORD)
    if records[:, 0].max() > 9:
        rule = f"it has a label {records[:, 0].max()}; CIFAR-10 has 0 to 9"
        raise refuse("data", str(file), rule, "it is another format: fetch it again")
    images = records[:, 1:].reshape(-1, *CIFAR_SHAPE)
    return Pixels(np.moveaxis(images, 1, -1), records[:, 0].astype(np.int32))


def _read_idx(folder: Path, name: str, axes: int) -> np.ndarray:
    file = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if file is None:
        rule = f"it holds neither {name} nor {name}.gz"
        raise refuse("data", str(folder), rule, "add the missing file")
    content = _read_bytes(file)
    head = 4 * (1 + axes)
    magic = int.from_bytes(content[:4], "big")
    if len(content) < head or magic != 0x0800 + axes:
        rule = f"it begins with {content[:4].hex() or 'nothing'}, not with {0x0800 + axes:08x}"
        raise refuse("data", str(file), rule, "it is another format: fetch it again")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", axes, offset=4))
    if len(content) - head != np.prod(shape, dtype=np.int64):
        rule = f"it has {len(content) - head} bytes of pixels or labels where {shape} is announced"
        raise refuse("data", str(file), rule, "it is truncated or damaged: fetch it again")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _read_bytes(file: Path) -> bytes:
    if file.suffix != ".gz":
        return file.read_bytes()
    try:
        with gzip.open(file) as stream:
            return stream.read()
    except (OSError, EOFError, zlib.error) as error:
        rule = f"it cannot be unzipped ({error})"
        raise refuse("data", str(file), rule, "fetch it again") from error
