"""Images to train on, from files or made; and the batches of every update."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ctrl_jax._sums import SUMS, changed_files, write_sums
from ctrl_jax.algorithms import DataBatch
from ctrl_jax.data import load_folder
from ctrl_jax.data.image_files import write_cifar10
from ctrl_jax.runtime import RunWarning, refuse
from ctrl_jax.runtime.devices.distributed import barrier

TINY_SHAPE, TINY_IMAGES, TINY_HELD_OUT = (32, 32, 3), 256, 64


class Images(NamedTuple):
    """Images (n, h, w, 3) in [-1, 1] to train on, and held-out ones where they were asked for."""

    train: np.ndarray
    held_out: np.ndarray | None


def load_images(folder: str, batch: int, likelihood: int) -> Images:
    """Return the images of a folder, with the first `likelihood` held-out ones.

    Raises:
        ValueError: they cannot be read, are not in color, are fewer than a batch, or there are no
            held-out ones but `likelihood` asks for some.
    """
    images = load_folder(folder, name="data").images
    if images.shape[-1] != 3:
        rule = f"its images have {images.shape[-1]} channels; 3 are needed"
        raise refuse("data", folder, rule, "convert them to color")
    if min(images.shape[1:3]) < 4:
        rule = f"its images are {images.shape[1]} x {images.shape[2]}; 4 x 4 is the least"
        raise refuse("data", folder, rule, "give larger ones")
    if len(images) < batch:
        rule = f"it has {len(images)} images, fewer than a batch of {batch}"
        raise refuse("data", folder, rule, "give more, or a smaller --optimization.batch")
    if likelihood == 0:
        return Images(images, None)
    held_out = load_folder(folder, "test", name="data").images
    if len(held_out) < likelihood:
        rule = f"{folder} holds {len(held_out)} test images"
        raise refuse("evaluation.likelihood", likelihood, rule, "ask for no more than that")
    return Images(images, held_out[:likelihood])


def make_tiny_set(folder: Path) -> Path:
    """Write soft colored discs on a shaded ground as CIFAR-10's files, unless they are there.

    The numbers are the same everywhere; process 0 writes, all wait.
    """
    changed = changed_files(folder)
    if changed:
        text = f"{folder}: {', '.join(changed)} changed on disk; the set is written again"
        warnings.warn(text, RunWarning, stacklevel=2)
    if jax.process_index() == 0 and (changed or not (folder / SUMS).exists()):
        folder.mkdir(parents=True, exist_ok=True)
        images, labels = _discs(TINY_IMAGES)
        half = TINY_IMAGES // 2
        write_cifar10(folder / "data_batch_1.bin", images[:half], labels[:half])
        write_cifar10(folder / "data_batch_2.bin", images[half:], labels[half:])
        write_cifar10(folder / "test_batch.bin", *_discs(TINY_HELD_OUT, seed=1))
        write_sums(folder)
    barrier("tiny data set")
    return folder


def make_batches(
    images: np.ndarray, batch: int, seed: int, *, flips: bool
) -> Callable[[int], DataBatch]:
    """Return ``batches(k)``: all images in a new order every epoch.

    It depends on (seed, k) alone, so that a resumed run sees what the uninterrupted one saw.
    """
    per_epoch = len(images) // batch

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, 0, epoch]).permutation(len(images))

    def batches(k: int) -> DataBatch:
        epoch, place = divmod(k, per_epoch)
        rows = order(epoch)[place * batch : (place + 1) * batch]
        mirror = np.random.default_rng([seed, 1, k]).random(batch) < (0.5 if flips else 0.0)
        chosen = images[rows]
        shown = np.where(mirror[:, None, None, None], chosen[:, :, ::-1], chosen)
        return DataBatch(shown)  # pyright: ignore[reportArgumentType]

    return batches


def _discs(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32][:, None, ..., None] / 31
    ground, color = generator.uniform(0, 1, (2, number, 1, 1, 3))
    center = generator.uniform(0.25, 0.75, (2, number, 1, 1, 1))
    radius = generator.uniform(0.1, 0.35, (number, 1, 1, 1))
    distance = np.hypot(x - center[0], y - center[1])
    inside = 1 / (1 + np.exp(40 * (distance - radius)))
    values = (ground * (0.6 + 0.4 * y)) * (1 - inside) + color * inside
    labels = np.floor(10 * (radius[:, 0, 0, 0] - 0.1) / 0.25).astype(np.int64)
    return np.round(255 * values).astype(np.uint8), np.clip(labels, 0, 9)
