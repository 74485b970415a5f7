"""Consistency models, distilled from a score model or trained from data alone (2303.01469).

The number N of levels grows during training: few levels learn fast with a bias of order 1/N, many
have little bias and much variance.
Source: arXiv 2303.01469, algorithms 2-3; 2310.14189 for the doubling, theta^- = theta
(target_decay = 0), the weights and the robust distance.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import check_count, check_decay, check_fields, check_positive
from ctrl_jax._typing import Model, ScoreFn
from ctrl_jax.algorithms.base import (
    Algorithm,
    RunState,
    apply_gradient,
    finish,
    growing_decay,
    keep_if,
    move_average,
    own_buffers,
    start,
)
from ctrl_jax.algorithms.training.score_pretraining import DataBatch
from ctrl_jax.losses import consistency, time_weighting
from ctrl_jax.processes import LinearProcess
from ctrl_jax.processes.consistency_function import level_times


@dataclasses.dataclass(frozen=True)
class ConsistencyConfig:
    """How neighbors are chosen and compared.

    Args:
        steps: updates over which the number of levels grows.
        first_levels: levels between end and horizon at the start.
        doublings: how often the number of levels doubles during `steps`.
        target_decay: decay per update of the target network; 0 takes the model itself.
        average_decay: decay per update of the moving average of the parameters that is kept.
        huber: constant of the robust distance per root of the dimension; None for the square.
        teacher_order: order of the teacher's step: 1 is DDIM, 2 is Heun.
    """

    steps: int = 4000
    first_levels: int = 10
    doublings: int = 4
    target_decay: float = 0.0
    average_decay: float = 0.999
    huber: float | None = 1e-3
    teacher_order: int = 2

    def __post_init__(self):
        check_fields(self, check_count, "steps", "first_levels")
        check_count("doublings", self.doublings, least=0)
        check_fields(self, check_decay, "target_decay", "average_decay")
        if self.huber is not None:
            check_positive("huber", self.huber)
        check_count("teacher_order", self.teacher_order, most=2)

    def levels(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """Return N at an update: as many updates for each number of levels."""
        stage = jnp.minimum(update * (self.doublings + 1) // self.steps, self.doublings)
        return self.first_levels * 2.0**stage


def make_consistency_training(
    process: LinearProcess,
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    end: float,
    config: ConsistencyConfig | None = None,
    teacher: ScoreFn | None = None,
    weighting: Callable[[Array, Array], Array] | None = None,
) -> Algorithm:
    """Return the training of a consistency model f_theta; its batch is a `DataBatch`.

    Each step noises the data to times t and pairs each state x_t with its neighbor x_s one level
    below: with a `teacher` by a step of its probability-flow ODE (distillation), without one by the
    same data and noise (training). It minimizes

        E w(t, s) d(f_theta(t, x_t), f_{theta^-}(s, x_s)),

    theta^- a moving average of theta without gradient, `RunState.reference`. With m the mean over
    the coordinates of the squared difference, d is m, or sqrt(m + c^2) - c for huber = c. Levels u
    in [0, 1] are even in tau^{1/7}, tau = std / a; t is drawn from u >= 1/N and s lies 1/N below. N
    is `first_levels` at first and doubles now and then.

    Args:
        process: the forward process.
        model: the consistency function f(t, x), as from `consistency_function.from_normalized_v`.
        optimizer: optax transformation.
        end: the time at which the model ends trajectories.
        config: levels, target and distance.
        teacher: score function to distil; by default the model is trained from data alone.
        weighting: ``w(t, s)`` of shape (batch,); `time_weighting.inverse_gap` by default.

    Source: Song et al. 2023 (arXiv 2303.01469), algorithms 2-3; arXiv 2310.14189 for the doubling,
    theta^- = theta, the weights and the robust distance.
    """
    config = config or ConsistencyConfig()
    time_of_level = level_times(process, end=end)
    weighting = weighting or time_weighting.inverse_gap(process)

    def init(key: Array) -> RunState:
        state = start(key, {"model": (model.init, optimizer.init)}, averaged=True)
        return state._replace(reference=own_buffers(state.learners["model"].params))

    def neighbors(key: Array, levels: Array, batch: DataBatch):
        level_key, noise_key = jax.random.split(key)
        number = batch.x_0.shape[0]
        spread = (jnp.arange(number) + jax.random.uniform(level_key, (number,))) / number
        upper = (1 + (levels - 1) * spread) / levels
        t, s = time_of_level(upper), time_of_level(jnp.maximum(upper - 1 / levels, 0.0))
        x_t, _ = process.sample_marginal(noise_key, batch.x_0, t)
        if teacher is None:
            return t, s, x_t, process.sample_marginal(noise_key, batch.x_0, s)[0]

        taught = teacher

        def score_fn(t, x):
            return taught(t, x, *batch.conditions)

        order = config.teacher_order
        return t, s, x_t, consistency.teacher_step(process, score_fn, x_t, t, s, order=order)

    def step(state: RunState, batch: DataBatch):
        key, pair_key = jax.random.split(state.key)
        levels = config.levels(state.update)
        t, s, x_t, x_s = neighbors(pair_key, levels, batch)
        target = model.apply(state.reference, s, x_s, *batch.conditions)
        weights = weighting(t, s)
        distance = consistency.training if teacher is None else consistency.distillation

        def loss_fn(params):
            prediction = model.apply(params, t, x_t, *batch.conditions)
            return jnp.mean(distance(prediction, target, huber=config.huber, weights=weights))

        learner = state.learners["model"]
        loss, gradient = jax.value_and_grad(loss_fn)(learner.params)
        learner, finite = apply_gradient(learner, gradient, optimizer)
        moved = move_average(state.reference, learner.params, config.target_decay)
        state = state._replace(reference=keep_if(finite, moved, state.reference))
        decay = growing_decay(config.average_decay, state.update)
        state, metrics = finish(state, key, {"model": learner}, finite, decay=decay)
        norm = optax.tree.norm(gradient)
        return state, {"loss": loss, "gradient_norm": norm, "levels": levels, **metrics}

    return Algorithm(init, step)
