"""The data sets, and how near samples are to them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.data import load_digits
from ctrl_jax.metrics import distances
from ctrl_jax.processes import VP, LinearProcess
from experiments.datasets import draw_roll

MATCHED = 1024  # points of a roll that are matched exactly


class Task(NamedTuple):
    """A data set with its process and its measure of quality.

    Fields:
        name: as the options call it.
        shape: of one example.
        process: the forward process.
        end: forward time at which sampling stops.
        data_std: standard deviation of a coordinate.
        batch: ``batch(generator, number)`` draws training data.
        quality: distances of samples from held-out data by name; smaller is better.
        floor: the distances of as many true data.
        number: samples that `quality` compares at a time.
    """

    name: str
    shape: tuple[int, ...]
    process: LinearProcess
    end: float
    data_std: float
    batch: Callable[[np.random.Generator, int], np.ndarray]
    quality: Callable[[np.ndarray], dict[str, float]]
    floor: dict[str, float]
    number: int


def make_task(name: str, samples: int) -> Task:
    """Return the task of that name."""
    return swiss_roll(samples) if name == "swiss_roll" else digits()


def swiss_roll(samples: int) -> Task:
    """Return the spiral, with the sliced distance and the exact one of a part of the points."""
    generator = np.random.default_rng(12345)
    reference, other = (draw_roll(generator, samples) for _ in range(2))
    sliced = jax.jit(distances.sliced_wasserstein)

    def quality(points):
        slices = sliced(jax.random.key(7), jnp.asarray(points), jnp.asarray(reference))
        exact = distances.wasserstein_assignment(points[:MATCHED], reference[:MATCHED])
        return {"sliced W2": float(slices), "W2": exact}

    return Task(
        "swiss_roll",
        (2,),
        VP(),
        2e-3,
        float(reference.std()),
        draw_roll,
        quality,
        quality(other),
        samples,
    )


def digits() -> Task:
    """Return the 8x8 digits; Frechet distances of a classifier's features and of pixels."""
    data = load_digits()
    feature_fn = digit_features(data.held_out_images, data.held_out_labels)
    views = {"Fréchet, features": feature_fn, "Fréchet, pixels": None}
    reference = {n: distances.feature_moments(data.held_out_images, f) for n, f in views.items()}

    def quality(images):
        moments = {name: distances.feature_moments(images, f) for name, f in views.items()}
        return {n: distances.frechet_of_moments(m, reference[n]) for n, m in moments.items()}

    def batch(generator, number):
        return data.train_images[generator.integers(len(data.train_images), size=number)]

    return Task(
        "digits",
        data.train_images.shape[1:],
        VP(),
        5e-3,
        float(data.train_images.std()),
        batch,
        quality,
        quality(data.train_images),
        len(data.train_images),
    )


def digit_features(images: np.ndarray, labels: np.ndarray) -> Callable:
    """Return the hidden layer, 32 features, of a small classifier of digits."""
    from sklearn.neural_network import MLPClassifier

    classifier = MLPClassifier((32,), alpha=1e-2, max_iter=1000, random_state=0)
    classifier.fit(images.reshape(len(images), -1), labels)
    weights, bias = classifier.coefs_[0], classifier.intercepts_[0]
    return lambda x: np.maximum(np.asarray(x).reshape(len(x), -1) @ weights + bias, 0)
