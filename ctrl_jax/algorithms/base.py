"""What an algorithm is, and the one state that all of them run on.

A step of any algorithm has the same ends: `start` makes the first state, `finish` the next one.
Between them a step rolls out, differentiates and moves its learners with `apply_gradient`, which
leaves alone what a gradient that is not finite would spoil; `finish` counts that as a skip.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._numerics import mean_each
from ctrl_jax._typing import Params

Metrics = dict[str, Array]
"""Scalars by name, "what/which"; the same name means the same in every algorithm."""

Init = Callable[[Array], Params]
"""``init(key)`` returns parameters."""


class Learner(NamedTuple):
    """Parameters with the state of what moves them.

    Fields:
        params: a tree of arrays.
        optimizer: the state of the optimizer, as a rule.
    """

    params: Params
    optimizer: Any


class Skips(NamedTuple):
    """How many steps had an update that was not finite: in all, and since the last finite one."""

    total: Int[Array, ""]
    in_a_row: Int[Array, ""]


class RunState(NamedTuple):
    """State of a run.

    Fields:
        key: PRNG key of the next step.
        update: number of steps taken.
        learners: what learns, by name: "policy" and "value", or "model" where there is one only.
        average: moving average of the parameters of the policy or model; None where none is kept.
        reference: parameters that no gradient moves, such as those of the pretrained score.
        skips: steps that were not finite.
    """

    key: Array
    update: Int[Array, ""]
    learners: dict[str, Learner]
    average: Any
    reference: Any
    skips: Skips

    @property
    def policy(self) -> Learner:
        """The learner "policy"."""
        return self.learners["policy"]

    @property
    def value(self) -> Learner | None:
        """The learner "value"; None for algorithms without one."""
        return self.learners.get("value")

    @property
    def params(self) -> Params:
        """What the run is after: the average where one is kept, else the trained parameters."""
        return _trained(self.learners).params if self.average is None else self.average


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A pair of pure functions that never call the host.

    Args:
        init: ``state = init(key)``.
        step: ``state, metrics = step(state, batch)``, metrics a flat dict of scalars.
    """

    init: Callable[[Array], RunState]
    step: Callable[[RunState, Any], tuple[RunState, Metrics]]


def start(
    key: Array,
    learners: Mapping[str, tuple[Init, Callable[[Params], Any]]],
    *,
    reference: Init | None = None,
    averaged: bool = False,
) -> RunState:
    """Return the first state of a run, every leaf a buffer of its own so that it can be donated.

    Args:
        key: PRNG key.
        learners: by name, ``init(key)`` of the parameters and ``init(params)`` of what moves them.
        reference: how the parameters begin that no gradient moves.
        averaged: whether a moving average of the policy or model is kept.
    """
    key, *keys = jax.random.split(key, len(learners) + 2)
    made = {
        name: _begin(own_buffers(init(own)), first)
        for own, (name, (init, first)) in zip(keys, learners.items(), strict=False)
    }
    average = own_buffers(_trained(made).params) if averaged else None
    held = None if reference is None else own_buffers(reference(keys[-1]))
    update, *skips = (jnp.zeros((), jnp.int32) for _ in range(3))
    return RunState(key, update, made, average, held, Skips(*skips))


def finish(
    state: RunState,
    key: Array,
    learners: dict[str, Learner],
    finite: Bool[Array, ""],
    *,
    decay: float | Array = 0.0,
) -> tuple[RunState, Metrics]:
    """Return the state after a step, and the metrics ``update/*`` of its finiteness.

    Args:
        state: before the step.
        key: of the next step.
        learners: after the step.
        finite: whether every update of the step was finite; the average rests where not.
        decay: of the moving average, per step.
    """
    total, in_a_row = state.skips
    skips = Skips(jnp.where(finite, total, total + 1), jnp.where(finite, 0, in_a_row + 1))
    average = state.average
    if average is not None:
        moved = move_average(average, _trained(learners).params, decay)
        average = keep_if(finite, moved, average)
    metrics = {
        "update/finite": finite,
        "update/skipped": skips.total,
        "update/skipped_in_a_row": skips.in_a_row,
    }
    moved = RunState(key, state.update + 1, learners, average, state.reference, skips)
    return moved, metrics


def apply_gradient(
    learner: Learner, gradient: Any, optimizer: optax.GradientTransformation
) -> tuple[Learner, Bool[Array, ""]]:
    """Take one optimizer step, or none where the gradient or what it leads to is not finite.

    Returns:
        The learner, and whether all of gradient, moved parameters and moved optimizer state was
        finite; what the state held before of infinities, such as a best loss so far, may stay.
    """
    updates, optimizer_state = optimizer.update(gradient, learner.optimizer, learner.params)
    moved = Learner(optax.apply_updates(learner.params, updates), optimizer_state)
    # A finite gradient times a step size that is too large is not, nor is its square.
    finite = jnp.isfinite(optax.tree.norm(gradient)) & all_finite(moved.params)
    finite &= _stays_finite(moved.optimizer, learner.optimizer)
    return keep_if(finite, moved, learner), finite


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Return whether every number of a tree is finite."""
    leaves = (jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree))
    return functools.reduce(jnp.logical_and, leaves, jnp.asarray(True))


def _stays_finite(new: Any, old: Any) -> Bool[Array, ""]:
    """Return whether every number of a tree is finite that was so before."""
    kept = jax.tree.map(lambda a, b: jnp.all(jnp.isfinite(a) | ~jnp.isfinite(b)), new, old)
    return functools.reduce(jnp.logical_and, jax.tree.leaves(kept), jnp.asarray(True))


def keep_if(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Return `new` where `condition` holds and `old` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def move_average(average: Any, params: Any, decay: float | Array) -> Any:
    """Return the exponential moving average decay * average + (1 - decay) * params."""
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)


def skip(state: RunState) -> tuple[RunState, Metrics]:
    """Return the state after a step that could not be taken, counted as one that was not finite.

    It is for a batch whose rewards from outside JAX could not be had: what learns stays as it is,
    and the next rollout has another key.

    Args:
        state: before the step, as `collect` saw it.
    """
    return finish(state, ahead(state).key, dict(state.learners), jnp.zeros((), bool))


def ahead(state: RunState) -> RunState:
    """Return the state as `collect` would see it after the step, but with today's parameters.

    A rollout of it has the noise of the next one, so that it can be made before this step is taken.

    Args:
        state: before the step.
    """
    return state._replace(key=jax.random.split(state.key, 4)[0], update=state.update + 1)


def growing_decay(decay: float, update: Int[Array, ""]) -> Float[Array, ""]:
    """Return a decay whose window grows with the run, so that no average remembers its start."""
    return jnp.minimum(decay, (1 + update) / (10 + update))


def own_buffers(tree: Any) -> Any:
    """Return a copy of a tree in which no two leaves share memory."""
    return jax.tree.map(jnp.copy, tree)


def weighted_mean(values: Float[Array, "batch ..."], weights: Float[Array, " batch"]) -> Array:
    """Return the mean over examples with weights, and over any later axes."""
    return jnp.sum(weights * mean_each(values)) / jnp.sum(weights)


def weighted_means(values: Metrics, weights: Float[Array, " batch"]) -> Metrics:
    """Return the weighted mean of each of several values per example."""
    return {name: weighted_mean(each, weights) for name, each in values.items()}


def state_metrics(
    failed_at: Int[Array, "..."], counted: Bool[Array, "..."] | None = None
) -> Metrics:
    """Return ``states/*``: whether every path stayed finite, how many did not, and from where.

    Args:
        failed_at: the steps of each path before its first state that is not finite, -1 for none.
        counted: which paths are looked at, all by default.
    """
    failed = failed_at >= 0
    failed = failed if counted is None else failed & counted
    last = jnp.iinfo(failed_at.dtype).max
    first = jnp.min(jnp.where(failed, failed_at, last))
    return {
        "states/finite": ~jnp.any(failed),
        "states/failed": jnp.sum(failed),
        "states/failed_at": jnp.where(first == last, -1, first),
    }


def pair_metrics(chosen: Float[Array, " pairs"], rejected: Float[Array, " pairs"]) -> Metrics:
    """Return ``rewards/*`` of every pair, in TRL's names, from rewards or log-ratios."""
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        # A tie is half.
        "rewards/accuracies": jnp.where(chosen == rejected, 0.5, chosen > rejected),
    }


def _begin(params: Params, first: Callable[[Params], Any]) -> Learner:
    return Learner(params, first(params))


def _trained(learners: dict[str, Learner]) -> Learner:
    return learners["policy"] if "policy" in learners else learners["model"]
