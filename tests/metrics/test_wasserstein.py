"""Wasserstein distances of samples: closed forms, scipy, brute force."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from ctrl_jax.metrics import distances


def normals(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_a_shift_and_a_scaling():
    x = normals(0, 50)
    for order in (1.0, 2.0, 3.0):
        found = distances.wasserstein_1d(x[::-1], x + 0.7, order=order)
        np.testing.assert_allclose(found, 0.7, rtol=1e-5)
    scaled = distances.wasserstein_1d(x, 3 * x)
    np.testing.assert_allclose(scaled, 2 * np.sqrt(np.mean(np.square(x))), rtol=1e-5)
    assert float(distances.wasserstein_1d(x, x[::-1])) == 0.0


@pytest.mark.parametrize("sizes", [(40, 40), (40, 17), (1, 5), (12, 18)])
def test_against_scipy_and_repeated_points(sizes):
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=n).astype(np.float32) for n in sizes)
    one, two = jax.jit(lambda *a: [distances.wasserstein_1d(*a, order=p) for p in (1.0, 2.0)])(x, y)
    np.testing.assert_allclose(one, scipy.stats.wasserstein_distance(x, y), rtol=1e-5)
    # Points repeated until the sizes agree have the same law, and an exact matching.
    equal = distances.wasserstein_assignment(
        np.repeat(x, sizes[1])[:, None], np.repeat(y, sizes[0])[:, None]
    )
    np.testing.assert_allclose(two, equal, rtol=1e-5)


def test_the_limit_of_gaussian_quantiles():
    """W_2^2 = (m - m')^2 + (s - s')^2; 4000 quantiles are within 1e-2 of the law's tails."""
    x, y = (scipy.special.ndtri((np.arange(n) + 0.5) / n) for n in (4000, 3000))
    with jax.enable_x64(True):
        found = distances.wasserstein_1d(jnp.asarray(1 + 2 * x), jnp.asarray(0.5 * y))
        assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, np.sqrt(1 + 1.5**2), rtol=1e-3)


def test_it_is_differentiable_and_vmaps():
    x, y = normals(1, 3, 20), normals(2, 3, 30)
    gradient = jax.jit(jax.grad(lambda m: distances.wasserstein_1d(x[0] + m, x[0]) ** 2))(0.5)
    np.testing.assert_allclose(gradient, 1.0, rtol=1e-5)
    found = jax.jit(jax.vmap(distances.wasserstein_1d))(x, y)
    distance = jax.jit(distances.wasserstein_1d)
    one_by_one = [distance(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, one_by_one, rtol=1e-6)


def test_sliced_is_exact_on_the_line():
    x, y = normals(3, 30, 1), normals(4, 20, 1)
    found = distances.sliced_wasserstein(jax.random.key(0), x, y, projections=3)
    np.testing.assert_allclose(found, distances.wasserstein_1d(x[:, 0], y[:, 0]), rtol=1e-5)


def test_sliced_distance_of_a_translation():
    """SW_2^2 = |m|^2 mean(theta_1^2); theta_1^2 has mean 1/d and variance 2 (d-1) / (d^2 (d+2)).
    Four standard errors: a false alarm in 16 000."""
    d, projections, shift = 5, 2000, jnp.asarray([3.0, 0.0, 4.0, 0.0, 0.0])
    x = normals(5, 16, d)
    sliced = jax.jit(partial(distances.sliced_wasserstein, projections=projections))
    found = sliced(jax.random.key(1), x, x + shift[None])
    error = 25 * np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / projections)
    assert abs(float(found) ** 2 - 25 / d) < 4 * error


def test_sliced_laws():
    key, x, y = jax.random.key(2), normals(6, 40, 2, 3), 1 + 2 * normals(7, 40, 2, 3)
    sliced = jax.jit(distances.sliced_wasserstein)
    found = distances.sliced_wasserstein(key, x, y)
    np.testing.assert_allclose(sliced(key, x[::-1], y), found, rtol=1e-6)
    np.testing.assert_allclose(sliced(key, 2 * x, 2 * y), 2 * found, rtol=1e-5)
    np.testing.assert_allclose(sliced(key, y, x), found, rtol=1e-5)
    # A projection never stretches, so no slice exceeds the distance itself.
    assert float(found) < distances.wasserstein_assignment(x, y)
    assert float(sliced(key, x, x)) == 0.0


def test_assignment_against_every_permutation():
    x, y = np.asarray(normals(8, 6, 3)), np.asarray(normals(9, 6, 3))
    for order in (1.0, 2.0):
        costs = np.linalg.norm(x[:, None] - y[None], axis=-1) ** order
        best = min(
            costs[np.arange(6), list(rows)].mean() for rows in itertools.permutations(range(6))
        )
        found = distances.wasserstein_assignment(x, y, order=order)
        np.testing.assert_allclose(found, best ** (1 / order), rtol=1e-6)


def test_assignment_of_a_translated_shuffled_sample():
    x = np.asarray(normals(10, 200, 2, 2))
    y = np.random.default_rng(0).permutation(x) + np.float32(2.0)
    # Translation is optimal for a quadratic cost, whatever its length: |(2, 2, 2, 2)| = 4.
    np.testing.assert_allclose(distances.wasserstein_assignment(x, y), 4.0, rtol=1e-6)


def test_bad_samples_are_refused(unchecked):
    key, ones = jax.random.key(0), jnp.ones
    with pytest.raises(
        ValueError, match=r"received \(\(3, 1\), .* vectors with at least one point"
    ):
        distances.wasserstein_1d(ones((3, 1)), ones(4))
    with pytest.raises(ValueError, match=r"order: received 0\.5; it must be finite and at least 1"):
        distances.wasserstein_1d(ones(3), ones(4), order=0.5)
    with pytest.raises(
        ValueError, match=r"received \(\(3, 2\), \(4, 3\)\); .* as many coordinates"
    ):
        distances.sliced_wasserstein(key, ones((3, 2)), ones((4, 3)))
    with pytest.raises(ValueError, match=r"projections: received 0; .* at least 1"):
        distances.sliced_wasserstein(key, ones((3, 2)), ones((4, 2)), projections=0)
    with pytest.raises(ValueError, match="received 11; at most 10 points are matched exactly"):
        distances.wasserstein_assignment(ones((11, 2)), ones((11, 2)), largest=10)
    with pytest.raises(
        ValueError, match=r"received \(\(3, 2\), \(4, 2\)\); samples must have one shape"
    ):
        distances.wasserstein_assignment(ones((3, 2)), ones((4, 2)))
    with pytest.raises(ValueError, match="must be finite"):
        distances.wasserstein_assignment(np.full((3, 2), np.nan), np.ones((3, 2)))


@pytest.mark.parametrize(
    "dtype",
    ["uint8", "float16", *(pytest.param(d, marks=pytest.mark.slow) for d in ("int16", "bfloat16"))],
)
def test_narrow_types_are_widened(dtype, unchecked):
    """Differences of bytes wrap, squares of halves overflow, sums of many lose their digits."""
    draws = np.random.default_rng(5).integers(0, 128, (2, 30, 2))
    scale = 400 if dtype == "float16" else 1
    narrow = [jnp.asarray(scale * draw).astype(dtype) for draw in draws]
    wide = [x.astype(jnp.float32) for x in narrow]
    key = jax.random.key(0)
    functions = [
        lambda x, y: distances.wasserstein_1d(x[:, 0], y[:, 0]),
        lambda x, y: distances.sliced_wasserstein(key, x, y, projections=4),
        distances.mmd,
        distances.energy_distance,
        lambda x, y: distances.mean_pairwise(x),
    ]
    for found, expected in jax.jit(lambda a, b: [(f(*a), f(*b)) for f in functions])(narrow, wide):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected > 0


def test_what_is_no_number_is_refused(unchecked):
    for bad in (jnp.ones(3, bool), jnp.ones(3, complex)):
        with pytest.raises(ValueError, match=r"wasserstein_1d: received .* real numbers"):
            distances.wasserstein_1d(bad, jnp.ones(3))
    with pytest.raises(ValueError, match=r"bandwidths: received .* all must be positive"):
        distances.mmd(jnp.ones((3, 1)), jnp.zeros((3, 1)), bandwidths=jnp.zeros(1))
