"""Euler-Maruyama: diffrax's Euler method, which knows its own transition law."""

import diffrax
import jax.numpy as jnp

from ctrl_jax.processes import LinearProcess, Prediction
from ctrl_jax.processes.prediction import read_drift
from ctrl_jax.solvers.gaussian_step import GaussianSolver, Kernel


class EulerMaruyama(diffrax.Euler, GaussianSolver):
    """x' = x + drift dt + l sigma sqrt(dt) z: weak order 1, strong order 1 for additive noise.

    Where nothing of the data is left, as at the horizon of `RectifiedFlow`, the drift of the flow
    is finite for the predictions "flow", "v" and "data"; that of a level of noise is not.
    """

    def kernel(
        self,
        process: LinearProcess,
        r_0,
        r_1,
        *,
        noise_level: float = 1.0,
        prediction: Prediction = "score",
    ) -> Kernel:
        """Return the coefficients of the step from reverse time r_0 to r_1.

        Args:
            process: the forward process.
            r_0: reverse times of the starts, shape () or (steps,).
            r_1: reverse times of the ends.
            noise_level: l of the `ReverseSDE` that is stepped.
            prediction: what the action is, "score", "noise", "data", "v" or "flow".
        """
        t, dt = process.forward_time(r_0, prediction), r_1 - r_0
        drift = read_drift(process, t, prediction, noise_level)
        std = noise_level * process.diffusion(t) * jnp.sqrt(dt)
        # A flow has no noise, also where sigma has no bound.
        std = std if noise_level > 0 else jnp.zeros_like(t)
        return Kernel(1 + drift.state * dt, drift.action * dt, std)
