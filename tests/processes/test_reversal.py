"""Reversal (3) and probability flow (4) carry the law at the horizon back to the data's."""

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._numerics import expand
from ctrl_jax.processes import EDM
from ctrl_jax.processes import parameterization as parameterization
from tests.processes.family import FAMILY
from tests.processes.gaussian import exact_score, law, reversed_law

# The oracle's Runge-Kutta steps would cut the corners of a tabulated rate.
SMOOTH = {name: process for name, (process, _) in FAMILY.items() if "tabulated" not in name}


@pytest.mark.parametrize("process", SMOOTH.values(), ids=[*SMOOTH])
@pytest.mark.parametrize("noise_level", [0.0, 0.5, 1.0, 1.5])
def test_gaussian_marginals_are_preserved_at_every_noise_level(process, noise_level):
    sde = process.reverse(exact_score(process), noise_level=noise_level)
    assert process.reverse(exact_score(process)).probability_flow().noise_level == 0.0
    end = 0.01 * process.horizon
    found = reversed_law(sde, law(process, process.latest), end)
    np.testing.assert_allclose(found, law(process, end), rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_the_flow_of_edm_in_terms_of_the_denoiser(scale):
    """dx/dt = (1/t + s'/s) x - s D(x/s; t) / t for any denoiser, in forward time."""
    process = EDM(8.0, scale)

    def denoiser(t, y):
        return jnp.tanh(y) / (1 + expand(t, y))

    score_fn = parameterization.from_data(process, lambda t, x: denoiser(t, x / s(t, x)))

    def s(t, x):
        return expand(scale + (1 - scale) * t / 8.0, x)

    t, x = jnp.linspace(0.5, 8.0, 5), jnp.linspace(-3.0, 2.0, 15).reshape(5, 3)
    backward = process.reverse(score_fn).probability_flow().drift(process.horizon - t, x)
    slope = (1 - scale) / 8.0
    expected = expand(1 / t, x) * x + slope / s(t, x) * x
    expected = expected - s(t, x) * denoiser(t, x / s(t, x)) / expand(t, x)
    np.testing.assert_allclose(-backward, expected, rtol=1e-5, atol=1e-6)
