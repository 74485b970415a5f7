"""Euler-Maruyama: diffrax's Euler method, which knows its own transition law."""

import diffrax
import jax.numpy as jnp

from ctrl_jax.processes import LinearProcess
from ctrl_jax.solvers.gaussian_step import GaussianSolver, Kernel


class EulerMaruyama(diffrax.Euler, GaussianSolver):
    """x' = x + drift dt + l sigma sqrt(dt) z: weak order 1, strong order 1 for additive noise."""

    def kernel(self, process: LinearProcess, r_0, r_1, *, noise_level: float = 1.0) -> Kernel:
        """Return the coefficients of the step from reverse time r_0 to r_1.

        Args:
            process: the forward process.
            r_0: reverse times of the starts, shape () or (steps,).
            r_1: reverse times of the ends.
            noise_level: l of the `ReverseSDE` that is stepped.
        """
        t, dt = process.forward_time(r_0), r_1 - r_0
        sigma = process.diffusion(t)
        return Kernel(
            1 - process.contraction_rate(t) * dt,
            (1 + noise_level**2) / 2 * sigma**2 * dt,
            noise_level * sigma * jnp.sqrt(dt),
        )
