"""The consistency function: its boundary, its DDIM start, the levels of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import VP, consistency_function
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import ExponentialEuler
from tests.processes.one_of_each import PROCESSES

X = jax.random.normal(jax.random.key(0), (7, 2, 3))


def network(t, x):
    t = jnp.reshape(t, (-1, 1, 1))
    return 5.0 * jnp.sin(3.0 * x + t)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("end", [1e-3, 0.03])
def test_the_boundary_holds_exactly(name, end):
    """Bit for bit, compiled or not, whatever the network says."""
    function = consistency_function.from_normalized_v(
        PROCESSES[name], network, end=end, data_std=0.5
    )
    for t in (jnp.asarray(end), jnp.full(7, end), jnp.linspace(0.5 * end, end, 7)):
        np.testing.assert_array_equal(function(t, X), X)
        np.testing.assert_array_equal(jax.jit(function)(t, X), X)
    later = jnp.asarray(min(2 * end, 0.9))
    assert float(jnp.max(jnp.abs(function(later, X) - X))) > 1e-4


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("data_std", [1.0, 0.3])
def test_it_is_one_ddim_step(name, data_std):
    process, end = PROCESSES[name], 0.01
    t = jnp.linspace(0.05, 1.0, 7) * process.latest
    score_fn = consistency_function.score_from_normalized_v(process, network, data_std=data_std)
    r_0, r_1 = process.horizon - t, jnp.asarray(process.horizon - end)
    kernel = ExponentialEuler(eta=0.0).kernel(process, r_0, r_1)
    function = consistency_function.from_normalized_v(process, network, end=end, data_std=data_std)
    expected = kernel.mean(X, score_fn(t, X))
    np.testing.assert_allclose(function(t, X), expected, rtol=1e-3, atol=1e-3)


def test_the_score_is_that_of_the_velocity():
    process, t = VP(), jnp.linspace(0.05, 1.0, 7)
    found = consistency_function.score_from_normalized_v(process, network)(t, X)
    expected = parameterization.from_v(process, network)(t, X)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("power", [1.0, 7.0])
def test_levels_are_even_in_the_noise_to_signal_ratio(name, power):
    process, end = PROCESSES[name], 0.01
    time_of_level = consistency_function.level_times(process, end=end, power=power)
    levels = jnp.linspace(0.0, 1.0, 21)
    times = jax.jit(time_of_level)(levels)
    assert float(times[0]) == np.float32(end) and float(times[-1]) == process.horizon
    scale, std = (
        np.asarray(z, np.float64) for z in process.marginal(jnp.minimum(times, process.latest))
    )
    gaps = np.diff((std / scale) ** (1 / power))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=2e-2)


def test_bad_arguments_are_refused():
    process = VP()
    with pytest.raises(
        ValueError, match=r"end: received 1.0; it must lie in \(0, horizon\) = \(0, 1.0\)"
    ):
        consistency_function.level_times(process, end=1.0)
    with pytest.raises(ValueError, match=r"end: received 0\.0; it must lie"):
        consistency_function.coefficients(process, jnp.ones(2), end=0.0)
    with pytest.raises(ValueError, match=r"data_std: received -1\.0; it must be above zero"):
        consistency_function.coefficients(process, jnp.ones(2), end=0.1, data_std=-1.0)
    with pytest.raises(ValueError, match=r"data_std: received 0\.0; it must be above zero"):
        consistency_function.score_from_normalized_v(process, network, data_std=0.0)
    with pytest.raises(ValueError, match=r"power: received 0\.0; it must be above zero"):
        consistency_function.level_times(process, end=0.1, power=0.0)
