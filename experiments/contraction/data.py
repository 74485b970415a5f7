"""What the learned experiments train on, and how far samples are from it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.data import load_digits, load_folder
from ctrl_jax.metrics.frechet import feature_moments, frechet_to
from ctrl_jax.metrics.wasserstein import sliced_wasserstein
from ctrl_jax.runtime import refuse

_BLUR = 0.05


class Task(NamedTuple):
    """Data and a distance to them.

    Fields:
        name: of the experiment.
        train: examples (n, ...), centered.
        center: what was subtracted from them, of shape (...).
        std: standard deviation of a coordinate.
        distance: of samples (m, ...) on the host to held-out data.
        metric: its name.
        floor: distance of as many training examples.
        curve: points (k, d), where the data are these with noise; None where the law is unknown.
        blur: std of that noise.
    """

    name: str
    train: jax.Array
    center: np.ndarray
    std: float
    distance: Callable[[np.ndarray], float]
    metric: str
    floor: float
    curve: jax.Array | None = None
    blur: float = 0.0


def swiss_roll(samples: int) -> Task:
    """Return the Swiss roll seen from the side, in units of a tenth, and the sliced W2."""
    train, held_out = (_roll(number, seed) for seed, number in enumerate((20000, 4096)))
    key = jax.random.key(0)
    sliced = jax.jit(lambda x: sliced_wasserstein(key, x, held_out, projections=64))

    def distance(x):
        return float(sliced(jnp.asarray(x)))

    floor = distance(train[:samples])
    angle = 1.5 * jnp.pi * (1 + 2 * (jnp.arange(4000) + 0.5) / 4000)
    curve = jnp.stack([angle * jnp.cos(angle), angle * jnp.sin(angle)], axis=1) / 10
    std = float(train.std())
    return Task("swiss_roll", train, np.zeros(2), std, distance, "sliced W2", floor, curve, _BLUR)


def _roll(number: int, seed: int) -> jax.Array:
    from sklearn.datasets import make_swiss_roll

    points, _ = make_swiss_roll(number, noise=10 * _BLUR, random_state=seed)
    plane = points[:, [0, 2]] / 10
    return jnp.asarray(plane, jnp.float32)


def images(folder: str | None, samples: int) -> Task:
    """Return digits or the user's images, and the Frechet distance of their pixels.

    Raises:
        ValueError: the images cannot be used; the message says why.
    """
    if folder is None:
        digits = load_digits()
        train, held_out = digits.train_images, digits.held_out_images
    else:
        pixels = load_folder(folder, name="data").images
        pixels = pixels[np.random.default_rng(0).permutation(len(pixels))]
        train, held_out = np.array_split(pixels, 2)
    if len(held_out) < 100:
        rule = "at least 200 images are needed, half of them held out"
        raise refuse("data", folder, rule, "add images")
    center = train.mean(axis=0)
    train = train - center
    to_held_out = frechet_to(feature_moments(held_out - center))

    def distance(x):
        return to_held_out(np.nan_to_num(x, nan=1e3, posinf=1e3, neginf=-1e3))

    floor = distance(train[:samples])
    std = float(train.std())
    return Task("images", jnp.asarray(train), center, std, distance, "Frechet of pixels", floor)
