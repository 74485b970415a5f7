"""Time grids: increasing, with the stated ends and spacing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import VP, grids

GRIDS = [grids.uniform, grids.quadratic, grids.log_snr]
PROCESSES = [VP(), VP(0.2, 2.0, horizon=3.0)]


@pytest.mark.parametrize("make", GRIDS)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_grids_increase_between_their_ends(make, process, steps):
    grid = make(process, steps, end=1e-2)
    assert grid.shape == (steps + 1,)
    assert grid.dtype == jnp.float32
    assert (jnp.diff(grid) > 0).all()
    assert float(grid[0]) == 0.0
    np.testing.assert_allclose(process.horizon - grid[-1], 1e-2, atol=2e-7 * process.horizon)


def test_uniform_and_quadratic_spacing():
    forward = 3.0 - np.asarray(grids.uniform(PROCESSES[1], 5, end=0.5), float)
    np.testing.assert_allclose(forward, [3.0, 2.5, 2.0, 1.5, 1.0, 0.5], rtol=1e-6)
    forward = 1.0 - np.asarray(grids.quadratic(VP(), 4, end=0.0), float)
    np.testing.assert_allclose(forward, [1.0, 9 / 16, 4 / 16, 1 / 16, 0.0], atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES)
def test_log_snr_is_equidistant(process):
    with jax.enable_x64(True):
        grid = grids.log_snr(process, 40, end=1e-3)
        scale, std = process.marginal(process.horizon - grid)
        spacing = np.diff(np.log(scale / std))
    np.testing.assert_allclose(spacing, spacing.mean(), rtol=1e-4)


@pytest.mark.parametrize("make", GRIDS)
def test_bad_arguments_are_named(make):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        make(VP(), 0)
    for end in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"end must lie in .*got"):
            make(VP(), 4, end=end)


def test_log_snr_cannot_reach_the_data():
    """At t = 0 the signal-to-noise ratio is infinite."""
    with pytest.raises(ValueError, match="end must"):
        grids.log_snr(VP(), 4, end=0.0)
