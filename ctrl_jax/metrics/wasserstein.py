r"""Wasserstein distances of samples: exact on the line, sliced, and exact by assignment.

Between laws on the line the best coupling is the monotone one, so with quantile functions F^{-1},

    W_p^p = \int_0^1 |F^{-1}(u) - G^{-1}(u)|^p du,                                       (1)

which for samples is a finite sum over the pieces on which both quantile functions are constant. In
d dimensions the sliced distance averages (1) over directions theta uniform on the sphere,

    SW_p^p = E_theta W_p^p(<theta, X>, <theta, Y>),                                      (2)

and two samples of one size have the exact distance of the best matching,

    W_p^p = min_\pi (1/n) \sum_i |x_i - y_{\pi(i)}|^p.                                   (3)

(2) is not (3): for a translation by m, W_2 = |m| and SW_2 = |m| / sqrt(d). Source: Peyre and Cuturi
2019, sections 2.6 and 10; Bonneel et al. 2015.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ctrl_jax._checks import check_count, check_finite, refuse
from ctrl_jax._door import at_the_door, read_host

LARGEST_ASSIGNMENT = 4096


def wasserstein_1d(
    x: Float[Array, " n"], y: Float[Array, " m"], *, order: float = 2.0
) -> Float[Array, ""]:
    """Return the exact Wasserstein distance W_p of two samples on the line, by sorting.

    W_p^p = int_0^1 |F^{-1}(u) - G^{-1}(u)|^p du with the quantile functions of the samples.

    Args:
        x: one sample, shape (n,).
        y: the other sample, of any size, shape (m,).
        order: p of W_p, at least 1.

    Raises:
        ValueError: a sample is not a vector or is empty, or the order is below 1.

    Source: Peyre and Cuturi 2019, section 2.6.
    """
    _check_order("wasserstein_1d", order)
    x, y = as_floats("wasserstein_1d", x, y)
    if x.ndim != 1 or y.ndim != 1 or 0 in (x.size, y.size):
        rule = "samples must be vectors with at least one point"
        repair = "use sliced_wasserstein for more dimensions"
        raise refuse("wasserstein_1d", (x.shape, y.shape), rule, repair)
    rows_x, rows_y, widths = _pieces(x.size, y.size)
    gaps = jnp.abs(jnp.sort(x)[rows_x] - jnp.sort(y)[rows_y]) ** order
    return jnp.sum(jnp.asarray(widths, gaps.dtype) * gaps) ** (1 / order)


@at_the_door
def sliced_wasserstein(
    key: Array,
    x: Float[Array, "n ..."],
    y: Float[Array, "m ..."],
    *,
    projections: int = 256,
    order: float = 2.0,
) -> Float[Array, ""]:
    """Return the sliced Wasserstein distance SW_p of two samples, over random directions.

    SW_p^p = E_theta W_p^p(<theta, X>, <theta, Y>): the mean, over directions theta uniform on the
    sphere, of the p-th power of the exact distance on the line. For a translation by m in d
    dimensions SW_2 is |m| / sqrt(d), where W_2 is |m|. One key gives the same directions whatever
    the samples: use one to compare distances.

    Args:
        key: PRNG key of the directions.
        x: one sample, shape (n, ...); later axes are flattened.
        y: the other, shape (m, ...), of the same number of coordinates.
        projections: number of directions.
        order: p, at least 1.

    Raises:
        ValueError: the coordinates differ in number, or projections or order are below 1.

    Source: Bonneel et al. 2015; Peyre and Cuturi 2019, section 10.
    """
    _check_order("sliced_wasserstein", order)
    check_count("sliced_wasserstein.projections", projections)
    x, y = flatten_pair("sliced_wasserstein", x, y)
    directions = jax.random.normal(key, (projections, x.shape[1]), x.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)

    def along(direction):
        return wasserstein_1d(x @ direction, y @ direction, order=order) ** order

    # Blocks of directions bound the memory: n x 32 numbers at a time.
    powers = jax.lax.map(along, directions, batch_size=min(projections, 32))
    return jnp.mean(powers) ** (1 / order)


def wasserstein_assignment(
    x: Float[Array, "n ..."] | Float[np.ndarray, "n ..."],
    y: Float[Array, "n ..."] | Float[np.ndarray, "n ..."],
    *,
    order: float = 2.0,
    largest: int = LARGEST_ASSIGNMENT,
) -> float:
    """Return the exact Wasserstein distance W_p of two small samples of one size.

    W_p^p = min_pi (1/n) sum_i |x_i - y_{pi(i)}|^p over the matchings pi. Runs on the host in
    float64; time grows as n^3 and memory as n^2.

    Args:
        x: one sample, shape (n, ...); later axes are flattened.
        y: the other, of the same shape.
        order: p, at least 1.
        largest: n above which the call is refused.

    Raises:
        ValueError: the shapes differ, a sample is too large or empty, a value is not finite, or
            the order is below 1.

    Source: Peyre and Cuturi 2019.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    _check_order("wasserstein_assignment", order)
    check_count("wasserstein_assignment.largest", largest)
    x, y = read_host("wasserstein_assignment.x", x), read_host("wasserstein_assignment.y", y)
    if x.shape != y.shape or x.ndim < 1 or x.shape[0] == 0:
        rule = "samples must have one shape and at least one point"
        repair = "draw the same number of each"
        raise refuse("wasserstein_assignment", (x.shape, y.shape), rule, repair)
    if x.shape[0] > largest:
        rule = f"at most {largest} points are matched exactly"
        repair = "take a subset, or use sliced_wasserstein"
        raise refuse("wasserstein_assignment", x.shape[0], rule, repair)
    flat_x, flat_y = (np.asarray(z, np.float64).reshape(z.shape[0], -1) for z in (x, y))
    if not (np.isfinite(flat_x).all() and np.isfinite(flat_y).all()):
        rule = "samples must be finite"
        raise refuse("wasserstein_assignment", "NaN or infinity", rule, "leave those points out")
    costs = cdist(flat_x, flat_y) ** order
    rows, columns = linear_sum_assignment(costs)
    return float(costs[rows, columns].mean() ** (1 / order))


def as_floats(owner: str, *samples: ArrayLike) -> list[Array]:
    """Return samples in one floating type of at least float32, in which differences have a sign.

    Raises:
        ValueError: one of them is complex or holds no numbers; it names `owner`.
    """
    for sample in samples:
        held: Any = sample if hasattr(sample, "dtype") else np.asarray(sample)
        dtype = held.dtype
        if not jnp.issubdtype(dtype, jnp.floating) and dtype.kind not in "iu":
            raise refuse(owner, sample, "samples must hold real numbers", "convert them to float32")
    arrays = [jnp.asarray(sample) for sample in samples]
    wide = any(array.dtype == jnp.float64 for array in arrays)
    return [array.astype(jnp.float64 if wide else jnp.float32) for array in arrays]


def flatten_pair(owner: str, x: Array, y: Array) -> tuple[Array, Array]:
    """Return two samples as floating (n, d) and (m, d), or raise ValueError for `owner`."""
    x, y = as_floats(owner, x, y)
    if x.ndim < 1 or y.ndim < 1 or 0 in (x.size, y.size) or x[0].size != y[0].size:
        rule = "samples must have shapes (n, ...) and (m, ...) with as many coordinates per point"
        raise refuse(owner, (x.shape, y.shape), rule, "reshape them")
    return x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1)


def _pieces(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each piece of [0, 1] in (1), its row of sorted x, its row of y and its width.

    The sizes are static, so the pieces are found on the host in whole numbers, exactly.
    """
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0) / (n * m)
    return (ends - 1) // m, (ends - 1) // n, widths


def _check_order(owner: str, order: float) -> None:
    if not check_finite(f"{owner}.order", order) >= 1:
        raise refuse(f"{owner}.order", order, "it must be finite and at least 1", "give 1 or 2")
