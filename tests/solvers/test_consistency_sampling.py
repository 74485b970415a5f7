"""Sampling the exact consistency function of a Gaussian gives that Gaussian, in any steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import VP
from ctrl_jax.solvers.consistency_sampling import renoise, sample_consistency
from tests.losses.gaussian_consistency import MEAN, VARIANCE, consistency_fn
from tests.processes.one_of_each import PROCESSES

END, NUMBER = 0.01, 20_000


@pytest.mark.parametrize("times", [None, jnp.asarray([0.5]), jnp.asarray([0.7, 0.4, 0.2])])
def test_the_law_of_samples(times):
    """Mean and std of 20 000 draws have standard errors s/141 and s/200; four of them is a false
    alarm in 16 000. The prior N(0, 1) is p_T up to a(T) = .0066, below them."""
    process = VP()
    found = jax.jit(
        lambda key: sample_consistency(
            key, process, consistency_fn(process, END), (NUMBER, 1), end=END, times=times
        )
    )(jax.random.key(0))
    scale, std = process.marginal(jnp.asarray(END))
    spread = float(jnp.sqrt(scale**2 * VARIANCE + std**2))
    assert abs(float(found.mean()) - float(scale) * MEAN) < (4 / 141 + 0.007) * spread
    assert abs(float(found.std()) - spread) < 4 / 200 * spread


@pytest.mark.parametrize("name", PROCESSES)
def test_renoising_is_the_forward_transition(name):
    """From N(a_e x_0, v_e) to N(a_t x_0, v_t), in exact arithmetic of means and variances."""
    process, end = PROCESSES[name], 0.1
    t, x, one = jnp.asarray(0.6 * process.horizon), jnp.ones((1, 1)), jnp.ones((1, 1))
    gain = float(renoise(process, x, 0 * one, end=end, t=t)[0, 0])
    added = float(renoise(process, 0 * x, one, end=end, t=t)[0, 0])
    scale, std = process.marginal(t)
    scale_end, std_end = process.marginal(jnp.asarray(end))
    np.testing.assert_allclose(gain * scale_end, scale, rtol=1e-5)
    np.testing.assert_allclose((gain * std_end) ** 2 + added**2, std**2, rtol=1e-4)


def test_an_example_does_not_depend_on_its_batch():
    process = VP()

    def draw(number):
        function = consistency_fn(process, END)
        times = jnp.asarray([0.5, 0.3])
        key = jax.random.key(1)
        return sample_consistency(key, process, function, (number, 2), end=END, times=times)

    np.testing.assert_allclose(draw(8)[:3], draw(3), rtol=1e-5)


def test_bad_arguments_are_refused():
    process, key = VP(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"end: received .* must lie in \(0, horizon\)"):
        sample_consistency(key, process, lambda t, x: x, (2, 1), end=0.0)
