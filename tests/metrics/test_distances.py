"""Distances between samples against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from ctrl_jax.metrics import distances


def test_wasserstein_of_a_shift_and_of_a_scaling():
    x = jax.random.normal(jax.random.key(0), (50,))
    for order in (1.0, 2.0, 3.0):
        found = distances.wasserstein_1d(x[::-1], x + 0.7, order=order)
        np.testing.assert_allclose(found, 0.7, rtol=1e-5)
    scaled = distances.wasserstein_1d(x, 3 * x)
    np.testing.assert_allclose(scaled, 2 * jnp.sqrt(jnp.mean(x**2)), rtol=1e-5)
    assert float(distances.wasserstein_1d(x, x[::-1])) == 0.0


def test_wasserstein_against_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 40)).astype(np.float32)
    found = distances.wasserstein_1d(jnp.asarray(x), jnp.asarray(y), order=1.0)
    np.testing.assert_allclose(found, scipy.stats.wasserstein_distance(x, y), rtol=1e-5)


def test_mean_pairwise():
    # A 3-4-5 triangle.
    x = jnp.asarray([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    np.testing.assert_allclose(distances.mean_pairwise(x), 4.0, rtol=1e-6)
    images = jax.random.normal(jax.random.key(1), (20, 4, 2))
    expected = scipy.spatial.distance.pdist(np.asarray(images).reshape(20, -1)).mean()
    np.testing.assert_allclose(distances.mean_pairwise(images), expected, rtol=1e-5)


def test_mean_pairwise_does_not_depend_on_the_origin():
    """Far from the origin |x|^2 + |y|^2 - 2xy has no digit left in float32."""
    x = jax.random.normal(jax.random.key(2), (20, 3))
    moved = distances.mean_pairwise(x + 1000.0)
    np.testing.assert_allclose(moved, distances.mean_pairwise(x), rtol=1e-3)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="at least two points are needed, got 1"):
        distances.mean_pairwise(jnp.ones((1, 2)))


def test_samples_of_two_sizes_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"vectors of one size, got \(3,\), \(4,\)"):
        distances.wasserstein_1d(jnp.ones(3), jnp.ones(4))
