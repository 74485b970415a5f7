"""The Frechet distance against closed forms and scipy's matrix root; moments in a stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ctrl_jax.metrics import distances


def moments(mean, covariance, number=11):
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    return distances.Moments(number, mean, (number - 1) * covariance)


def wishart(seed, d, rank=None):
    root = np.random.default_rng(seed).normal(size=(d, rank or 2 * d))
    return root @ root.T


def test_commuting_covariances():
    """|m - m'|^2 + sum (s_i - s'_i)^2 for diagonal covariances."""
    x = moments([1.0, 0.0], np.diag([4.0, 0.25]))
    y = moments([0.0, 2.0], np.diag([1.0, 0.0]))
    expected = 5 + (2 - 1) ** 2 + 0.5**2
    np.testing.assert_allclose(distances.frechet_of_moments(x, y), expected, rtol=1e-12)


def test_against_scipys_matrix_root():
    a, b = wishart(0, 6), wishart(1, 6)
    expected = np.trace(a + b - 2 * np.real(np.asarray(scipy.linalg.sqrtm(a @ b))))
    found = distances.frechet_of_moments(moments(np.zeros(6), a), moments(np.zeros(6), b))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_singular_covariances():
    """Rank one each: tr (S^{1/2} S' S^{1/2})^{1/2} = |<u, w>| for S = u u^T, S' = w w^T."""
    u, w = np.random.default_rng(2).normal(size=(2, 60))
    found = distances.frechet_of_moments(
        moments(np.zeros(60), np.outer(u, u)), moments(np.zeros(60), np.outer(w, w))
    )
    np.testing.assert_allclose(found, u @ u + w @ w - 2 * abs(u @ w), rtol=1e-9)
    same = moments(np.ones(60), wishart(3, 60, rank=20))
    # Rounding in traces of 1200 and roots of zero eigenvalues, sqrt(1e-16 * 60) each.
    assert distances.frechet_of_moments(same, same) < 1e-6


def test_samples_streams_and_features():
    images = np.random.default_rng(4).normal(size=(50, 4, 2)).astype(np.float32)
    flat = images.reshape(50, 8).astype(float)
    whole = distances.feature_moments(images)
    np.testing.assert_allclose(whole.mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(flat.T), rtol=1e-12)
    uneven = (part for part in np.split(images, [1, 18, 31]))
    for streamed in (
        distances.feature_moments(uneven),
        distances.feature_moments(images, batch=7),
        distances.feature_moments(jnp.asarray(images)),
    ):
        assert streamed.number == 50
        np.testing.assert_allclose(streamed.scatter, whole.scatter, rtol=1e-10, atol=1e-12)
    feature_fn = jax.jit(lambda x: jnp.tanh(x.reshape(x.shape[0], -1)[:, :3]))
    other = images[::-1] * 2 + 1
    direct = distances.frechet(np.tanh(images.reshape(50, 8)[:, :3]), feature_fn(other))
    np.testing.assert_allclose(distances.frechet(images, other, feature_fn), direct, rtol=1e-6)


def test_a_stream_far_from_the_origin_keeps_its_digits():
    """A sum of squares would lose 1e12 * 1e-16 of a variance of 1 per term, four digits of it."""
    x = np.random.default_rng(5).normal(size=(2000, 2))
    near = distances.feature_moments(x, batch=64).covariance
    far = distances.feature_moments(x + 1e6, batch=64).covariance
    np.testing.assert_allclose(far, near, rtol=1e-9, atol=1e-9)


def test_the_law_of_large_samples():
    """Mean and std of a Gaussian from n draws have errors 1/sqrt(n), 1/sqrt(2n): the distance of
    two equal laws has mean about (1 + 1/2) * 2/n per coordinate, here 3e-4; ten times that is a
    false alarm far below one in 10 000 (a chi-square with two terms)."""
    x, y = np.random.default_rng(6).normal(size=(2, 10_000, 1))
    assert distances.frechet(x, y) < 3e-3
    np.testing.assert_allclose(distances.frechet(x, 2 + 3 * y), 4 + 4, rtol=0.1)


@pytest.mark.parametrize("number", [5, 40])
def test_the_distance_to_fixed_moments(number, monkeypatch):
    """Fewer samples than features, and more; one root for all samples."""
    x, y = np.random.default_rng(7).normal(size=(2, 40, 12))
    x, y = 0.5 * x[:number].reshape(number, 4, 3) + 1, y.reshape(40, 4, 3)
    distance = distances.frechet_to(distances.feature_moments(y))
    expected = distances.frechet(x, y)
    monkeypatch.setattr(np.linalg, "eigh", None)
    # The root of a singular covariance has the root of its rounding, 1e-8, in it; ours has none.
    np.testing.assert_allclose(distance(x), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"received \(6, 12\); both samples need as many features"):
        distance(x[:, :2])
    with pytest.raises(ValueError, match="examples: received 1; at least two are needed"):
        distance(x[:1])


def test_bad_features_are_refused():
    x = np.ones((4, 2))
    with pytest.raises(ValueError, match="examples: received 1; at least two are needed"):
        distances.frechet(x[:1], x)
    with pytest.raises(ValueError, match="examples: received 0; at least two are needed"):
        distances.feature_moments([])
    with pytest.raises(ValueError, match=r"received \(2, 3\); both samples need as many features"):
        distances.frechet(x, np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"must return \(batch, features\) = \(4, ...\)"):
        distances.frechet(x, x, lambda z: z.sum())
    with pytest.raises(ValueError, match="all features must be finite"):
        distances.frechet(x * np.nan, x)
    with pytest.raises(ValueError, match=r"feature_moments.batch: received 0; .* at least 1"):
        distances.feature_moments(x, batch=0)
