"""Time grids: increasing, with the stated ends and spacing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import EDM, VE, VP, ContractiveOU, grids
from tests.processes.compiled import compiled
from tests.processes.family import every_kind

GRIDS = [grids.uniform, grids.quadratic, grids.log_snr, grids.edm]
BY_RATIO = [grids.log_snr, grids.edm]


@every_kind
def test_grids_increase_between_their_ends(process):
    end = 1e-2 * process.horizon
    for make, steps in [(make, steps) for make in GRIDS for steps in (1, 2, 40)]:
        grid = np.asarray(make(process, steps, end=end))
        assert grid.shape == (steps + 1,) and grid.dtype == np.float32
        assert (np.diff(grid) > 0).all() and grid[0] == 0.0
        np.testing.assert_allclose(process.horizon - grid[-1], end, atol=2e-7 * process.horizon)


def test_uniform_and_quadratic_spacing():
    forward = 3.0 - np.asarray(grids.uniform(VP(0.2, 2.0, horizon=3.0), 5, end=0.5), float)
    np.testing.assert_allclose(forward, [3.0, 2.5, 2.0, 1.5, 1.0, 0.5], rtol=1e-6)
    forward = 1.0 - np.asarray(grids.quadratic(VP(), 4, end=0.0), float)
    np.testing.assert_allclose(forward, [1.0, 9 / 16, 4 / 16, 1 / 16, 0.0], atol=1e-6)


@every_kind
def test_grids_by_the_ratio_are_equidistant(process, float64):
    """`log_snr` in its logarithm, `edm` in its rho-th root."""
    end = 1e-3 * process.horizon
    made = [grids.edm(process, 40, rho=rho, end=end) for rho in (1.0, 7.0)]
    made.append(grids.log_snr(process, 40, end=end))
    ratios = compiled(lambda r: process.noise_to_signal(process.forward_time(r)), np.stack(made))
    for spaced in (ratios[0], ratios[1] ** (1 / 7), np.log(ratios[2])):
        spacing = np.diff(spaced)
        np.testing.assert_allclose(spacing, spacing.mean(), rtol=1e-4)


def test_edm_is_the_published_grid():
    """Karras et al. 2022, eq. 5, with sigma from 80 to .002; of the std for VE too."""
    i = np.arange(18) / 17
    expected = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    with jax.enable_x64(True):
        grid = grids.edm(EDM(80.0, 0.9), 17, end=0.002)
        np.testing.assert_allclose(80.0 - np.asarray(grid), expected, rtol=1e-6)
        ve = VE(0.01, 80.0, zero_start=False)
        end = float(ve.time_at(jnp.asarray(0.02)))
        stds = ve.marginal(1.0 - grids.edm(ve, 17, end=end)).std
    expected = (80 ** (1 / 7) + i * (0.02 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(stds, expected, rtol=1e-6)


def test_edm_tends_to_log_snr():
    with jax.enable_x64(True):
        found, limit = (f(VP(), 40) for f in (lambda *a: grids.edm(*a, rho=1e7), grids.log_snr))
        np.testing.assert_allclose(found, limit, atol=1e-5)


@pytest.mark.parametrize("make", BY_RATIO)
def test_a_flat_ratio_is_told_apart(make):
    """The ratio of a contractive OU is within 1e-12 of its limit from t = 7 on."""
    grid = make(ContractiveOU(2.0, 1.0, horizon=12.0), 30)
    assert (np.diff(grid) > 0).all() and float(grid[1]) > 3.0


@pytest.mark.parametrize("make", GRIDS)
def test_grids_are_concrete_under_jit(make):
    process = VE()
    found = compiled(lambda x: x + make(process, 7), np.zeros(8, np.float32))
    np.testing.assert_allclose(found, make(process, 7), rtol=1e-6)


def test_times_that_float32_cannot_tell_apart_are_refused():
    with pytest.raises(
        ValueError, match=r"steps: received 1000; their times must be distinct in float32"
    ):
        grids.edm(EDM(80.0), 1000, end=1e-5)


@pytest.mark.parametrize("make", GRIDS)
def test_bad_arguments_are_named(make):
    with pytest.raises(ValueError, match=r"steps: received 0; it must be a whole"):
        make(VP(), 0)
    for end in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"end: received .*; it must (lie in|be a finite)"):
            make(VP(), 4, end=end)


@pytest.mark.parametrize("make", BY_RATIO)
def test_ratios_cannot_reach_the_data(make):
    """At t = 0 the signal-to-noise ratio is infinite."""
    with pytest.raises(ValueError, match=r"end: received 0.0; where no noise"):
        make(VP(), 4, end=0.0)


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_rho_is_named(rho):
    with pytest.raises(ValueError, match=r"rho: received .*; it must be"):
        grids.edm(VP(), 4, rho=rho)


def test_a_process_that_keeps_less_of_the_data_than_floats_hold_is_refused():
    """Its a(T) is 2e-44: zero on some devices, where the samples would not be numbers."""
    with pytest.raises(ValueError, match=r"keep some of the data; shorten its horizon"):
        grids.log_snr(VP(0.1, 20.0, horizon=20.0), 10)
    assert np.isfinite(grids.log_snr(VP(0.1, 20.0, horizon=17.0), 10)).all()
