"""Fixture O4 as a reward-directed problem, on the chain whose optimum the oracle knows.

Convention C with weight w and temperature theta is convention B with the penalty 2 / w, so the
chain's optimum and its exact law are those of `steering`.
"""

from ctrl_jax.algorithms import RewardDirection, known_score
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.processes import grids
from ctrl_jax.solvers import EulerMaruyama
from tests.algorithms.steering import CURVATURE, MEAN, PROCESS, TARGET, VARIANCE

WEIGHT, TEMPERATURE = 0.8, 0.3
FLOW_LIMIT = (1.328534, 0.251222)
"""Mean and variance at T of the optimum of the probability flow from N(0, v(T))."""


def environment():
    return GaussianSteering(PROCESS, MEAN, VARIANCE, CURVATURE, TARGET, 2 / WEIGHT)


def make_direction(steps: int, *, end: float = 1e-3, estimate=None, solver=None, flow=False):
    """O4 on a log-SNR grid from N(0, v(T)), with the exact score unless an estimate is given."""
    env = environment()
    return RewardDirection(
        process=PROCESS,
        estimate=estimate or known_score(lambda t, x, *conditions: env.score(t, x)),
        reward_fn=env.reward,
        shape=(1,),
        grid=grids.log_snr(PROCESS, steps, end=end),
        weight=WEIGHT,
        temperature=TEMPERATURE,
        solver=solver or EulerMaruyama(),
        probability_flow=flow,
        start_std=env.start_std(),
    )
