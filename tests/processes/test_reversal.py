"""Reversal (3) and probability flow (4) carry the law at the horizon back to the data's."""

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._numerics import expand
from ctrl_jax.processes import EDM
from ctrl_jax.processes import parameterization as parameterization
from tests.processes.compiled import compiled
from tests.processes.family import FAMILY, KINDS
from tests.processes.gaussian import exact_score, laws, reversed_law

# The oracle's Runge-Kutta steps would cut the corners of a tabulated rate.
SMOOTH = [name for name in FAMILY if "tabulated" not in name]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in KINDS else pytest.mark.slow) for n in SMOOTH]
)
def test_gaussian_marginals_are_preserved_at_every_noise_level(name):
    process = FAMILY[name][0]
    score_fn = exact_score(process)
    assert process.reverse(score_fn).probability_flow().noise_level == 0.0
    levels = [process.reverse(score_fn, noise_level=level) for level in (0.0, 0.5, 1.0, 1.5)]
    end = 0.01 * process.horizon
    start, (mean, variance) = laws(process, process.latest, end)
    means, variances = reversed_law(levels, start, end)
    np.testing.assert_allclose(means, np.full(4, mean), rtol=1e-6)
    np.testing.assert_allclose(variances, np.full(4, variance), rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_the_flow_of_edm_in_terms_of_the_denoiser(scale):
    """dx/dt = (1/t + s'/s) x - s D(x/s; t) / t for any denoiser, in forward time."""
    process, slope = EDM(8.0, scale), (1 - scale) / 8.0

    def denoiser(t, y):
        return jnp.tanh(y) / (1 + expand(t, y))

    def s(t, x):
        return expand(scale + slope * t, x)

    def flows(t, x):
        score_fn = parameterization.from_data(process, lambda t, x: denoiser(t, x / s(t, x)))
        backward = process.reverse(score_fn).probability_flow().drift(process.horizon - t, x)
        expected = expand(1 / t, x) * x + slope / s(t, x) * x
        return -backward, expected - s(t, x) * denoiser(t, x / s(t, x)) / expand(t, x)

    t = np.linspace(0.5, 8.0, 5, dtype=np.float32)
    x = np.linspace(-3.0, 2.0, 15, dtype=np.float32).reshape(5, 3)
    np.testing.assert_allclose(*compiled(flows, t, x), rtol=1e-5, atol=1e-6)
