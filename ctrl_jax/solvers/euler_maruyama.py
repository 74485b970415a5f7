"""Euler-Maruyama: diffrax's Euler method, which knows its own transition law."""

import diffrax
import jax.numpy as jnp

from ctrl_jax.processes import LinearProcess
from ctrl_jax.solvers.gaussian_step import GaussianSolver, Kernel


class EulerMaruyama(diffrax.Euler, GaussianSolver):
    """x' = x + drift dt + g sqrt(dt) z: weak order 1, strong order 1 for additive noise."""

    def kernel(self, process: LinearProcess, r_0, r_1) -> Kernel:
        """Return the coefficients of the step from reverse time r_0 to r_1."""
        t, dt = process.horizon - r_0, r_1 - r_0
        sigma = process.diffusion(t)
        return Kernel(1 - process.contraction_rate(t) * dt, sigma**2 * dt, sigma * jnp.sqrt(dt))
