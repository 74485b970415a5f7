"""Exact relations between the processes: contractive sub-VP is sub-VP in other coordinates, and
contractive OU and VP never destroy the signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import ContractiveOU, ContractiveSubVP, ContractiveVP, SubVP, grids
from ctrl_jax.processes.parameterization import from_data
from ctrl_jax.solvers import ExponentialEuler, simulate
from tests.processes.gaussian import exact_score, reversed_law

PAIRS = [
    (SubVP(0.1, 5.0), ContractiveSubVP(0.1, 5.0)),
    (SubVP(0.5, 2.0, horizon=2.0), ContractiveSubVP(0.5, 2.0, horizon=2.0)),
    (SubVP.cosine(beta_max=8.0), ContractiveSubVP.cosine(beta_max=8.0)),
]
every_twin = pytest.mark.parametrize(("ours", "contractive"), PAIRS)


@every_twin
def test_one_is_the_other_in_growing_coordinates(ours, contractive):
    """d(e^B Y) has drift b + beta and diffusion e^B sigma: Ito's formula, term by term."""
    with jax.enable_x64(True):
        t = jnp.linspace(0.01, 1.0, 25) * ours.horizon
        integral, rate = ours.schedule.integral(t), ours.schedule.rate(t)
        drift = ours.contraction_rate(t) + rate
        np.testing.assert_allclose(contractive.contraction_rate(t), drift, rtol=1e-12)
        diffusion = jnp.exp(integral) * ours.diffusion(t)
        np.testing.assert_allclose(contractive.diffusion(t), diffusion, rtol=1e-11)
        ratio = 2 * jnp.sinh(integral / 2)
        np.testing.assert_allclose(ours.noise_to_signal(t), ratio, rtol=1e-11)
        np.testing.assert_allclose(contractive.noise_to_signal(t), ratio, rtol=1e-11)


def euler_path(process, increments, x_0):
    """Forward Euler with given Brownian increments (steps,)."""
    steps = len(increments)
    with jax.enable_x64(True):
        t = jnp.arange(steps) / steps * process.horizon
        rate, sigma = process.contraction_rate(t), process.diffusion(t)
    x, path = x_0, []
    for b, g, dw in zip(np.asarray(rate), np.asarray(sigma), increments, strict=True):
        x = x + b * x * process.horizon / steps + g * dw
        path.append(x)
    return np.asarray(path)


def test_paths_under_one_brownian_motion():
    """The gap between X and e^B Y is Euler's alone: of strong order one."""
    ours, contractive = PAIRS[0]
    fine = np.random.default_rng(0).normal(size=(8, 16384)) / 128  # one horizon of Brownian motion

    def gap(steps):
        with jax.enable_x64(True):
            t = jnp.arange(1, steps + 1) / steps
            growth = np.exp(np.asarray(ours.schedule.integral(t)))
        gaps = []
        for path in fine:
            increments = path.reshape(steps, -1).sum(axis=1)
            x, y = (euler_path(p, increments, 0.7) for p in (contractive, ours))
            gaps.append(np.max(np.abs(x / growth - y)))
        return np.mean(gaps)

    coarse, finest = gap(1024), gap(16384)
    assert finest < 1e-3
    # 16 at order one and 4 at order one half.
    assert 10 < coarse / finest < 22


@every_twin
def test_a_scale_equivariant_sampler_gives_the_same_samples(ours, contractive):
    """One denoiser, matched starts X = e^{B(T)} Y and the same noise: DDIM and its ancestral
    variant give the same samples. Started from the priors they differ by 1 - e^{-B(T)}."""
    with jax.enable_x64(True):
        grid = grids.quadratic(ours, 12, end=0.02 * ours.horizon)
        growth = jnp.exp(ours.schedule.integral(jnp.asarray(ours.horizon)))
        start = jax.random.normal(jax.random.key(0), (5, 2))

        def end(process, x_0, eta):
            def network(t, x):
                y = x / process.marginal(t).scale
                return jnp.tanh(y) / (1 + process.noise_to_signal(t))

            sde = process.reverse(from_data(process, network))
            solver, key = ExponentialEuler(eta=eta), jax.random.key(1)
            found = simulate(key, sde, x_0, grid, solver=solver).states
            return found / process.marginal(process.horizon - grid[-1]).scale

        for eta in (0.0, 1.0):
            expected = end(ours, start, eta)
            np.testing.assert_allclose(end(contractive, growth * start, eta), expected, rtol=1e-9)
        ratio = contractive.prior_std() / (growth * ours.prior_std())
        np.testing.assert_allclose(ratio, 1 - 1 / growth, rtol=1e-12)


FLOORS = [  # contractive process with a long horizon, tau, mean error of the SDE and of the ODE
    (ContractiveOU(1.0, 1.0, horizon=8.0), 0.5**0.5, 0.3333, 0.5774),
    (ContractiveVP(0.5, 3.5, horizon=8.0), 1.0, 0.2000, 0.4472),
]


@pytest.mark.parametrize(("process", "tau", "sde_error", "ode_error"), FLOORS)
def test_the_signal_that_is_left_at_the_horizon_is_an_error(process, tau, sde_error, ode_error):
    """From the stated prior N(0, v(T)) the mean of N(1, .25) is missed by m s^2 / (s^2 + tau^2)
    as T -> oo, and by m s / sqrt(s^2 + tau^2) under the probability flow."""
    ratio = process.noise_to_signal(jnp.asarray(process.horizon))
    np.testing.assert_allclose(ratio, tau, rtol=1e-6)
    sde = process.reverse(exact_score(process, 1.0, 0.25))
    start = (0.0, float(process.prior_std()) ** 2)
    for flow, printed, exact in (
        (sde, sde_error, 0.25 / (0.25 + tau**2)),
        (sde.probability_flow(), ode_error, 0.5 / np.hypot(0.5, tau)),
    ):
        mean, _ = reversed_law(flow, start, 0.0, steps=4000)
        np.testing.assert_allclose(1.0 - mean, exact, rtol=1e-5)
        np.testing.assert_allclose(1.0 - mean, printed, atol=6e-5)
