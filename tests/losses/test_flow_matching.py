"""The flow-matching loss (6): its minimizer, and denoising score matching in disguise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import score_matching, time_weighting
from ctrl_jax.processes import RectifiedFlow
from ctrl_jax.processes import parameterization as parameterization

MEAN, VARIANCE = 1.5, 0.25


def test_by_hand():
    """((2 - (.5 - 1))^2 + (0 - (1 - 0))^2) / 2 = 3.625; with T = 2, (2.25^2 + .5^2) / 2."""
    u, x_0, noise = (jnp.asarray([row]) for row in ([2.0, 0.0], [1.0, 0.0], [0.5, 1.0]))
    np.testing.assert_allclose(score_matching.flow(u, x_0, noise), [3.625])
    found = score_matching.flow(u, x_0, noise, horizon=2.0, weights=jnp.asarray([2.0]))
    np.testing.assert_allclose(found, [2.25**2 + 0.5**2])


def test_what_it_refuses(unchecked):
    u = jnp.ones((3, 2))
    for horizon in (0.0, -1.0):
        with pytest.raises(ValueError, match="horizon: received"):
            score_matching.flow(u, u, u, horizon=horizon)
    with pytest.raises(ValueError, match=r"x_0: received float32\[1, 2\]; its shape must"):
        score_matching.flow(u, u[:1], u)
    with pytest.raises(ValueError, match=r"weights: received float32\[3, 1\]; its shape"):
        score_matching.flow(u, u, u, weights=jnp.ones((3, 1)))
    assert score_matching.flow(u[:0], u[:0], u[:0]).shape == (0,)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 1.0])
def test_the_minimizer_is_the_conditional_mean_of_noise_minus_data(t, float64):
    """E[e - x_0 | x_t] of Gaussian data is affine, k (x - (1 - t) m) - m with
    k = (t - (1 - t) S) / (t^2 + (1 - t)^2 S). The gradient of the expected loss in slope and
    intercept vanishes there, by quadrature that is exact for these polynomials; its curvature is
    positive."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    x_0, noise = (z.reshape(-1, 1) for z in np.meshgrid(MEAN + VARIANCE**0.5 * nodes, nodes))
    weight = np.outer(weights, weights).reshape(-1) / weights.sum() ** 2
    x_t = (1 - t) * x_0 + t * noise
    slope = (t - (1 - t) * VARIANCE) / (t**2 + (1 - t) ** 2 * VARIANCE)
    best = np.asarray([slope, -MEAN - slope * (1 - t) * MEAN])

    @jax.jit
    def derivatives(p, *data):
        def expected_loss(p):
            x_t, x_0, noise, weight = data
            return jnp.sum(score_matching.flow(p[0] * x_t + p[1], x_0, noise, weights=weight))

        return jax.grad(expected_loss)(p), jax.hessian(expected_loss)(p)

    gradient, hessian = derivatives(best, x_t, x_0, noise, weight)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)
    assert (np.linalg.eigvalsh(hessian) > 0).all()


@pytest.mark.parametrize("horizon", [1.0, 3.0])
def test_it_is_denoising_with_the_weight_of_the_flow(horizon):
    process = RectifiedFlow(horizon=horizon)
    t = horizon * jnp.asarray([0.1, 0.4, 0.9])
    u, x_0 = jax.random.normal(jax.random.key(0), (2, 3, 5))
    x_t, noise = process.sample_marginal(jax.random.key(1), x_0, t)
    score = parameterization.from_flow(process, lambda t, x: u)(t, x_t)
    relative = time_weighting.relative(process, time_weighting.flow(process))(t)
    expected = score_matching.denoising(score, noise, process.marginal(t).std, weights=relative)
    found = score_matching.flow(u, x_0, noise, horizon=horizon)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # The same by hand: the weight on denoising's own error is 1 / (1 - t/T)^2 / T^2.
    np.testing.assert_allclose(relative, 1 / (horizon - t) ** 2, rtol=1e-5)
