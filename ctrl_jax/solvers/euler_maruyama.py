"""Euler-Maruyama: diffrax's Euler method, which knows its own transition law."""

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax.processes import LinearProcess, Prediction
from ctrl_jax.processes.prediction import read_drift
from ctrl_jax.solvers.gaussian_step import GaussianSolver, Kernel
from ctrl_jax.solvers.reverse_solver import noise_of, stepped


class EulerMaruyama(diffrax.Euler, GaussianSolver):
    r"""x' = x + drift dt + l sigma sqrt(dt) z: weak order 1, strong order 1 for additive noise.

    Where nothing of the data is left, a = 0 as at the horizon of `RectifiedFlow`, the drift of the
    flow is finite for the predictions "flow", "v" and "data"; sigma^2 = 2 s (a s' - a' s) / a is
    not. A clamped step from there divides by the scale a of its end instead.

    Args:
        clamped: whether steps from where nothing of the data is left are taken so, for a
            `ReverseSDE`; without it they are refused.

    Source: Liu et al. 2505.05470, whose published code takes the first step of a flow so.
    """

    clamped: bool = eqx.field(default=False, static=True)

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
        if self.clamped:
            sigma = _clamped(process, t, process.forward_time(r_1, prediction))
        else:
            sigma = process.diffusion(t)
        drift = read_drift(process, t, prediction, noise_level, sigma)
        std = noise_level * sigma * jnp.sqrt(dt)
        # A flow has no noise, also where sigma has no bound.
        std = std if noise_level > 0 else jnp.zeros_like(t)
        return Kernel(1 + drift.state * dt, drift.action * dt, std)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step."""
        if not self.clamped:
            return super().step(terms, t0, t1, y0, args, solver_state, made_jump)
        noise, r_0, r_1 = noise_of(terms), jnp.asarray(t0), jnp.asarray(t1)
        kernel = self.kernel(
            args.process, r_0, r_1, noise_level=args.noise_level, prediction=args.prediction
        )
        y1 = kernel.mean(y0, args.predict(args.forward_time(r_0), y0))
        return stepped(y0, y1 if noise is None else y1 + kernel.std * noise.noise)


def _clamped(process: LinearProcess, t: Array, t_next: Array) -> Array:
    """The process's own sigma where it is finite, else that with the scale of the step's end."""
    (scale, std), rate = process.rates(t)
    held = 2 * std * (scale * rate.std - rate.scale * std) / process.marginal(t_next).scale
    return jnp.where(scale > 0, process.diffusion(t), jnp.sqrt(held))
