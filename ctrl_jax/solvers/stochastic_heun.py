r"""Heun's method in the noise-to-signal ratio, with churn.

In y = x / a and \sigma = \sqrt{v} / a the probability flow of every linear process is

    dy / d\sigma = e(t, a y),   e = -\sqrt{v} s the noise prediction,                        (1)

which Heun's method integrates to second order. Before each step churn raises \sigma to
(1 + \gamma) \sigma with fresh noise,

    y <- y + s_noise \sqrt{((1 + \gamma)^2 - 1) \sigma^2} z,
    \gamma = min(s_churn / N, \sqrt 2 - 1) if s_min <= \sigma <= s_max, else 0,              (2)

so that for s_noise = 1 every marginal is kept, and the solver can forget its errors. The forward
time of the raised ratio is found by Newton's method on log \sigma, whose derivative in t is
\sigma_t^2 / (2 v) for every process with diffusion coefficient \sigma_t; it never leaves the
horizon, so nothing is raised at the start.
Source: Karras et al. 2022, algorithm 2 (there x is scaled and \sigma is time itself).
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._numerics import square_root
from ctrl_jax.processes import LinearProcess
from ctrl_jax.solvers.brownian import StepNoise
from ctrl_jax.solvers.heun_step import heun_step
from ctrl_jax.solvers.reverse_solver import ReverseSolver, noise_of, stepped

NEWTON_STEPS = 4


class StochasticHeun(ReverseSolver):
    """EDM's sampler: two evaluations of the score per step, deterministic at ``s_churn=0``.

    On a probability flow, which has no noise, nothing is churned.

    Args:
        s_churn: total churn of a solve, shared equally by its steps.
        s_min: smallest noise-to-signal ratio that is churned.
        s_max: largest noise-to-signal ratio that is churned.
        s_noise: standard deviation of the churn's noise; 1 keeps the marginals.
        steps: number of steps N in (2); `simulate` fills it in from its grid.

    Raises:
        ValueError: a parameter is negative or not finite (s_max may be infinite), or s_min exceeds
            s_max.
    """

    s_churn: float = eqx.field(default=0.0, static=True)
    s_min: float = eqx.field(default=0.0, static=True)
    s_max: float = eqx.field(default=float("inf"), static=True)
    s_noise: float = eqx.field(default=1.0, static=True)
    steps: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        for name in ("s_churn", "s_min", "s_noise"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"StochasticHeun: {name} must be finite and at least 0, got {value!r}."
                )
        if not self.s_min <= self.s_max:
            raise ValueError(
                f"StochasticHeun: s_max must be at least s_min, got s_min={self.s_min!r} and "
                f"s_max={self.s_max!r}."
            )

    def on_grid(self, grid):
        """Return the solver with the grid's number of steps."""
        return StochasticHeun(self.s_churn, self.s_min, self.s_max, self.s_noise, grid.shape[0] - 1)

    def order(self, terms):
        """Return 2, of the probability flow."""
        return 2

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Raise the noise-to-signal ratio, then step down from it."""
        process, noise = args.process, noise_of(terms)
        t, t_next, x = process.horizon - t0, process.horizon - t1, y0
        if self.s_churn > 0 and noise is not None:
            t, x = self._churn(process, t, x, noise)
        return stepped(y0, heun_step(process, args.score_fn, x, t, t_next))

    def _churn(
        self, process: LinearProcess, t: Array, x: Array, noise: StepNoise
    ) -> tuple[Array, Array]:
        scale, std = process.marginal(t)
        ratio = std / scale
        raised = raise_ratio(process, t, min(self.s_churn / self._steps(), 2**0.5 - 1))
        chosen = (self.s_min <= ratio) & (ratio <= self.s_max)
        t_raised = jnp.where(chosen, raised, t)
        scale_raised, std_raised = process.marginal(t_raised)
        growth = jnp.maximum((std_raised / scale_raised) ** 2 - ratio**2, 0.0)
        # Not by the growth itself, whose rounding errors have large roots.
        added = square_root(jnp.where(t_raised > t, growth, 0.0))
        y = x / scale + self.s_noise * added * noise.noise
        return t_raised, scale_raised * y

    def _steps(self) -> int:
        if self.steps is None:
            raise ValueError("StochasticHeun: steps is unknown; pass it, or use `simulate`.")
        return self.steps


def raise_ratio(process: LinearProcess, t: Array, gamma: float) -> Array:
    """Return the forward time, at most the horizon, of 1 + gamma times the ratio std / a at t."""
    scale, std = process.marginal(t)
    target = jnp.log(std / scale) + jnp.log1p(gamma)
    raised = t
    for _ in range(NEWTON_STEPS):
        scale, std = process.marginal(raised)
        speed = process.diffusion(raised) ** 2 / (2 * std**2)
        raised = raised + (target - jnp.log(std / scale)) / speed
        raised = jnp.clip(raised, t, process.horizon)
    return raised
