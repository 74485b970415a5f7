"""Tabulated schedules: `ExponentialEuler` on them takes the steps of the discrete samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import VP, TabulatedSchedule
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import ExponentialEuler, simulate
from tests.oracles import ddim

SCHEDULE = TabulatedSchedule.scaled_linear()
PROCESS, SIGNAL = VP(schedule=SCHEDULE), ddim.scaled_linear_signal()


def test_the_signal_of_every_discrete_step():
    with jax.enable_x64(True):
        scale, std = PROCESS.marginal(SCHEDULE.time_of(np.arange(1000)))
    np.testing.assert_allclose(scale**2, SIGNAL, rtol=1e-12)
    np.testing.assert_allclose(std**2, 1 - SIGNAL, rtol=1e-12)
    # Stable Diffusion's first and last, to the digits that its users quote.
    np.testing.assert_allclose([SIGNAL[0], SIGNAL[-1]], [0.99915, 0.0047], atol=5e-5)


def test_times_and_steps_are_each_others_inverse():
    k = np.asarray([0.0, 1.0, 500.0, 999.0])
    np.testing.assert_allclose(SCHEDULE.index_of(SCHEDULE.time_of(k)), k, atol=1e-3)
    np.testing.assert_allclose(SCHEDULE.time_of(999), 1.0, rtol=1e-7)


@pytest.mark.parametrize(
    ("number", "eta"),
    [
        (20, 0.5),
        (50, 0.0),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in ((20, 0.0), (20, 1.0), (50, 0.5), (50, 1.0))
        ),
    ],
)
def test_steps_are_those_of_ddim(number, eta):
    """In float32 along whole trajectories, on the same noise, to 1e-5."""

    def predicted(k, x, tanh):
        return 0.9 * tanh(x) + 0.1 * tanh(0.01 * k)

    def network(t, x):
        return predicted(SCHEDULE.index_of(t), x, jnp.tanh)

    visited = ddim.leading_steps(1000, number)
    times = SCHEDULE.time_of(np.append(visited, 0))
    sde = PROCESS.reverse(parameterization.from_noise(PROCESS, network))
    x_0 = jax.random.normal(jax.random.key(0), (4, 3))
    path = simulate(
        jax.random.key(1), sde, x_0, 1.0 - times, solver=ExponentialEuler(eta=eta), save="path"
    )
    assert path.noise is not None
    z = np.asarray(path.noise, np.float64)
    expected = ddim.trajectory(
        SIGNAL, visited, lambda k, x: predicted(k, x, np.tanh), np.asarray(x_0, float), eta, z
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(path.states[1:] / scale, expected / scale, atol=1e-5)


def test_the_betas_of_the_named_schedules():
    """By the definitions, one beta at a time."""

    def betas(schedule):
        return -np.expm1(-np.diff(schedule.integrals))

    linear = 1e-4 + (0.02 - 1e-4) * np.arange(1000) / 999
    np.testing.assert_allclose(betas(TabulatedSchedule.linear()), linear, rtol=1e-9)
    found = betas(TabulatedSchedule.squared_cosine(100))

    def f(u):
        return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

    expected = [min(1 - f((k + 1) / 100) / f(k / 100), 0.999) for k in range(100)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.1, 1.0, 0.1], r"betas\[1\]: received 1.0; each must lie in \(0, 1\), and the last may"),
        ([0.1, 1.1], r"betas\[1\]: received 1.1; .*; give the share of the variance"),
        ([0.0, 0.1], r"betas\[0\]: received 0.0; .*; give the share of the variance"),
        (np.ones((1, 1)) / 2, r"betas: received \(1, 1\); they must be a vector"),
    ],
)
def test_bad_betas_are_named(betas, message):
    with pytest.raises(ValueError, match=message):
        TabulatedSchedule(betas)


def test_a_schedule_brings_its_rates():
    with pytest.raises(ValueError, match=r"beta_max: received 3.0; the schedule says it"):
        VP(beta_max=3.0, schedule=SCHEDULE)
