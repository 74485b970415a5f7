"""The consistency function: its boundary, its DDIM start, the levels of training."""

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import VP, consistency_function
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import ExponentialEuler
from tests.processes.compiled import compiled
from tests.processes.one_of_each import PROCESSES, few_by_name

X = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
TIMES = np.linspace(0.05, 1.0, 7, dtype=np.float32)


def network(t, x):
    t = jnp.reshape(t, (-1, 1, 1))
    return 5.0 * jnp.sin(3.0 * x + t)


@few_by_name
def test_the_boundary_holds_exactly(name):
    """Bit for bit, whatever the network says."""

    def states(end, x):
        function = consistency_function.from_normalized_v(
            PROCESSES[name], network, end=end, data_std=0.5
        )
        times = jnp.asarray(end), jnp.full(7, end), jnp.linspace(0.5 * end, end, 7)
        later = jnp.asarray(min(2 * end, 0.9))
        return [function(t, x) for t in times], function(later, x)

    for held, moved in compiled(lambda x: [states(end, x) for end in (1e-3, 0.03)], X):
        for found in held:
            np.testing.assert_array_equal(found, X)
        assert np.abs(moved - X).max() > 1e-4


def test_the_boundary_holds_without_a_program():
    function = consistency_function.from_normalized_v(VP(), network, end=0.03, data_std=0.5)
    np.testing.assert_array_equal(function(jnp.full(7, 0.03), jnp.asarray(X)), X)


@few_by_name
def test_it_is_one_ddim_step(name):
    process, end = PROCESSES[name], 0.01

    def both(t, x, data_std):
        score_fn = consistency_function.score_from_normalized_v(process, network, data_std=data_std)
        r_0, r_1 = process.horizon - t, jnp.asarray(process.horizon - end)
        kernel = ExponentialEuler(eta=0.0).kernel(process, r_0, r_1)
        function = consistency_function.from_normalized_v(
            process, network, end=end, data_std=data_std
        )
        return function(t, x), kernel.mean(x, score_fn(t, x))

    times = TIMES * np.float32(process.latest)
    for found, expected in compiled(lambda t, x: [both(t, x, s) for s in (1.0, 0.3)], times, X):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_score_is_that_of_the_velocity():
    makers = consistency_function.score_from_normalized_v, parameterization.from_v
    found, expected = compiled(lambda t, x: [f(VP(), network)(t, x) for f in makers], TIMES, X)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@few_by_name
def test_levels_are_even_in_the_noise_to_signal_ratio(name):
    process, end = PROCESSES[name], 0.01

    def levels(u):
        times = [
            consistency_function.level_times(process, end=end, power=power)(u)
            for power in (1.0, 7.0)
        ]
        return [(t, process.marginal(jnp.minimum(t, process.latest))) for t in times]

    found = compiled(levels, np.linspace(0.0, 1.0, 21, dtype=np.float32))
    for power, (times, (scale, std)) in zip((1.0, 7.0), found, strict=True):
        assert times[0] == np.float32(end) and times[-1] == process.horizon
        gaps = np.diff((std.astype(float) / scale) ** (1 / power))
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
