"""VP against the table of closed forms, the moment equations (2) and its small-time limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import VP
from tests.oracles.linear_sdes import integrated_moments

TABLE = [  # t, a, std, sigma of VP(.1, 20), six digits
    (0.3, 0.62955, 0.77696, 2.46374),
    (0.7, 0.0843526, 0.996436, 3.74566),
    (1.0, 0.00657159, 0.999978, 4.47214),
]


@pytest.mark.parametrize(("t", "scale", "std", "sigma"), TABLE)
def test_the_table(t, scale, std, sigma):
    process = VP(0.1, 20.0)
    marginal = process.marginal(jnp.asarray(t))
    np.testing.assert_allclose(
        [marginal.scale, marginal.std, process.diffusion(jnp.asarray(t))],
        [scale, std, sigma],
        rtol=5e-6,
    )


@pytest.mark.parametrize("process", [VP(), VP(0.2, 2.0, horizon=3.0), VP(1.0, 0.5, horizon=0.25)])
@pytest.mark.parametrize("fraction", [0.01, 0.4, 1.0])
def test_marginals_solve_the_moment_equations(process, fraction):
    with jax.enable_x64(True):
        t = fraction * process.horizon
        a, v = integrated_moments(
            lambda s: float(process.contraction_rate(jnp.asarray(s))),
            lambda s: float(process.diffusion(jnp.asarray(s))),
            t,
        )
        marginal = process.marginal(jnp.asarray(t))
        assert marginal.scale.dtype == jnp.float64
        np.testing.assert_allclose([marginal.scale, marginal.std**2], [a, v], rtol=1e-6)


def test_small_times_keep_their_digits_in_float32():
    """v = beta_min t + O(t^2): 1 - e^{-B} would have no digit left at B = 1e-8."""
    t = jnp.asarray([1e-7, 1e-5, 1e-4])
    std = VP(0.1, 20.0).marginal(t).std
    assert std.dtype == jnp.float32
    expected = np.sqrt(-np.expm1(-(0.1 * np.asarray(t, float) + 9.95 * np.asarray(t, float) ** 2)))
    np.testing.assert_allclose(std, expected, rtol=1e-6)


def test_variance_is_preserved():
    t = jnp.linspace(0.0, 1.0, 11)
    scale, std = VP().marginal(t)
    np.testing.assert_allclose(scale**2 + std**2, 1.0, atol=1e-6)
    assert float(VP().prior_std()) == 1.0


def test_times_scale_with_the_horizon():
    """beta dt is what matters: a horizon three times as long at a third of the rates."""
    t = jnp.linspace(0.0, 1.0, 7)
    short, long = VP(0.3, 6.0), VP(0.1, 2.0, horizon=3.0)
    np.testing.assert_allclose(short.marginal(t).scale, long.marginal(3 * t).scale, rtol=2e-6)


@pytest.mark.parametrize("name", ["beta_min", "beta_max", "horizon"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=rf"VP: {name} must be a positive finite number, got"):
        VP(**{name: value})
