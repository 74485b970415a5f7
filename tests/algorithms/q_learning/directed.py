"""Fixture O4 as a reward-directed problem, on the chain whose optimum the oracle knows.

Convention C with weight w and temperature theta is convention B with the penalty 2 / w, so the
chain's optimum and its exact law are those of `steering`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import RewardDirection, known_score
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.processes import grids
from ctrl_jax.solvers import EulerMaruyama
from tests.algorithms.diffusion.steering import CURVATURE, MEAN, PROCESS, TARGET, VARIANCE

WEIGHT, TEMPERATURE = 0.8, 0.3
FLOW_LIMIT = (1.328534, 0.251222)
"""Mean and variance at T of the optimum of the probability flow from N(0, v(T))."""


def environment():
    return GaussianSteering(PROCESS, MEAN, VARIANCE, CURVATURE, TARGET, 2 / WEIGHT)


def make_direction(steps, *, end=1e-3, estimate=None, solver=None, grid=None, **options):
    """O4 on a log-SNR grid from N(0, v(T)), with the exact score unless an estimate is given."""
    env = environment()
    return RewardDirection(
        process=PROCESS,
        estimate=estimate or known_score(lambda t, x, *conditions: env.score(t, x)),
        reward_fn=lambda x, *conditions: env.reward(x),
        shape=(1,),
        grid=grids.log_snr(PROCESS, steps, end=end) if grid is None else grid,
        weight=WEIGHT,
        temperature=TEMPERATURE,
        solver=solver or EulerMaruyama(),
        start_std=env.start_std(),
        **options,
    )


def smooth_policy(score_fn, degree: int = 4) -> Model:
    """score + slope(t) x + intercept(t), both polynomials of the time in [0, T]."""

    def apply(params, t, x, *conditions):
        basis = _legendre(t, x, degree)
        deviation = (basis @ params["slope"])[:, None] * x + (basis @ params["intercept"])[:, None]
        return score_fn(t, x) + deviation

    return Model(lambda key: dict.fromkeys(("slope", "intercept"), jnp.zeros(degree + 1)), apply)


def smooth_value(degree: int = 4) -> Model:
    """c0(t) + c1(t) x + c2(t) x^2, all polynomials of the time in [0, T]."""

    def apply(params, t, x, *conditions):
        c0, c1, c2 = (_legendre(t, x, degree) @ params[name] for name in ("c0", "c1", "c2"))
        return c0 + c1 * x[:, 0] + c2 * x[:, 0] ** 2

    return Model(lambda key: dict.fromkeys(("c0", "c1", "c2"), jnp.zeros(degree + 1)), apply)


def _legendre(t, x, degree):
    u = 2 * jnp.broadcast_to(t, x.shape[:1]) / PROCESS.horizon - 1
    basis = [jnp.ones_like(u), u]
    for n in range(1, degree):
        basis.append(((2 * n + 1) * u * basis[-1] - n * basis[-2]) / (n + 1))
    return jnp.stack(basis, axis=1)


def deviation_tables(problem, policy, params):
    """Slope and intercept of an affine policy's deviation from the exact score at every step."""
    t = problem.forward_times()[:-1]
    env = environment()

    @jax.jit
    def at(params, x):
        return policy.apply(params, t, x) - env.score(t, x)

    one, zero = (np.asarray(at(params, np.full((t.size, 1), x, np.float32))) for x in (1, 0))
    return tuple(values.astype(float)[:, 0] for values in (one - zero, zero))
