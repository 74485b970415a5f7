r"""Heun's method in the noise-to-signal ratio, with churn.

In y = x / a and \sigma = \sqrt{v} / a the probability flow of every linear process is

    dy / d\sigma = e(t, a y),   e = -\sqrt{v} s the noise prediction,                        (1)

which Heun's method integrates to second order. Before each step churn raises \sigma to
(1 + \gamma) \sigma with fresh noise,

    y <- y + s_noise \sqrt{((1 + \gamma)^2 - 1) \sigma^2} z,
    \gamma = min(s_churn / N, \sqrt 2 - 1) if s_min <= \sigma <= s_max, else 0,              (2)

so that for s_noise = 1 every marginal is kept, and the solver can forget its errors. `EDM` and `VE`
are raised past their horizon, as published: at the start the score is then asked at up to \sqrt 2
times the largest noise, which `s_max` prevents. Where a process ends at its horizon, so does (2).
Source: Karras et al. 2022, algorithm 2 (there x is scaled and \sigma is time itself).
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._checks import check_count, check_non_negative, refuse
from ctrl_jax.processes import LinearProcess
from ctrl_jax.processes.heun_step import heun_step
from ctrl_jax.solvers.brownian import StepNoise
from ctrl_jax.solvers.reverse_solver import ReverseSolver, check_flow, noise_of, stepped


class StochasticHeun(ReverseSolver):
    """EDM's sampler: two evaluations of the score per step, deterministic at ``s_churn=0``.

    Heun's method for the probability flow dy / dsigma = -std s of y = x / a, with the score s and
    the noise-to-signal ratio sigma = std / a of the process's scale a and standard deviation std at
    the time of x. Before each step churn raises sigma to (1 + gamma) sigma with fresh noise z,

        y <- y + s_noise sqrt((1 + gamma)^2 - 1) sigma z,
        gamma = min(s_churn / N, sqrt(2) - 1) if s_min <= sigma <= s_max, else 0.

    On a probability flow, which has no noise, nothing is churned; nor is a process that ends at its
    horizon raised past it.

    Args:
        s_churn: total churn of a solve, shared equally by its steps.
        s_min: smallest noise-to-signal ratio that is churned.
        s_max: largest noise-to-signal ratio that is churned.
        s_noise: standard deviation of the churn's noise; 1 keeps the marginals.
        steps: number of steps N; `simulate` fills it in from its grid.

    Raises:
        ValueError: a parameter is negative or not finite (s_max may be infinite), or s_min exceeds
            s_max.

    Source: Karras et al. 2022, algorithm 2.
    """

    s_churn: float = eqx.field(default=0.0, static=True)
    s_min: float = eqx.field(default=0.0, static=True)
    s_max: float = eqx.field(default=float("inf"), static=True)
    s_noise: float = eqx.field(default=1.0, static=True)
    steps: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        for name in ("s_churn", "s_min", "s_noise"):
            value = getattr(self, name)
            check_non_negative(f"StochasticHeun.{name}", value)
        if self.s_max != math.inf:
            check_non_negative("StochasticHeun.s_max", self.s_max)
        if self.steps is not None:
            check_count("StochasticHeun.steps", self.steps)
        if not self.s_min <= self.s_max:
            rule = f"it must be at least s_min = {self.s_min!r}"
            raise refuse("StochasticHeun.s_max", self.s_max, rule, "give inf for no limit")

    def on_grid(self, grid):
        """Return the solver with the grid's number of steps."""
        return StochasticHeun(self.s_churn, self.s_min, self.s_max, self.s_noise, grid.shape[0] - 1)

    def order(self, terms):
        """Return 2, of the probability flow."""
        return 2

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Raise the noise-to-signal ratio, then step down from it."""
        check_flow(self, args)
        process, noise = args.process, noise_of(terms)
        # Where a = 0 the ratio has no bound: like scores, it is read no later than `latest`.
        t = jnp.minimum(process.forward_time(t0), process.latest)
        t_next, x = process.forward_time(t1), y0
        if self.s_churn > 0 and noise is not None:
            t, x = self._churn(process, t, x, noise)
        return stepped(y0, heun_step(process, args.score_fn, x, t, t_next))

    def _churn(
        self, process: LinearProcess, t: Array, x: Array, noise: StepNoise
    ) -> tuple[Array, Array]:
        ratio = process.noise_to_signal(t)
        gamma = min(self.s_churn / self._steps(), 2**0.5 - 1)
        raised = jnp.maximum(process.time_beyond((1 + gamma) * ratio), t)
        chosen = (self.s_min <= ratio) & (ratio <= self.s_max)
        t_raised = jnp.where(chosen, raised, t)
        gain, std = process.transition(t, t_raised)
        return t_raised, gain * x + self.s_noise * std * noise.noise

    def _steps(self) -> int:
        if self.steps is None:
            rule = "churn is shared by the steps of the grid"
            raise refuse("StochasticHeun.steps", None, rule, "pass it, or use `simulate`")
        return self.steps
