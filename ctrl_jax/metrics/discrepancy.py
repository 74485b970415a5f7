r"""Distances of samples through pairs: maximum mean discrepancy, energy distance, diversity.

For a kernel k, with X, X' independent from P and Y, Y' from Q,

    MMD^2 = E k(X, X') - 2 E k(X, Y) + E k(Y, Y'),                                       (1)

and the energy distance is (1) with k = -|x - y|. The estimates leave out pairs of a point with
itself: they are unbiased, so they scatter around zero, below it too, when the laws are equal.
Between Gaussians N(m, s^2) and N(m', s'^2) on the line, for k = exp(-(x - y)^2 / (2 h^2)),

    E k(X, Y) = h / sqrt(h^2 + s^2 + s'^2) exp(-(m - m')^2 / (2 (h^2 + s^2 + s'^2))).    (2)

Source: Gretton et al. 2012, lemma 6; Szekely and Rizzo 2013.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse
from ctrl_jax._door import read_real
from ctrl_jax._numerics import square_root
from ctrl_jax.metrics.wasserstein import as_floats, flatten_pair


def mmd(
    x: Float[Array, "n ..."],
    y: Float[Array, "m ..."],
    *,
    bandwidths: Float[Array, " kernels"] | None = None,
) -> Float[Array, ""]:
    """Return the unbiased estimate of MMD^2 = E k(X, X') - 2 E k(X, Y) + E k(Y, Y') of two samples.

    X and X' are independent draws from the law of x, Y and Y' from that of y. The kernel k is the
    mean of Gaussian ones, exp(-|x - y|^2 / (2 h^2)). Pairs of a point with itself are left out:
    where the laws are equal estimates scatter around zero, below it too.

    Args:
        x: one sample, shape (n, ...), n at least 2; memory grows as n m.
        y: the other, shape (m, ...), m at least 2.
        bandwidths: h of each kernel, in units of the samples; by default one, the median distance
            between two different points of both samples together.

    Raises:
        ValueError: fewer than two points in a sample, coordinates that differ in number, or a
            bandwidth that is not positive.

    Source: Gretton et al. 2012, lemma 6.
    """
    x, y = _centered("mmd", x, y)
    between, within_x, within_y = _squares(x, y), _squares(x, x), _squares(y, y)
    if bandwidths is None:
        widths = _median_distance(between, within_x, within_y)[None]
    else:
        widths = read_real("mmd.bandwidths", bandwidths).astype(x.dtype)
        if widths.ndim != 1 or widths.size == 0:
            rule = "they must be a vector, one for each kernel"
            raise refuse("mmd.bandwidths", bandwidths, rule, "give one such as [1.0]")
        if not isinstance(widths, Tracer) and not (np.asarray(widths) > 0).all():
            rule = "all must be positive"
            raise refuse("mmd.bandwidths", bandwidths, rule, "leave out the others")

    def kernel(squares):
        return jnp.mean(jax.lax.map(lambda h: jnp.exp(-squares / (2 * h**2)), widths), axis=0)

    return _unbiased(kernel(within_x), kernel(between), kernel(within_y))


def energy_distance(x: Float[Array, "n ..."], y: Float[Array, "m ..."]) -> Float[Array, ""]:
    """Return the unbiased estimate of the energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'|.

    X and X' are independent draws from the law of x, Y and Y' from that of y.

    Args:
        x: one sample, shape (n, ...), n at least 2; memory grows as n m.
        y: the other, shape (m, ...), m at least 2.

    Raises:
        ValueError: fewer than two points in a sample, or coordinates that differ in number.
    """
    x, y = _centered("energy_distance", x, y)
    within_x, between, within_y = (
        -square_root(_squares(a, b)) for a, b in ((x, x), (x, y), (y, y))
    )
    return _unbiased(within_x, between, within_y)


def mean_pairwise(x: Float[Array, "n ..."]) -> Float[Array, ""]:
    """Return the mean Euclidean distance between two different points of a sample: its diversity.

    Args:
        x: points, shape (n, ...), n at least 2.

    Raises:
        ValueError: fewer than two points.
    """
    (x,) = as_floats("mean_pairwise", x)
    if x.ndim < 1 or x.shape[0] < 2:
        raise refuse("mean_pairwise.x", x.shape, "at least two points are needed", "draw more")
    flat = x.reshape(x.shape[0], -1)
    flat = flat - jnp.mean(flat, axis=0, keepdims=True)  # distances do not move, digits are kept
    return _mean_off_diagonal(square_root(_squares(flat, flat)))


def _centered(owner: str, x: Array, y: Array) -> tuple[Array, Array]:
    """Return both samples flat, around their common mean: distances stay, digits are kept."""
    x, y = flatten_pair(owner, x, y)
    if x.shape[0] < 2 or y.shape[0] < 2:
        rule = "at least two points are needed in each sample"
        raise refuse(owner, (x.shape[0], y.shape[0]), rule, "draw more")
    center = jnp.mean(jnp.concatenate([x, y]), axis=0, keepdims=True)
    return x - center, y - center


@jax.jit
def _squares(x: Array, y: Array) -> Array:
    """Return squared distances (n, m), by one product in full precision."""
    gram = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None, :]
    return jnp.maximum(norms - 2 * gram, 0.0)


@jax.jit
def _mean_off_diagonal(values: Array) -> Array:
    """Return the mean over pairs of different points; the diagonal holds rounding only."""
    n = values.shape[0]
    return jnp.sum(jnp.where(jnp.eye(n, dtype=bool), 0.0, values)) / (n * (n - 1))


@jax.jit
def _unbiased(within_x: Array, between: Array, within_y: Array) -> Array:
    return _mean_off_diagonal(within_x) + _mean_off_diagonal(within_y) - 2 * jnp.mean(between)


def _median_distance(between: Array, within_x: Array, within_y: Array) -> Array:
    """Return the median distance between two different points of both samples together."""
    pairs = [w[np.triu_indices(w.shape[0], 1)] for w in (within_x, within_y)]
    median = jnp.sqrt(jnp.median(jnp.concatenate([*pairs, between.ravel()])))
    # Where most points coincide the median is zero; the kernel then tells equal from different.
    return jnp.maximum(median, jnp.finfo(median.dtype).tiny ** 0.25)
