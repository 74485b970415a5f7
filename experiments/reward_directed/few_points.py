r"""What few data points per estimate do to the optimum, on a Gaussian where all is affine.

Data N(1, 1/2) and a quadratic reward around 2.5: with the exact score the best end law is the tilt,
N(1.43, .357). An estimate from one point is on average the score of a point mass at the data's
mean, and a reward cannot tilt a point mass: the law to be learned at m = 1 is that of the sampler
steered to the mean alone, known exactly. Mean and denoised state are tables of affine functions per
step, so that the end law of what was learned follows from moments, without sampling noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    QLearningConfig,
    RewardDirection,
    known_score,
    make_q_learning,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.processes import DataPoints, RatioScore, grids
from experiments.directed_tasks import END, forward_process
from experiments.options import over_data
from experiments.study import Conduct

WORLD = (1.0, 0.5, 2.0, 2.5, 2.5)
"""Mean and variance of the data, curvature and target of the reward, penalty."""

STEPS, BATCH, UPDATES, POINTS = 20, 64, 100, 4096


class Law(NamedTuple):
    """Mean and variance of an end law, per seed or one number."""

    mean: np.ndarray
    variance: np.ndarray


def world() -> GaussianSteering:
    """Return the problem with its exact solution."""
    return GaussianSteering(forward_process(), *WORLD)


def problem(m: int | None, paired: bool) -> RewardDirection:
    """Return the problem with estimates from m points, or with the exact score."""
    env = world()
    data = env.data.sample(jax.random.key(5), POINTS)
    estimate = (
        known_score(env.score) if m is None else RatioScore(forward_process(), DataPoints(data), m)
    )
    grid = grids.quadratic(forward_process(), STEPS, end=END)
    weight = 2 / env.penalty
    return RewardDirection(
        forward_process(), estimate, env.reward, (1,), grid, weight, 0.3, paired=paired
    )


def learn(m: int | None, paired: bool, study: Conduct, keys: jax.Array) -> Law:
    """Return the end law learned from m points per estimate, for every seed."""
    direction = problem(m, paired)
    policy, value = affine_denoiser(direction), quadratic_table(direction)
    courses = (make_schedule(rate, 4 * UPDATES, final=0.02) for rate in (0.05, 0.1))
    optimizer, value_optimizer = (adam(course, clip=None) for course in courses)
    config = QLearningConfig(epochs=4, trace=1.0, average_decay=0.9)
    algorithm = make_q_learning(direction, policy, value, optimizer, value_optimizer, config)

    def one(key):
        def body(state, _):
            return algorithm.step(state, Batch(jnp.ones(BATCH)))[0], None

        state, _ = jax.lax.scan(body, algorithm.init(key), None, UPDATES)
        return end_law(direction, lambda t, x: policy.apply(state.params, t, x))

    piece = f"few_points-{m or 'exact'}{'-paired' if paired else ''}"
    return Law(*study.once(piece, over_data(study.mesh, one, keys)))


def one_point_limit() -> Law:
    """Return the end law of the score of a point mass at the data's mean: m = 1, exactly."""

    def score_fn(t, x):
        scale, std = forward_process().marginal(t)
        return (scale[:, None] * WORLD[0] - x) / std[:, None] ** 2

    return Law(*(np.asarray(c) for c in end_law(problem(None, False), score_fn)))


def end_law(direction: RewardDirection, score_fn) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance of the end state under an affine score, by moments."""
    steps = direction.coefficients()
    at_0, at_1 = (score_fn(steps.time, jnp.full((STEPS, 1), x))[:, 0] for x in (0.0, 1.0))

    def body(moments, inputs):
        kernel, slope, shift = inputs
        gain = kernel.state_gain + kernel.action_gain * slope
        mean = gain * moments[0] + kernel.action_gain * shift
        return (mean, gain**2 * moments[1] + kernel.std**2), None

    start = (jnp.zeros(()), direction.process.prior_std() ** 2)
    return jax.lax.scan(body, start, (steps.kernel, at_1 - at_0, at_0))[0]


def affine_denoiser(direction: RewardDirection) -> Model:
    """Return the score (a (c_i + d_i x) - x) / v, tables c and d those of the data at first."""
    scale, std = forward_process().marginal(direction.forward_times()[:-1])
    spread = 1 / (1 / WORLD[1] + (scale / std) ** 2)
    start = {"c": spread * WORLD[0] / WORLD[1], "d": spread * scale / std**2}

    def apply(params, t, x, *conditions):
        i = nearest(direction, t, x)
        scale, std = forward_process().marginal(t)
        scale, std = (jnp.broadcast_to(c, x.shape[:1])[:, None] for c in (scale, std))
        denoised = params["c"][i][:, None] + params["d"][i][:, None] * x
        return (scale * denoised - x) / std**2

    return Model(lambda key: start, apply)


def quadratic_table(direction: RewardDirection) -> Model:
    """Return the value c0_i + c1_i x + c2_i x^2."""

    def apply(params, t, x, *conditions):
        c = params[nearest(direction, t, x)]
        return c[:, 0] + c[:, 1] * x[:, 0] + c[:, 2] * x[:, 0] ** 2

    return Model(lambda key: jnp.zeros((direction.steps + 1, 3)), apply)


def nearest(direction: RewardDirection, t, x):
    """Return the index of the grid point of each row's time."""
    times = direction.forward_times()
    index = jnp.argmin(jnp.abs(times[:, None] - jnp.reshape(t, (1, -1))), axis=0)
    return jnp.broadcast_to(index, x.shape[:1])
