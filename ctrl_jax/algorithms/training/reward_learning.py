"""Learning a reward from preferences, by the Bradley-Terry likelihood (`losses.preference`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import (
    Algorithm,
    RunState,
    apply_gradient,
    finish,
    pair_metrics,
    start,
)
from ctrl_jax.losses import preference


class Pairs(NamedTuple):
    """Preference pairs.

    Fields:
        chosen: the preferred example of each pair, (batch, ...).
        rejected: the other one, (batch, ...).
        conditions: arrays of leading axis batch, common to both examples.
    """

    chosen: Float[Array, "batch ..."]
    rejected: Float[Array, "batch ..."]
    conditions: tuple[Array, ...] = ()


def make_reward_learning(model: Model, optimizer: optax.GradientTransformation) -> Algorithm:
    """Return the algorithm that fits ``model.apply(params, 0, x, *conditions)`` to `Pairs`.

    Args:
        model: a value-like model, one number per example; its time is held at 0.
        optimizer: optax transformation.
    """

    def init(key: Array) -> RunState:
        return start(key, {"model": (model.init, optimizer.init)})

    def step(state: RunState, batch: Pairs):
        def loss_fn(params):
            chosen, rejected = (
                model.apply(params, jnp.zeros(()), x, *batch.conditions)
                for x in (batch.chosen, batch.rejected)
            )
            return jnp.mean(preference.bradley_terry(chosen, rejected)), (chosen, rejected)

        learner = state.learners["model"]
        (loss, rewards), gradient = jax.value_and_grad(loss_fn, has_aux=True)(learner.params)
        learner, finite = apply_gradient(learner, gradient, optimizer)
        state, metrics = finish(state, state.key, {"model": learner}, finite)
        metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        return state, metrics | jax.tree.map(jnp.mean, pair_metrics(*rewards))

    return Algorithm(init, step)
