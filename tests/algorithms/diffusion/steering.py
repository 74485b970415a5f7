"""Fixture O4 as a control problem, with policies and values that contain the exact solution.

The optimal deviation from the score is affine in x at every step and the value quadratic, so a
table of coefficients per step holds both. The oracle knows the chain's law, value, gradient and
optimum for every such table.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    DiffusionControl,
    make_ddpo,
    make_dpok,
    make_grpo,
    make_policy_gradient,
    make_ppo,
    make_value_gradient,
)
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.processes import VP, grids
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, GaussianSolver
from tests.oracles import chains
from tests.oracles.linear_sdes import VariancePreserving
from tests.oracles.steering import one_gaussian

PROCESS, ORACLE = VP(0.2, 2.0, horizon=3.0), VariancePreserving(0.2, 2.0, 3.0)
MEAN, VARIANCE, CURVATURE, TARGET, PENALTY = 1.0, 0.5, 2.0, 2.5, 2.5
EXACT = one_gaussian(ORACLE, MEAN, VARIANCE, CURVATURE, TARGET, PENALTY)
START_VARIANCE = EXACT.start_variance()
LIMIT = (1.409296, 0.357078)  # mean and variance at T of the optimum from N(0, v(T))

WITH_CRITIC = {
    "ppo": make_ppo,
    "policy_gradient": make_policy_gradient,
    "value_gradient": make_value_gradient,
}
WITHOUT_CRITIC = {"dpok": make_dpok, "ddpo": make_ddpo, "grpo": make_grpo}


class Setting(NamedTuple):
    """A problem of the library beside the oracle's chain and goal."""

    problem: DiffusionControl
    chain: chains.Chain
    goal: chains.Goal


def make_setting(
    steps: int,
    *,
    end: float = 1e-2,
    penalty: float = PENALTY,
    solver: GaussianSolver | None = None,
) -> Setting:
    """O4 on a log-SNR grid, with the same penalty for library and oracle."""
    solver = ExponentialEuler() if solver is None else solver
    env = GaussianSteering(PROCESS, MEAN, VARIANCE, CURVATURE, TARGET, PENALTY)
    problem = DiffusionControl(
        process=PROCESS,
        reference=Model(lambda key: (), lambda params, t, x, *conditions: env.score(t, x)),
        reward_fn=env.reward,
        shape=(1,),
        grid=grids.log_snr(PROCESS, steps, end=end),
        penalty=penalty,
        solver=solver,
        start_std=env.start_std(),
        path_kl=True,
    )
    times = np.asarray(problem.forward_times(), float)
    chain = (
        chains.euler_maruyama(ORACLE, times, MEAN, VARIANCE)
        if isinstance(solver, EulerMaruyama)
        else chains.exponential_euler(ORACLE, times, MEAN, VARIANCE, eta=1.0)
    )
    return Setting(problem, chain, chains.Goal(CURVATURE, TARGET, penalty))


def affine_policy(problem: DiffusionControl, slope=None, intercept=None) -> Model:
    """score + slope_i x + intercept_i, the tables given or zero."""
    zeros = np.zeros(problem.steps)
    start = {
        "slope": zeros if slope is None else slope,
        "intercept": zeros if intercept is None else intercept,
    }

    def apply(params, t, x, *conditions):
        i = _step(problem, t, x)
        deviation = params["slope"][i][:, None] * x + params["intercept"][i][:, None]
        return problem.reference.apply((), t, x) + deviation

    return Model(lambda key: _tables(start), apply)


def quadratic_value(problem: DiffusionControl, coefficients=None) -> Model:
    """c0_i + c1_i x + c2_i x^2, the tables given or zero."""
    zeros = np.zeros(problem.steps + 1)
    start = dict(zip(("c0", "c1", "c2"), coefficients or (zeros, zeros, zeros), strict=True))

    def apply(params, t, x, *conditions):
        i, y = _step(problem, t, x), x[:, 0]
        return params["c0"][i] + params["c1"][i] * y + params["c2"][i] * y**2

    return Model(lambda key: _tables(start), apply)


def make_algorithm(name, problem, policy, optimizer, critic, update, **own):
    """Any of the algorithms by name, with one signature; `own` are options of its own."""
    if name in WITHOUT_CRITIC:
        return WITHOUT_CRITIC[name](problem, policy, optimizer, update=update, **own)
    return WITH_CRITIC[name](problem, policy, optimizer, critic, update=update, **own)


def one_prompt(size: int) -> Batch:
    """A batch without conditions."""
    return Batch(jnp.ones(size))


def cosine(rate: float, updates: int, alpha: float = 0.0) -> optax.GradientTransformation:
    """Adam with a decaying step size."""
    return optax.adam(optax.cosine_decay_schedule(rate, updates, alpha))


def _tables(start):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), start)


def _step(problem, t, x):
    """Index of the grid point of each row's time."""
    times = problem.forward_times()
    nearest = jnp.argmin(jnp.abs(times[:, None] - jnp.reshape(t, (1, -1))), axis=0)
    return jnp.broadcast_to(nearest, x.shape[:1])
