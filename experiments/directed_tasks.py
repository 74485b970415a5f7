"""Data, rewards and the ideal law p e^{w h / 2} / Z, which samples of the data give by weights."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import RewardFn, ScoreFn
from ctrl_jax.data import load_digits
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.metrics import distances
from ctrl_jax.processes import VP, DataPoints, score_from_points
from experiments.datasets import draw_roll

END = 5e-3  # forward time at which sampling stops
LARGE = 100_000  # samples that the ideal law is weighed on


@functools.cache
def forward_process() -> VP:
    """Return the process of all tasks; made when it is asked for, since making one starts JAX."""
    return VP()


class Task(NamedTuple):
    """What is directed, and where to.

    Fields:
        name: as the options call it.
        points: the data that every method learns from, (n, ...).
        labels: of each point; None without classes.
        reward_fn: h(x, *conditions).
        weight: w, so that the ideal law is p e^{w h / 2} / Z.
        ideal: samples of the ideal law.
        ideal_labels: their labels; None without classes.
        measure: what is said of samples beside their reward, by name.
        width: hidden size of the networks.
    """

    name: str
    points: np.ndarray
    labels: np.ndarray | None
    reward_fn: RewardFn
    weight: float
    ideal: np.ndarray
    ideal_labels: np.ndarray | None
    measure: Callable[[np.ndarray, np.ndarray | None], dict[str, float]]
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.points.shape[1:]

    @property
    def classes(self) -> int:
        """Number of labels; 0 for none."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def draw(self) -> DataPoints:
        """Return the data set to draw points from."""
        return DataPoints(self.points, self.labels)

    def ratio(self) -> ScoreFn:
        """Return the ratio estimate from all points, of its label where there are labels."""
        if self.labels is None:
            points = jnp.asarray(self.points)
            return lambda t, x: score_from_points(forward_process(), t, x, points)
        per_label = [self.points[self.labels == c] for c in range(self.classes)]
        least = min(len(p) for p in per_label)
        table = jnp.asarray(np.stack([p[:least] for p in per_label]))
        return lambda t, x, label: score_from_points(forward_process(), t, x, table[label])


def make_task(name: str, points: int) -> Task:
    """Return the task of that name, with so many data points (digits have their own number)."""
    makers = {"mixture_1d": mixture_1d, "mixture_2d": mixture_2d, "swiss_roll": swiss_roll}
    return digits() if name == "digits" else makers[name](points)


def mixture_1d(points: int) -> Task:
    """Two Gaussians on the line, a quadratic reward between them."""
    world = GaussianSteering(
        forward_process(), [-1.5, 1.0], [0.1, 0.2], 1.5, -0.5, 0.8, weights=[0.3, 0.7]
    )
    return _from_mixture("mixture_1d", world, points, 32)


def mixture_2d(points: int) -> Task:
    """Five Gaussians on a circle; the reward wants one side of it."""
    angles = 2 * np.pi * np.arange(5) / 5
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    world = GaussianSteering(
        forward_process(),
        means,
        np.full((5, 2), 0.03),
        1.0,
        [1.0, 0.5],
        0.8,
        weights=np.full(5, 0.2),
    )
    return _from_mixture("mixture_2d", world, points, 32)


def _from_mixture(name: str, world: GaussianSteering, points: int, width: int) -> Task:
    data, ideal = (
        np.asarray(law.sample(jax.random.key(k), n))
        for law, k, n in ((world.data, 1, points), (world.tilted_law(), 2, 4096))
    )
    return Task(
        name, data, None, world.reward, 2 / world.penalty, ideal, None, distance_to(ideal), width
    )


def swiss_roll(points: int) -> Task:
    """The spiral; the reward is its first coordinate."""
    generator = np.random.default_rng(3)
    weight = 3.0
    ideal = tilted(draw_roll(generator, LARGE), lambda x: weight / 2 * x[:, 0], generator, 4096)
    data = draw_roll(generator, points)
    return Task(
        "swiss_roll", data, None, lambda x: x[:, 0], weight, ideal, None, distance_to(ideal), 48
    )


def digits() -> Task:
    """The real 8x8 digits given their label; the reward is ink, in standard deviations."""
    found = load_digits()
    ink = found.train_images.mean(axis=(1, 2, 3))
    center, spread = float(ink.mean()), float(ink.std())
    weight = 2.0

    def reward_fn(x, *conditions):
        return (jnp.mean(x, axis=(1, 2, 3)) - center) / spread

    images, labels = found.held_out_images, found.held_out_labels
    ideal, ideal_labels = [], []
    generator = np.random.default_rng(4)
    for label in range(10):
        own = images[labels == label]
        log_weight = lambda x: weight / 2 * np.asarray(reward_fn(x))  # noqa: E731
        ideal.append(tilted(own, log_weight, generator, 100))
        ideal_labels.append(np.full(100, label))
    return Task(
        "digits",
        found.train_images,
        found.train_labels.astype(np.int32),
        reward_fn,
        weight,
        np.concatenate(ideal),
        np.concatenate(ideal_labels),
        _measure_digits(found, np.concatenate(ideal)),
        128,
    )


def tilted(points: np.ndarray, log_weight, generator, number: int) -> np.ndarray:
    """Draw from the points with probabilities proportional to e^{log_weight}."""
    weights = np.asarray(log_weight(points), np.float64)
    weights = np.exp(weights - weights.max())
    return points[generator.choice(len(points), size=number, p=weights / weights.sum())]


def distance_to(ideal: np.ndarray):
    """Return the measure that is the distance to the ideal: exact W2 on the line, else sliced."""
    target = jnp.asarray(ideal)
    if ideal[0].size == 1:
        compiled = jax.jit(lambda x, y: distances.wasserstein_1d(x[:, 0], y[:, 0]))
    else:
        compiled = jax.jit(lambda x, y: distances.sliced_wasserstein(jax.random.key(7), x, y))
    return lambda samples, labels: {"distance": float(compiled(jnp.asarray(samples), target))}


def _measure_digits(found, ideal):
    """Distance to the ideal, share that a classifier gives its label, share near a data point."""
    from sklearn.svm import SVC

    def flat(x):
        return np.asarray(x).reshape(len(x), -1)

    judge = SVC(gamma="scale", C=10.0).fit(flat(found.held_out_images), found.held_out_labels)
    distance, train = distance_to(ideal), flat(found.train_images)

    def nearest(x):
        gram = (flat(x) ** 2).sum(1)[:, None] + (train**2).sum(1)[None] - 2 * flat(x) @ train.T
        return np.sqrt(np.maximum(gram, 0)).min(axis=1)

    # Closer to a training image than all but a hundredth of other real images are.
    close = float(np.quantile(nearest(found.held_out_images), 0.01))

    def measure(samples, labels):
        right = float(np.mean(judge.predict(flat(samples)) == labels))
        copied = float(np.mean(nearest(samples) < close))
        return {**distance(samples, labels), "label accuracy": right, "copied": copied}

    return measure
