"""Every marginal against its table of values, the moment equations (2) and its small-time limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import (
    EDM,
    OU,
    VE,
    VP,
    ContractiveOU,
    ContractiveSubVP,
    ContractiveVP,
    RectifiedFlow,
    SubVP,
)
from tests.processes.compiled import compiled, in_double
from tests.processes.family import every_pair, every_process

TABLE = [  # process, then a, std and sigma at t = .3, .7 and 1, six digits
    (
        OU(1.0, 2**0.5),
        [0.740818, 0.671706, 1.41421],
        [0.496585, 0.867988, 1.41421],
        [0.367879, 0.929873, 1.41421],
    ),
    (ContractiveOU(2.0, 2.0), [1.82212, 1.52319, 2], [4.0552, 3.92997, 2], [7.38906, 7.32108, 2]),
    (VE(0.01, 50.0), [1, 0.128344, 0.531318], [1, 3.88399, 16.0303], [1, 50, 206.364]),
    (
        VP(0.1, 20.0),
        [0.62955, 0.77696, 2.46374],
        [0.0843526, 0.996436, 3.74566],
        [0.00657159, 0.999978, 4.47214],
    ),
    (
        SubVP(0.1, 20.0),
        [0.62955, 0.603667, 2.26197],
        [0.0843526, 0.992885, 3.74557],
        [0.00657159, 0.999957, 4.47214],
    ),
    (
        ContractiveVP(0.01, 8.0),
        [1.19874, 0.661051, 1.55145],
        [2.67052, 2.47623, 2.36707],
        [7.40755, 7.33974, 2.82843],
    ),
    (
        ContractiveSubVP(0.01, 8.0),
        [1.19874, 0.436989, 1.60103],
        [2.67052, 6.1317, 16.7144],
        [7.40755, 53.8718, 155.175],
    ),
    (
        ContractiveSubVP(1.0, 8.0),
        [1.36002, 0.849657, 2.73967],
        [3.34511, 10.1898, 27.0711],
        [9.48774, 89.0171, 254.591],
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: type(row[0]).__name__)
def test_the_table(row):
    process, *expected = row

    def columns(t):
        return jnp.stack([*process.marginal(t), process.diffusion(t)], axis=1)

    found = in_double(columns, np.asarray([0.3, 0.7, 1.0]))
    np.testing.assert_allclose(found, expected, rtol=5e-6)


@every_pair
def test_marginals_solve_the_moment_equations(process, sde):
    times = sde.horizon * np.asarray([0.002, 0.05, 0.4, 0.8, 0.9, sde.last])
    scale, variance = sde.moments(times)
    marginal = in_double(process.marginal, times)
    assert marginal.scale.dtype == marginal.std.dtype == np.float64
    np.testing.assert_allclose(marginal.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(marginal.std**2, variance, rtol=1e-6)


@every_pair
def test_coefficients(process, sde):
    times = sde.horizon * np.asarray([1e-4, 0.05, 0.4, 0.8, 1.0])
    rate, sigma = in_double(lambda t: (process.contraction_rate(t), process.diffusion(t)), times)
    np.testing.assert_allclose(rate, [sde.rate(t) for t in times], rtol=1e-9)
    np.testing.assert_allclose(sigma**2, [sde.variance_rate(t) for t in times], rtol=1e-9)


@every_process
def test_small_times_keep_their_digits_in_float32(process):
    """Values, and the derivative of the std, which is finite for t > 0: 1 - e^{-B} would have no
    digit left at B = 1e-8. Tolerance: some ten roundings of 6e-8."""

    def found(t):
        slope = jax.vmap(jax.grad(lambda t: process.marginal(t).std))(t)
        return [*process.marginal(t), process.diffusion(t), slope]

    t = process.horizon * np.asarray([1e-7, 1e-5, 1e-3], np.float32)
    ours = compiled(found, t)
    assert all(array.dtype == np.float32 for array in ours)
    for ours_, exact in zip(ours, in_double(found, t.astype(float)), strict=True):
        np.testing.assert_allclose(ours_, exact, rtol=1e-6)


@every_process
def test_the_score_of_data_keeps_its_digits_in_float32(process):
    """The score of N(1.5, .25) and its derivative in time at small times."""

    def score(t, x):
        scale, std = process.marginal(t)
        return -(x - 1.5 * scale) / (0.25 * scale**2 + std**2)

    t, x = np.float32(1e-6 * process.horizon), np.float32(0.7)
    ours = compiled(jax.value_and_grad(score), t, x)
    exact = in_double(jax.value_and_grad(score), np.float64(t), np.float64(x))
    assert np.isfinite(exact).all()
    # The derivative of a rectified flow's is the difference of two terms sixteen times as large.
    terms = 16 if isinstance(process, RectifiedFlow) else 1
    np.testing.assert_allclose(ours[0], exact[0], rtol=2e-6)
    np.testing.assert_allclose(ours[1], exact[1], rtol=2e-6 * terms)


@pytest.mark.parametrize(
    "process",
    [SubVP(0.3, 4.0), ContractiveSubVP(0.3, 4.0), EDM(5.0, 0.9), VE(0.1, 2.0, zero_start=False)],
)
def test_smooth_stds_have_their_slope_at_zero(process):
    slope = compiled(jax.grad(lambda t: process.marginal(t).std), np.float32(0.0))
    expected = {SubVP: 0.3, ContractiveSubVP: 0.3, EDM: 0.9, VE: 0.1 * np.log(20.0)}
    np.testing.assert_allclose(slope, expected[type(process)], rtol=1e-6)


@every_process
def test_the_prior_is_the_law_at_the_horizon_or_stationary(process):
    end = np.float32(process.horizon)
    prior, expected = compiled(lambda t: (process.prior_std(), process.marginal(t).std), end)
    if isinstance(process, (VP, SubVP)):
        expected = 1.0
    elif isinstance(process, OU):
        expected = process.sigma / np.sqrt(2 * process.theta)
    np.testing.assert_allclose(prior, expected, rtol=1e-6)


@pytest.mark.parametrize("process", [VP(), VP.cosine()])
def test_variance_is_preserved(process):
    scale, std = compiled(process.marginal, np.linspace(0.0, 1.0, 11, dtype=np.float32))
    np.testing.assert_allclose(scale**2 + std**2, 1.0, atol=1e-6)


def test_cosine_signal():
    """cos^2 of the angle (Nichol and Dhariwal 2021, eq. 17) until the rate is clipped."""
    t = np.asarray([0.0, 0.25, 0.5, 0.9])
    angle = (t + 0.008) / 1.008 * np.pi / 2
    scale, _ = compiled(VP.cosine().marginal, t.astype(np.float32))
    np.testing.assert_allclose(scale, np.cos(angle) / np.cos(angle[0]), rtol=2e-6)
    process = VP.cosine(beta_max=30.0, horizon=2.0)
    t = np.linspace(0.0, 2.0, 101, dtype=np.float32)
    rates = -2 * compiled(process.contraction_rate, t)
    np.testing.assert_allclose(rates.max(), 15.0, rtol=1e-6)
    assert (np.diff(rates) >= 0).all()


def test_a_cosine_schedule_may_be_made_in_a_program():
    """Its door compares two numbers, which there are no traced ones."""
    scale = compiled(lambda t: VP.cosine().marginal(t).scale, np.float32(0.5))
    assert scale == compiled(VP.cosine().marginal, np.float32(0.5)).scale


@pytest.mark.parametrize("make", [VP, SubVP, ContractiveVP, ContractiveSubVP])
def test_times_scale_with_the_horizon(make):
    """beta dt is what matters: a horizon three times as long at a third of the rates."""
    short, long = make(0.3, 6.0), make(0.1, 2.0, horizon=3.0)
    cosines = make.cosine(beta_max=9.0), make.cosine(beta_max=9.0, horizon=3.0)

    def laws(t):
        return (
            short.marginal(t),
            long.marginal(3 * t),
            *(cosine.marginal(time).std for cosine, time in zip(cosines, (t, 3 * t), strict=True)),
        )

    ours, other, cosine, long_cosine = compiled(laws, np.linspace(0.0, 1.0, 7, dtype=np.float32))
    np.testing.assert_allclose(ours, other, rtol=3e-6)
    np.testing.assert_allclose(cosine, long_cosine, rtol=3e-6, atol=1e-7)


NAMES = {
    OU: ("theta", "sigma", "horizon"),
    ContractiveOU: ("theta", "sigma", "horizon"),
    VE: ("sigma_min", "sigma_max", "horizon"),
    VP: ("beta_min", "beta_max", "horizon"),
    SubVP: ("beta_min", "beta_max", "horizon"),
    ContractiveVP: ("beta_min", "beta_max", "horizon"),
    ContractiveSubVP: ("beta_min", "beta_max", "horizon"),
    EDM: ("sigma_max", "scale_min"),
}


@pytest.mark.parametrize(("make", "name"), [(m, n) for m, names in NAMES.items() for n in names])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_arguments_are_named(make, name, value):
    message = rf"{make.__name__}.{name}: received .*; it must be"
    with pytest.raises(ValueError, match=message):
        make(**{name: value})


def test_bad_pairs_of_arguments():
    with pytest.raises(
        ValueError, match=r"VE.sigma_max: received 1.0; it must exceed sigma_min = 2.0"
    ):
        VE(2.0, 1.0)
    with pytest.raises(ValueError, match=r"EDM.scale_min: received 1.1; it must not exceed 1"):
        EDM(80.0, 1.1)
    with pytest.raises(
        ValueError, match=r"CosineSchedule.beta_max: received .* exceed the rate at t = 0"
    ):
        VP.cosine(beta_max=0.01)
    with pytest.raises(
        ValueError, match=r"CosineSchedule.offset: received -0.1; it must be above zero"
    ):
        SubVP.cosine(-0.1)
