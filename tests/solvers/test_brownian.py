"""Brownian paths: the simulation's own, and the same path on coarser grids."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.solvers import BrownianPath, EulerMaruyama, simulate
from tests.solvers.gaussian import PROCESS, exact_score, uniform_grid

KEY, START = jax.random.key(3), jnp.ones((5, 2))
GRID = jnp.asarray([0.0, 0.1, 0.15, 0.4, 0.5, 0.55, 0.9])


@pytest.mark.parametrize("solver", [EulerMaruyama(), diffrax.ShARK()])
def test_a_drawn_path_is_the_simulations_own(solver):
    sde, grid = PROCESS.reverse(exact_score), uniform_grid(6)
    own = simulate(KEY, sde, START, grid, solver=solver, save="path")
    path = BrownianPath.draw(KEY, grid, START)
    other = simulate(jax.random.key(9), sde, START, path, solver=solver, save="path")
    np.testing.assert_array_equal(own.noise, path.noise)
    np.testing.assert_allclose(own.states, other.states, rtol=1e-6, atol=1e-6)


def test_coarsening_keeps_the_path():
    """Increments add up and the area is that of the definition, by a Riemann sum of a fine path."""
    with jax.enable_x64(True):
        grid = jnp.linspace(0.0, 2.0, 4001)
        path = BrownianPath.draw(KEY, grid, jnp.ones((3,)))
        coarse = path.coarsen(2000)
    w = np.cumsum(np.sqrt(2.0 / 4000) * np.asarray(path.noise), axis=0)
    w = np.concatenate([np.zeros((1, 3)), w])
    np.testing.assert_allclose(coarse.grid, [0.0, 1.0, 2.0], atol=1e-12)
    areas = np.asarray(coarse.levy_noise) / np.sqrt(12)
    for i, rows in enumerate((w[:2001], w[2000:])):
        increment = rows[-1] - rows[0]
        np.testing.assert_allclose(coarse.noise[i], increment, rtol=1e-10)
        bridge = rows - rows[0] - np.linspace(0.0, 1.0, 2001)[:, None] * increment
        # Trapezoids miss the fine areas: in all sqrt(2000 h^3 / 12) = 1.4e-4, against an area
        # of deviation .29; here at six of the former.
        area = np.trapezoid(bridge, dx=1.0 / 2000, axis=0)
        np.testing.assert_allclose(areas[i], area, atol=9e-4)


def test_coarsening_in_two_goes_is_coarsening_in_one():
    grid = jnp.cumsum(jnp.asarray([0.0, *np.linspace(0.1, 0.3, 12)]))
    path = BrownianPath.draw(KEY, grid, START)
    once, twice = jax.jit(lambda p: (p.coarsen(6), p.coarsen(2).coarsen(3)))(path)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_coarse_normals_are_standard_and_independent():
    # Covariance of (noise, area) of one joined step over 20000 paths against the identity; its
    # entries have deviation at most sqrt(2 / 20000) = .01: false alarm 2e-5 at 4.5 of them.
    path = BrownianPath.draw(KEY, GRID, jnp.ones((20000,))).coarsen(3)
    normals = jnp.concatenate([path.noise, path.levy_noise])
    np.testing.assert_allclose(np.cov(normals), np.eye(4), atol=0.045)


def test_errors_at_the_door(unchecked):
    path = BrownianPath.draw(KEY, GRID, START)
    for factor in (0, 4):
        with pytest.raises(ValueError, match=f"factor: received {factor}; it must"):
            path.coarsen(factor)
    with pytest.raises(ValueError, match=r"received \(6, 5, 2\); .* noise of shape \(6, 4, 2\)"):
        simulate(KEY, PROCESS.reverse(exact_score), jnp.ones((4, 2)), path, solver=EulerMaruyama())
