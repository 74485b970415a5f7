"""Integer times and scalars mean what their floating and batched forms mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import OU, VP, grids
from ctrl_jax.processes import parameterization as parameterization
from tests.processes.one_of_each import PROCESSES


@pytest.mark.parametrize("process", PROCESSES.values(), ids=list(PROCESSES))
@pytest.mark.mixed_dtypes
def test_integer_times_are_times(process, unchecked):
    for whole, time in ((0, 0.0), (jnp.asarray([0, 1]), jnp.asarray([0.0, 1.0]))):
        for method in (process.contraction_rate, process.diffusion, process.marginal):
            for found, expected in zip(
                jax.tree.leaves(method(whole)), jax.tree.leaves(method(time)), strict=True
            ):
                assert jnp.issubdtype(found.dtype, jnp.floating)
                np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_rate_below_one_survives_an_integer_time(unchecked):
    assert float(OU(0.5, 0.5).diffusion(1)) == 0.5  # pyright: ignore[reportArgumentType]


def test_scalars_are_states(unchecked):
    process = VP()
    x_t, noise = process.sample_marginal(jax.random.key(0), jnp.asarray(1.0), jnp.asarray(0.5))
    assert x_t.shape == noise.shape == ()
    score_fn = parameterization.from_noise(process, lambda t, x: 0.5 * x)
    drift = process.reverse(score_fn).drift(jnp.asarray(0.5), jnp.asarray(1.0))
    batched = process.reverse(score_fn).drift(jnp.asarray(0.5), jnp.ones((1, 1)))
    np.testing.assert_allclose(drift, batched[0, 0], rtol=1e-6)
    back = parameterization.to_noise(process, score_fn)(jnp.asarray(0.5), jnp.asarray(1.0))
    np.testing.assert_allclose(back, 0.5, rtol=1e-6)


@pytest.mark.parametrize("horizon", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("make", [grids.uniform, grids.quadratic, grids.log_snr, grids.edm])
def test_grids_end_at_a_thousandth_of_the_horizon(make, horizon):
    process = OU(1 / horizon, horizon**-0.5, horizon=horizon)
    grid = np.asarray(make(process, 4))
    np.testing.assert_allclose(grid[-1] / horizon, 0.999, rtol=1e-5)
