"""Exact relations between the processes: contractive sub-VP is sub-VP in other coordinates, and
contractive OU and VP never destroy the signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import ContractiveOU, ContractiveSubVP, ContractiveVP, SubVP, grids
from ctrl_jax.processes.parameterization import from_data
from ctrl_jax.solvers import ExponentialEuler, simulate
from tests.processes.compiled import compiled, in_double
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

    def terms(t):
        both = [
            (p.contraction_rate(t), p.diffusion(t), p.noise_to_signal(t))
            for p in (ours, contractive)
        ]
        return ours.schedule.integral(t), ours.schedule.rate(t), both

    t = np.linspace(0.01, 1.0, 25) * ours.horizon
    integral, rate, ((drift, sigma, ratio), twin) = in_double(terms, t)
    np.testing.assert_allclose(twin[0], drift + rate, rtol=1e-12)
    np.testing.assert_allclose(twin[1], np.exp(integral) * sigma, rtol=1e-11)
    np.testing.assert_allclose(ratio, 2 * np.sinh(integral / 2), rtol=1e-11)
    np.testing.assert_allclose(twin[2], 2 * np.sinh(integral / 2), rtol=1e-11)


def euler_paths(process, increments, x_0):
    """Forward Euler with given Brownian increments (steps, paths)."""
    steps = len(increments)
    t = np.arange(steps) / steps * process.horizon
    rate, sigma = in_double(lambda t: (process.contraction_rate(t), process.diffusion(t)), t)
    x, paths = np.full(increments.shape[1:], x_0), []
    for b, g, dw in zip(rate, sigma, increments, strict=True):
        x = x + b * x * process.horizon / steps + g * dw
        paths.append(x)
    return np.asarray(paths)


def test_paths_under_one_brownian_motion():
    """The gap between X and e^B Y is Euler's alone: of strong order one."""
    ours, contractive = PAIRS[0]
    fine = np.random.default_rng(0).normal(size=(16384, 8)) / 128  # one horizon of Brownian motion

    def gap(steps):
        growth = np.exp(in_double(ours.schedule.integral, np.arange(1, steps + 1) / steps))
        increments = fine.reshape(steps, -1, 8).sum(axis=1)
        x, y = (euler_paths(p, increments, 0.7) for p in (contractive, ours))
        return np.abs(x / growth[:, None] - y).max(axis=0).mean()

    coarse, finest = gap(1024), gap(16384)
    assert finest < 1e-3
    # 16 at order one and 4 at order one half.
    assert 10 < coarse / finest < 22


@every_twin
def test_a_scale_equivariant_sampler_gives_the_same_samples(ours, contractive):
    """One denoiser, matched starts X = e^{B(T)} Y and the same noise: DDIM and its ancestral
    variant give the same samples. Started from the priors they differ by 1 - e^{-B(T)}."""

    def ends(start):
        grid = grids.quadratic(ours, 12, end=0.02 * ours.horizon)
        growth = jnp.exp(ours.schedule.integral(jnp.asarray(ours.horizon)))

        def end(process, x_0, eta):
            def network(t, x):
                y = x / process.marginal(t).scale
                return jnp.tanh(y) / (1 + process.noise_to_signal(t))

            sde = process.reverse(from_data(process, network))
            solver, key = ExponentialEuler(eta=eta), jax.random.key(1)
            found = simulate(key, sde, x_0, grid, solver=solver).states
            return found / process.marginal(process.horizon - grid[-1]).scale

        both = [
            (end(contractive, growth * start, eta), end(ours, start, eta)) for eta in (0.0, 1.0)
        ]
        return growth, contractive.prior_std() / (growth * ours.prior_std()), both

    growth, ratio, both = in_double(ends, np.random.default_rng(0).normal(size=(5, 2)))
    for found, expected in both:
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(ratio, 1 - 1 / growth, rtol=1e-12)


FLOORS = [  # contractive process with a long horizon, tau, mean error of the SDE and of the ODE
    (ContractiveOU(1.0, 1.0, horizon=8.0), 0.5**0.5, 0.3333, 0.5774),
    (ContractiveVP(0.5, 3.5, horizon=8.0), 1.0, 0.2000, 0.4472),
]


@pytest.mark.parametrize(("process", "tau", "sde_error", "ode_error"), FLOORS)
def test_the_signal_that_is_left_at_the_horizon_is_an_error(process, tau, sde_error, ode_error):
    """From the stated prior N(0, v(T)) the mean of N(1, .25) is missed by m s^2 / (s^2 + tau^2)
    as T -> oo, and by m s / sqrt(s^2 + tau^2) under the probability flow."""
    ratio = compiled(process.noise_to_signal, np.float32(process.horizon))
    np.testing.assert_allclose(ratio, tau, rtol=1e-6)
    sde = process.reverse(exact_score(process, 1.0, 0.25))
    start = (0.0, float(process.prior_std()) ** 2)
    means, _ = reversed_law([sde, sde.probability_flow()], start, 0.0, steps=4000)
    exact = 0.25 / (0.25 + tau**2), 0.5 / np.hypot(0.5, tau)
    np.testing.assert_allclose(1.0 - means, exact, rtol=1e-5)
    np.testing.assert_allclose(1.0 - means, [sde_error, ode_error], atol=6e-5)
