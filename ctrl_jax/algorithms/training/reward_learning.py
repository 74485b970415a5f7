"""Learning a reward from preferences, by the Bradley-Terry likelihood (`losses.preference`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Algorithm, Learner, apply_gradient, start_learner
from ctrl_jax.losses import preference


class Pairs(NamedTuple):
    """Preference pairs: the chosen and the rejected example of each, (batch, ...).

    Conditions, arrays of leading axis batch, are common to both examples.
    """

    chosen: Float[Array, "batch ..."]
    rejected: Float[Array, "batch ..."]
    conditions: tuple[Array, ...] = ()


class RewardState(NamedTuple):
    """State of reward learning."""

    update: Int[Array, ""]
    learner: Learner
    skipped_in_a_row: Int[Array, ""]


def make_reward_learning(model: Model, optimizer: optax.GradientTransformation) -> Algorithm:
    """Return the algorithm that fits ``model.apply(params, 0, x, *conditions)`` to `Pairs`.

    Args:
        model: a value-like model, one number per example; its time is held at 0.
        optimizer: optax transformation.
    """

    def init(key: Array) -> RewardState:
        zero = jnp.zeros((), jnp.int32)
        return RewardState(zero, start_learner(model.init(key), optimizer), zero)

    def step(state: RewardState, batch: Pairs):
        def loss_fn(params):
            chosen, rejected = (
                model.apply(params, jnp.zeros(()), x, *batch.conditions)
                for x in (batch.chosen, batch.rejected)
            )
            accuracy = jnp.mean(chosen > rejected)
            return jnp.mean(preference.bradley_terry(chosen, rejected)), accuracy

        (loss, accuracy), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.learner.params)
        learner, finite = apply_gradient(state.learner, gradient, optimizer)
        skipped = jnp.where(finite, 0, state.skipped_in_a_row + 1)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "update/finite": finite,
            "update/skipped_in_a_row": skipped,
        }
        return RewardState(state.update + 1, learner, skipped), metrics

    return Algorithm(init, step)
