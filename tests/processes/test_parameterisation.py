"""Noise, data and velocity predictions of Gaussian data, all exact, stand for one score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._typing import expand
from ctrl_jax.processes import VP, parameterisation

MEAN, VARIANCE = 1.5, 0.25


def exact_score(process):
    def score_fn(t, x):
        scale, std = process.marginal(t)
        return -(x - expand(scale, x) * MEAN) / expand(scale**2 * VARIANCE + std**2, x)

    return score_fn


def exact_networks(process):
    """E[noise | x], E[x_0 | x] and E[a noise - std x_0 | x] for data N(MEAN, VARIANCE)."""

    def moments(t, x):
        scale, std = (expand(c, x) for c in process.marginal(t))
        noised = scale**2 * VARIANCE + std**2
        residual = (x - scale * MEAN) / noised
        return scale, std, MEAN + scale * VARIANCE * residual, std * residual

    def noise(t, x):
        return moments(t, x)[3]

    def data(t, x):
        return moments(t, x)[2]

    def velocity(t, x):
        scale, std, x_0, eps = moments(t, x)
        return scale * eps - std * x_0

    return {
        parameterisation.from_noise: noise,
        parameterisation.from_data: data,
        parameterisation.from_velocity: velocity,
    }


PARAMETERISATIONS = list(exact_networks(VP()))


@pytest.mark.parametrize("parameterise", PARAMETERISATIONS)
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_exact_predictions_give_the_exact_score(parameterise, t):
    with jax.enable_x64(True):
        process = VP(0.1, 5.0)
        x = jnp.linspace(-2.0, 2.0, 12).reshape(4, 3)
        score_fn = parameterise(process, exact_networks(process)[parameterise])
        for times in (jnp.asarray(t), jnp.full(4, t)):
            np.testing.assert_allclose(
                score_fn(times, x), exact_score(process)(times, x), rtol=1e-11
            )


@pytest.mark.parametrize("parameterise", PARAMETERISATIONS)
def test_conditions_reach_the_network(parameterise):
    seen = []

    def network(t, x, *conditions):
        seen.append(conditions)
        return x

    label = jnp.arange(2)
    parameterise(VP(), network)(jnp.asarray(0.5), jnp.ones((2, 3)), label)
    assert seen == [(label,)]
