"""Mixtures: sampling, noising and posteriors against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ctrl_jax.environments import Mixture

WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], [[-1.5, 0.0], [1.0, 0.5]], [[0.1, 0.3], [0.2, 0.4]]


@pytest.fixture
def mixture():
    with jax.enable_x64(True):
        yield Mixture(*(jnp.asarray(x) for x in (WEIGHTS, MEANS, VARIANCES)))


def density(x):
    return sum(
        w * scipy.stats.norm.pdf(x, m, np.sqrt(s)).prod()
        for w, m, s in zip(WEIGHTS, MEANS, VARIANCES, strict=True)
    )


def test_component_densities_are_scipys(mixture):
    x = np.array([0.2, -0.4])
    found = np.exp(mixture.component_log_probs(jnp.asarray(x))).sum()
    np.testing.assert_allclose(found, density(x), rtol=1e-12)


def test_bayes(mixture):
    """p(x_0) N(x; a x_0, s^2) = p(x) p(x_0 | x) at a few points."""
    scale, std = jnp.asarray(0.8), jnp.asarray(0.6)
    x_0, x = np.array([0.2, -0.4]), np.array([0.7, 0.1])
    likelihood = scipy.stats.norm.pdf(x, 0.8 * x_0, 0.6).prod()
    evidence = np.exp(mixture.noised(scale, std).component_log_probs(jnp.asarray(x))).sum()
    posterior = mixture.posterior(scale, std, jnp.asarray(x))
    found = np.exp(posterior.component_log_probs(jnp.asarray(x_0))).sum()
    np.testing.assert_allclose(evidence * found, density(x_0) * likelihood, rtol=1e-10)


def test_samples(mixture):
    # z-tests of two means and two second moments of 20000 draws at |z| < 4.5: false alarm 3e-5.
    x = np.asarray(mixture.sample(jax.random.key(0), 20000))
    w, m, s = map(np.asarray, (WEIGHTS, MEANS, VARIANCES))
    moments = {1: w @ m, 2: w @ (m**2 + s)}
    for power, expected in moments.items():
        y = x**power
        z = (y.mean(axis=0) - expected) / (y.std(axis=0) / np.sqrt(20000))
        assert (np.abs(z) < 4.5).all(), (power, z)
