"""Discrepancies of samples: closed forms for Gaussians, unbiasedness, scipy's distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
from scipy.spatial.distance import cdist, pdist

from ctrl_jax.metrics import distances

MEAN, STD = 0.5, 1.5  # of the second law; the first is N(0, 1)


def gaussian_kernel_mean(mean, variance, h):
    """E exp(-(X - Y)^2 / (2 h^2)) for X - Y ~ N(mean, variance), equation (2)."""
    total = h**2 + variance
    return h / np.sqrt(total) * np.exp(-(mean**2) / (2 * total))


def exact_mmd(h):
    return (
        gaussian_kernel_mean(0, 2, h)
        + gaussian_kernel_mean(0, 2 * STD**2, h)
        - 2 * gaussian_kernel_mean(MEAN, 1 + STD**2, h)
    )


def exact_energy():
    """2 E|X-Y| - E|X-X'| - E|Y-Y'|; E|N(m, v)| = sqrt(2v/pi) e^{-m^2/2v} + m erf(m/sqrt(2v))."""

    def mean_absolute(mean, variance):
        gauss = np.sqrt(2 * variance / np.pi) * np.exp(-(mean**2) / (2 * variance))
        return gauss + mean * scipy.special.erf(mean / np.sqrt(2 * variance))

    within = mean_absolute(0.0, 2.0) + mean_absolute(0.0, 2 * STD**2)
    return 2 * mean_absolute(MEAN, 1 + STD**2) - within


def repeated(statistic, repetitions=4000, n=5, m=8):
    """The statistic of many pairs of tiny samples, where any bias would be large."""

    def one(key):
        x_key, y_key = jax.random.split(key)
        x = jax.random.normal(x_key, (n, 1))
        return statistic(x, MEAN + STD * jax.random.normal(y_key, (m, 1)))

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), repetitions))


@pytest.mark.parametrize("bandwidths", [[0.7], [0.3, 1.0, 3.0]])
def test_mmd_is_unbiased(bandwidths):
    found = repeated(lambda x, y: distances.mmd(x, y, bandwidths=jnp.asarray(bandwidths)))
    expected = np.mean([exact_mmd(h) for h in bandwidths])
    # Four standard errors of the mean: a false alarm in 16 000. Keeping the diagonal would add
    # about (1/5 + 1/8)(1 - E k), more than twenty of them.
    error = np.std(found) / np.sqrt(found.size)
    assert abs(float(found.mean()) - expected) < 4 * error < 0.1 * expected + 0.02
    assert float(found.min()) < 0


def test_energy_distance_is_unbiased():
    found = repeated(distances.energy_distance)
    error = np.std(found) / np.sqrt(found.size)
    assert abs(float(found.mean()) - exact_energy()) < 4 * error < 0.1
    assert float(found.min()) < 0


def test_against_scipys_distances():
    generator = np.random.default_rng(1)
    x, y = (
        generator.normal(size=(n, 2, 3)).astype(np.float32) + m for n, m in ((20, 0), (13, 0.5))
    )
    a, b = (np.asarray(z, np.float64).reshape(len(z), -1) for z in (x, y))
    pooled = pdist(np.concatenate([a, b]))

    def estimate(kernel):
        within = kernel(pdist(a)).mean() + kernel(pdist(b)).mean()
        return within - 2 * kernel(cdist(a, b)).mean()

    @jax.jit
    def statistics(x, y):
        mmds = [distances.mmd(x, y, bandwidths=b) for b in (jnp.asarray([1.3]), None)]
        return distances.energy_distance(x, y), *mmds

    energy, *mmds = statistics(x, y)
    np.testing.assert_allclose(energy, estimate(lambda r: -r), rtol=1e-4)
    for found, h in zip(mmds, (1.3, np.median(pooled)), strict=True):
        expected = estimate(lambda r, h=h: np.exp(-(r**2) / (2 * h**2)))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("distance", [distances.mmd, distances.energy_distance])
def test_laws(distance):
    x, y = np.random.default_rng(2).normal(size=(2, 30, 3)).astype(np.float32)
    y = 2 * y
    found, compiled = distance(jnp.asarray(x), jnp.asarray(y)), jax.jit(distance)
    for a, b in ((x, y), (y, x), (x[::-1], y)):
        np.testing.assert_allclose(compiled(a, b), found, rtol=1e-4)
    # Far away |x|^2 + |y|^2 - 2xy has no digit left in float32; 1e-3 is x's own rounding.
    np.testing.assert_allclose(compiled(x + np.float32(1e3), y + np.float32(1e3)), found, rtol=1e-3)
    with jax.enable_x64(True):
        double = jax.jit(distance)(x.astype(float), y.astype(float))
        assert double.dtype == jnp.float64
    np.testing.assert_allclose(found, double, rtol=1e-4)


def test_points_that_coincide_give_a_finite_mmd():
    mmd, x = jax.jit(distances.mmd), np.zeros((10, 2), np.float32)
    assert mmd(x, x) == 0.0
    # Ten points of eleven coincide, so the median is zero: k is 1 for equal points, else 0.
    y = np.concatenate([np.ones((1, 2), np.float32), x[1:]])
    np.testing.assert_allclose(mmd(x, y), 1 + 36 / 45 - 2 * 0.9, atol=1e-6)


def test_mean_pairwise():
    # A 3-4-5 triangle.
    x = jnp.asarray([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    np.testing.assert_allclose(distances.mean_pairwise(x), 4.0, rtol=1e-6)
    images = np.random.default_rng(1).normal(size=(20, 4, 2)).astype(np.float32)
    expected = pdist(images.reshape(20, -1)).mean()
    np.testing.assert_allclose(jax.jit(distances.mean_pairwise)(images), expected, rtol=1e-5)


def test_mean_pairwise_does_not_depend_on_the_origin():
    """Far from the origin |x|^2 + |y|^2 - 2xy has no digit left in float32."""
    x = jax.random.normal(jax.random.key(2), (20, 3))
    mean_pairwise = jax.jit(distances.mean_pairwise)
    np.testing.assert_allclose(mean_pairwise(x + 1000.0), mean_pairwise(x), rtol=1e-3)


def test_bad_samples_are_refused(unchecked):
    ones = jnp.ones
    with pytest.raises(
        ValueError, match=r"mean_pairwise.x: received \(1, .*; at least two points are needed"
    ):
        distances.mean_pairwise(ones((1, 2)))
    with pytest.raises(ValueError, match=r"mmd: received \(1, 5\); at least two points"):
        distances.mmd(ones((1, 2)), ones((5, 2)))
    with pytest.raises(ValueError, match=r"energy_distance: received \(\(3, 2\), \(4, 3\)\)"):
        distances.energy_distance(ones((3, 2)), ones((4, 3)))
