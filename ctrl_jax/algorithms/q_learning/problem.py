r"""The problem of 2409.04832: a sampler directed by a reward, the score of the data unknown.

The reversal of a linear process is driven by an action a in the place of the score,

    dX = [-b(T-r) X + g^2 a] dr + g dB        (or g^2 a/2 and no dB: the probability flow),  (1)

and what is maximized over the laws pi(. | r, x) of the action is

    w E[h(X_T)] - E \int g^2 |s - a|^2 dr + \theta E \int entropy(pi) dr.                 (2)

The score s is known through estimates only (`processes.RatioScore`), or through a function, a
pretrained score say: then (2) is fine-tuning. Twice the penalty of Girsanov is in (2), so that w
stands for 2/lambda of `DiffusionControl`. The optimum is Gaussian with known covariance,

    pi* = N(s + \nabla J*/2, \theta/(2 g^2) I)        (s + \nabla J*/4 for the flow),       (3)

its end law the tilt p e^{w h/2}/Z for the SDE (not for the flow). Only the mean is to be learned.

An estimate \hat s that is noisy pays for its variance in (2), g^2 tr Var(\hat s | x), which is
steep in x where the points are few. `paired` takes two independent estimates and the product
(\hat s - a) . (\hat s' - a), whose mean is |E \hat s - a|^2.

On a grid a step is x' = state_gain x + action_gain a + std z (`solvers.gaussian_step`), and g^2 dt
in (2) and (3) is (action_gain/std)^2, which makes the penalty twice the divergence of the chain
itself; for the flow, which has no such divergence, it is g^2 at the middle of the step.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, refuse
from ctrl_jax._typing import RewardFn, ScoreFn
from ctrl_jax.algorithms.diffusion.problem import (
    Batch,
    check_increasing,
    check_start,
    draw_start,
    terminal_rewards,
)
from ctrl_jax.processes import LinearProcess
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, GaussianSolver, Kernel

EstimateFn = Callable[..., Array]
"""``estimate(key, t, x, *conditions)`` returns a score of x's shape, noisy or not."""


class Coefficients(NamedTuple):
    """What each step is made of, all of shape (steps,).

    Fields:
        time: forward time at its start.
        dt: its length.
        rate: g^2 of (2) and (3), per unit of time.
        kernel: gains and noise; the noise is zero for a flow.
    """

    time: Float[Array, "*steps"]
    dt: Float[Array, "*steps"]
    rate: Float[Array, "*steps"]
    kernel: Kernel


class RewardDirection(eqx.Module):
    r"""The problem of a sampler directed by a reward, the score s known through estimates only.

    The reversal of `process` is driven by an action a ~ pi(. | r, x) in the place of the score,

        dX = [-b(T-r) X + g^2 a] dr + g dB      (or g^2 a/2 and no dB: the probability flow),

    and maximized over the laws pi is

        w E[h(X_T)] - E \int g^2 |s - a|^2 dr + theta E \int entropy(pi) dr,

    where r is the reverse time, b and g are the drift rate and the diffusion coefficient of the
    process at the forward time T - r, T is its horizon and B a Brownian motion. J*(r, x) is the
    most that is left to gain from x at time r on. The optimum is

        N(s + \nabla J*/2, theta/(2 g^2) I),

    on the flow with \nabla J*/4. On a grid g^2 dt is (action_gain / std)^2 of the solver's step;
    where a step has no noise, g^2 is that of its middle.

    Args:
        process: the forward process.
        estimate: ``estimate(key, t, x, *conditions)``, a score; `known_score` for a plain one.
        reward_fn: h(x, *conditions), one value per example.
        shape: shape of one example.
        grid: increasing reverse times, shape (steps + 1,).
        weight: w, positive; 2/lambda for a penalty lambda in units of the reward per nat.
        temperature: theta, positive, in units of w h per nat and unit of time.
        solver: `EulerMaruyama()` or `ExponentialEuler()`; on a flow their deterministic steps.
        probability_flow: whether the sampler is the ODE.
        start_std: standard deviation of the start law; the process's prior by default.
        paired: whether |s - a|^2 is the product (s_1 - a) . (s_2 - a) of two independent
            estimates, which their variance does not bias, at twice their cost.

    Raises:
        ValueError: the grid does not increase, weight or temperature is not positive, or an SDE's
            solver has no noise.

    Source: arXiv 2409.04832.
    """

    process: LinearProcess
    estimate: EstimateFn
    reward_fn: RewardFn
    shape: tuple[int, ...] = eqx.field(static=True)
    grid: Float[Array, " points"]
    weight: Float[Array, ""] | float
    temperature: Float[Array, ""] | float
    solver: GaussianSolver = eqx.field(default_factory=ExponentialEuler)
    probability_flow: bool = eqx.field(default=False, static=True)
    start_std: Float[Array, ""] | float | None = None
    paired: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        check_increasing("RewardDirection.grid", self.grid)
        check_start("RewardDirection", self.shape, self.start_std)
        check_all_positive("RewardDirection", weight=self.weight, temperature=self.temperature)
        solvers = (EulerMaruyama, ExponentialEuler)
        noisy = self.probability_flow or getattr(self.solver, "eta", 1.0) > 0
        if not isinstance(self.solver, solvers) or not noisy:
            raise refuse(
                "RewardDirection.solver",
                self.solver,
                "it must be EulerMaruyama() or ExponentialEuler(), for the SDE with noise",
                "take one of them, or set probability_flow=True for the ODE",
            )

    @property
    def steps(self) -> int:
        """Number of steps of the grid."""
        return self.grid.shape[0] - 1

    def forward_times(self) -> Float[Array, " points"]:
        """Return the forward time of each grid point."""
        return self.process.forward_time(self.grid)

    def coefficients(self) -> Coefficients:
        """Return the coefficients of every step."""
        r_0, r_1 = self.grid[:-1], self.grid[1:]
        time, dt = self.process.forward_time(r_0), r_1 - r_0
        if not self.probability_flow:
            kernel = self.solver.kernel(self.process, r_0, r_1)
            # A step without noise, a last one to the data, has the rate of the equation itself.
            rate = self.process.diffusion(time - dt / 2) ** 2
            rate = jnp.where(kernel.std > 0, kernel.kl_rate / dt, rate)
            return Coefficients(time, dt, rate, kernel)
        if isinstance(self.solver, ExponentialEuler):
            kernel = ExponentialEuler(eta=0.0).kernel(self.process, r_0, r_1)
        else:
            kernel = self.solver.kernel(self.process, r_0, r_1)
            kernel = Kernel(kernel.state_gain, kernel.action_gain / 2, jnp.zeros_like(dt))
        return Coefficients(time, dt, self.process.diffusion(time - dt / 2) ** 2, kernel)

    def action_std(self, rate: Float[Array, "*steps"]) -> Float[Array, "*steps"]:
        """Return the standard deviation sqrt(theta/(2 g^2)) of the optimal action.

        Args:
            rate: g^2, per unit of time.
        """
        return jnp.sqrt(self.temperature / (2 * rate))

    def start(self, key: Array, batch: Batch) -> Float[Array, "batch ..."]:
        """Draw start states; those of padding rows are at the origin."""
        std = self.process.prior_std() if self.start_std is None else self.start_std
        return draw_start(key, batch, self.shape, std)

    def end_values(self, x: Array, batch: Batch) -> Float[Array, " batch"]:
        """Return w h of end states."""
        return self.weight * terminal_rewards(self.reward_fn, x, batch).values


def known_score(score_fn: ScoreFn) -> EstimateFn:
    """Return the estimate that is a score function ``score_fn(t, x, *conditions)``, exactly."""
    return lambda key, t, x, *conditions: score_fn(t, x, *conditions)
