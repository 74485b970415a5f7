"""Coefficients of Gaussian steps against the oracle's moments, on every kind of process."""

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler
from tests.processes.family import FAMILY
from tests.processes.one_of_each import NAMES

every_process = pytest.mark.parametrize("name", NAMES)


def step_of(name):
    """A process, its oracle, and the forward times of one step (later, earlier)."""
    process, oracle = FAMILY[name]
    return process, oracle, (0.6 * process.horizon, 0.45 * process.horizon)


def coefficients(solver, process, times):
    later, earlier = (jnp.asarray(process.horizon - t) for t in times)
    return [float(c) for c in solver.kernel(process, later, earlier)]


@every_process
def test_euler_maruyama(name, float64):
    process, oracle, (t, t_next) = step_of(name)
    dt, rate, noise = t - t_next, oracle.rate(t), oracle.variance_rate(t)
    expected = [1 - rate * dt, noise * dt, (noise * dt) ** 0.5]
    found = coefficients(EulerMaruyama(), process, (t, t_next))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@every_process
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_exponential_euler(name, eta, float64):
    """x' = a' x_0 + sqrt(v' - w) e + sqrt(w) z, where w is eta^2 times the variance of x' given x
    and x_0; e and x_0 are read off x and s."""
    process, oracle, (t, t_next) = step_of(name)
    (a_next, a), (v_next, v) = oracle.moments(np.asarray([t_next, t]))
    forward = v - (a / a_next) ** 2 * v_next  # variance of x given x'
    w = eta**2 * forward * v_next / v
    # x_0 = (x + v s) / a,  e = -sqrt(v) s.
    expected = [a_next / a, a_next * v / a - (v * (v_next - w)) ** 0.5, w**0.5]
    found = coefficients(ExponentialEuler(eta=eta), process, (t, t_next))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
