"""What an algorithm is: a pair of pure functions, and the pieces of state that they share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float


class Algorithm(NamedTuple):
    """A pair of pure functions that never call the host.

    Fields:
        init: ``state = init(key)``.
        step: ``state, metrics = step(state, batch)``, metrics a flat dict of scalars.
    """

    init: Callable[[Array], Any]
    step: Callable[[Any, Any], tuple[Any, dict[str, Array]]]


class Learner(NamedTuple):
    """Parameters with the state of their optimizer."""

    params: Any
    optimizer: Any


def start_learner(params: Any, optimizer: optax.GradientTransformation) -> Learner:
    """Return a learner at its first step."""
    return Learner(params, optimizer.init(params))


def apply_gradient(
    learner: Learner, gradient: Any, optimizer: optax.GradientTransformation
) -> tuple[Learner, Bool[Array, ""]]:
    """Take one optimizer step, or none where the gradient is not finite.

    Returns:
        The learner and whether the gradient was finite.
    """
    finite = jnp.isfinite(optax.tree.norm(gradient))
    updates, optimizer_state = optimizer.update(gradient, learner.optimizer, learner.params)
    moved = Learner(optax.apply_updates(learner.params, updates), optimizer_state)
    return keep_if(finite, moved, learner), finite


def keep_if(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Return `new` where `condition` holds and `old` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def move_average(average: Any, params: Any, decay: float | Array) -> Any:
    """Return the exponential moving average decay * average + (1 - decay) * params."""
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)


def count_skips(state: Any, finite: Array) -> dict[str, Array]:
    """Return the next `skipped` and `skipped_in_a_row` of a state, after an update.

    Args:
        state: has both fields.
        finite: whether the update was finite, as a boolean, 0 or 1.
    """
    missed = 1 - finite.astype(jnp.int32)
    in_a_row = jnp.where(missed > 0, state.skipped_in_a_row + 1, 0)
    return {"skipped": state.skipped + missed, "skipped_in_a_row": in_a_row}


def skip_metrics(skips: dict[str, Array]) -> dict[str, Array]:
    """Return the counts as metrics, under "update/"."""
    return {f"update/{name}": count for name, count in skips.items()}


def weighted_mean(values: Float[Array, "batch ..."], weights: Float[Array, " batch"]) -> Array:
    """Return the mean over examples with weights, and over any later axes."""
    values = values.reshape(values.shape[0], -1).mean(axis=1)
    return jnp.sum(weights * values) / jnp.sum(weights)
