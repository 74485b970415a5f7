r"""The score of noised data by a ratio of sums over data points: no network, no training.

With the kernel p(x | x_0) = N(x; a x_0, v I) of a linear process and m points x^1 .. x^m,

    s(t, x) = \nabla_x log (1/m) \sum_i p(x | x^i) = (a x_bar - x)/v,                     (1)
    x_bar = \sum_i p(x | x^i) x^i / max{\sum_i p(x | x^i), m \epsilon}.                   (2)

As m grows this tends to the score of the data's noised law; the floor \epsilon (a density) sends
x_bar to the origin where no point is near. With one point and no floor x_bar is that point, and its
mean over the draw is the data's mean: on average (1) is then the score of a single point mass, for
every law of the data. All sums are taken of logarithms.

It needs the process's scale and variance and nothing else, so it lives beside them.
Source: arXiv 2409.04832, section 5.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import check_count, check_entries, check_non_negative, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import expand
from ctrl_jax.processes.base import LinearProcess

DrawFn = Callable[..., Array]
"""``draw(key, shape, *conditions)`` returns data points (batch, m, ...) for shape (batch, m)."""


@at_the_door
def score_from_points(
    process: LinearProcess,
    t: Float[Array, "*t"],
    x: Float[Array, "batch ..."],
    points: Float[Array, "..."],
    *,
    floor: float = 0.0,
) -> Float[Array, "batch ..."]:
    """Return the score (a x_bar - x) / v of each state, x_bar the kernel's mean of points.

    Args:
        process: the forward process.
        t: forward times, shape () or (batch,).
        x: states, shape (batch, ...).
        points: data, shape (m, ...) for all states or (batch, m, ...) for each its own.
        floor: the least mean density of the kernel, per unit of volume; 0 for none.

    Raises:
        ValueError: the points have another shape than the states, or the floor is negative.
    """
    _check(x, points, floor)
    batch = x.shape[0]
    flat = x.reshape(batch, -1)
    scale, std = (expand(jnp.broadcast_to(c, (batch,)), flat) for c in process.marginal(t))
    data = points.reshape(*points.shape[: points.ndim - x.ndim + 1], -1)
    log_probs = -_squares(flat, scale, data) / (2 * std**2)
    x_bar = _average(jax.nn.softmax(log_probs, axis=1), data)
    if floor > 0:
        size = flat.shape[1] / 2 * jnp.log(2 * jnp.pi * std**2)
        total = jax.nn.logsumexp(log_probs, axis=1, keepdims=True) - size
        x_bar = x_bar * jnp.exp(jnp.minimum(total - jnp.log(data.shape[-2] * floor), 0.0))
    return ((scale * x_bar - flat) / std**2).reshape(x.shape)


class RatioScore(eqx.Module):
    """The score from m fresh points per state: ``estimate(key, t, x, *conditions)``.

    Args:
        process: the forward process.
        draw: where points come from, a `DataPoints` for a data set.
        m: points per state.
        floor: the least mean density of the kernel; 0 for none.
    """

    process: LinearProcess
    draw: DrawFn
    m: int = eqx.field(static=True)
    floor: float = eqx.field(default=0.0, static=True)

    def __check_init__(self):
        check_count("RatioScore.m", self.m)
        check_non_negative("RatioScore.floor", self.floor)

    def __call__(self, key: Array, t: Array, x: Array, *conditions: Array) -> Array:
        """Return an estimate of the score; that of a state depends on the key and its row only."""
        points = self.draw(key, (x.shape[0], self.m), *conditions)
        return score_from_points(self.process, t, x, points, floor=self.floor)


class DataPoints(eqx.Module):
    """A data set to draw from with replacement, all of it or only the points of a label.

    Args:
        points: data, shape (n, ...).
        labels: optional integer label of each point, 0 .. k - 1, each of which must occur.

    Raises:
        ValueError: there are no points, or the labels do not fit them.
    """

    points: Float[Array, "n ..."]
    starts: Int[Array, " k"] | None
    counts: Int[Array, " k"] | None

    def __init__(self, points, labels=None):
        points = np.asarray(points)
        real = jnp.issubdtype(points.dtype, jnp.floating) or points.dtype.kind in "iub"
        if not real:
            rule = "they must be real numbers"
            raise refuse("DataPoints.points", points, rule, "give an array of such")
        if points.ndim < 1 or len(points) == 0:
            raise refuse("DataPoints.points", points, "at least one is needed", "add points")
        check_entries("DataPoints", points=points)
        if labels is None:
            self.points, self.starts, self.counts = jnp.asarray(points), None, None
            return
        labels = _check_labels(np.asarray(labels), len(points))
        order, counts = np.argsort(labels, kind="stable"), np.bincount(labels)
        self.points = jnp.asarray(points[order])
        self.starts = jnp.asarray(np.cumsum(counts) - counts, jnp.int32)
        self.counts = jnp.asarray(counts, jnp.int32)

    def __call__(self, key: Array, shape: tuple[int, int], *conditions: Array) -> Array:
        """Draw points (batch, m, ...); `conditions` are the labels (batch,) where there are any."""
        if self.starts is None or self.counts is None:
            return self.points[jax.random.randint(key, shape, 0, len(self.points))]
        label = conditions[0]
        u = jax.random.uniform(key, shape)
        counts = self.counts[label][:, None]
        within = jnp.minimum((u * counts.astype(u.dtype)).astype(jnp.int32), counts - 1)
        return self.points[self.starts[label][:, None] + within]


def _squares(x, scale, data):
    """|x - scale * data|^2 as (batch, m), by differences: products would lose the digits."""
    data = data[None] if data.ndim == 2 else data
    return jnp.sum((x[:, None] - scale[:, None] * data) ** 2, axis=2)


def _average(share, data):
    return share @ data if data.ndim == 2 else jnp.einsum("bm,bmd->bd", share, data)


def _check(x, points, floor):
    check_non_negative("score_from_points.floor", floor)
    if x.shape[:1] == (0,) or 0 in points.shape:
        wrong, name = (x, "x") if x.shape[:1] == (0,) else (points, "points")
        rule, repair = "it must hold an example", "give one or more"
        raise refuse(f"score_from_points.{name}", wrong, rule, repair)
    own = points.ndim == x.ndim + 1 and points.shape[:1] == x.shape[:1]
    shared = points.ndim == x.ndim
    if not (own or shared) or points.shape[points.ndim - x.ndim + 1 :] != x.shape[1:]:
        rule = f"for states of shape {x.shape} it must be (m, ...) or (batch, m, ...)"
        repair = "give points of the states' shape"
        raise refuse("score_from_points: shape of points", points.shape, rule, repair)


def _check_labels(labels, number):
    if labels.shape != (number,) or not np.issubdtype(labels.dtype, np.integer):
        rule = f"they must be integers of shape ({number},)"
        raise refuse("DataPoints.labels", labels, rule, "give one for each point")
    found = np.unique(labels)
    if (found != np.arange(len(found))).any():
        rule = "every label from 0 to the largest must occur"
        raise refuse("DataPoints.labels", found.tolist(), rule, "renumber them")
    return labels
