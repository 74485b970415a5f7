r"""Minibatch passes over stored transitions, with an importance ratio that starts at exactly one.

Each minibatch holds k time steps of every trajectory, at random per trajectory, so that with the
batch sharded over devices no transition ever moves. The first passes only *score*: they run the
forward function of the update, in the update's own shapes and in the same compiled loop body, and
store the scores of the old policy. Then follow the epochs, whose ratio is

    log pi / pi_old = d . z - |d|^2 / 2,  d = (action_gain / std) (mu - mu_old),          (1)

with z the noise that moved the state. At the old parameters d is zero bit for bit, so the ratio is
one, whatever the sizes of rollout and update batches. The derivative is behind a conditional, so a
scoring pass costs one forward evaluation.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Learner, apply_gradient
from ctrl_jax.solvers import Kernel, girsanov


class Transitions(NamedTuple):
    """Stored steps: per-step fields (steps,), the others batch-major (batch, steps, ...).

    Fields:
        times: forward time of each step.
        kernel: coefficients of each step.
        states: state before the step.
        noise: the standard normal that moved it.
        actions: the rollout's own score.
        reference: the reference score.
        advantages: estimate of q dt, (batch, steps).
        gradients: value gradient at the next state; None where no loss needs it.
        weights: (batch,).
        conditions: leading axis batch.
    """

    times: Float[Array, " steps"]
    kernel: Kernel
    states: Float[Array, "batch steps ..."]
    noise: Float[Array, "batch steps ..."]
    actions: Float[Array, "batch steps ..."]
    reference: Float[Array, "batch steps ..."]
    advantages: Float[Array, "batch steps"]
    gradients: Float[Array, "batch steps ..."] | None
    weights: Float[Array, " batch"]
    conditions: tuple[Array, ...]


Surrogate = Callable[[Transitions, Array, Array], Array]
"""``surrogate(rows, score, log_ratio)`` returns one loss per row."""


def select(transitions: Transitions, index: Array) -> Transitions:
    """Return the transitions at time indices (batch, k), flattened to batch * k rows."""

    def pick(array):
        return _flatten(_take(array, index))

    k = index.shape[1]
    rows = index.reshape(-1)
    return Transitions(
        times=transitions.times[rows],
        kernel=jax.tree.map(lambda c: c[rows], transitions.kernel),
        states=pick(transitions.states),
        noise=pick(transitions.noise),
        actions=pick(transitions.actions),
        reference=pick(transitions.reference),
        advantages=pick(transitions.advantages),
        gradients=None if transitions.gradients is None else pick(transitions.gradients),
        weights=jnp.repeat(transitions.weights, k, axis=0),
        conditions=tuple(jnp.repeat(c, k, axis=0) for c in transitions.conditions),
    )


def minibatch_indices(
    key: Array, batch: int, steps: int, *, epochs: int, minibatches: int
) -> Array:
    """Return time indices (epochs * minibatches, batch, steps // minibatches), random per row."""
    uniform = jax.random.uniform(key, (epochs, batch, steps))
    order = jnp.argsort(uniform, axis=-1)[..., : steps // minibatches * minibatches]
    split = order.reshape(epochs, batch, minibatches, -1)
    return jnp.swapaxes(split, 1, 2).reshape(epochs * minibatches, batch, -1)


def update_policy(
    key: Array,
    policy: Model,
    learner: Learner,
    optimizer: optax.GradientTransformation,
    transitions: Transitions,
    surrogate: Surrogate,
    *,
    penalty: Float[Array, ""] | float,
    epochs: int,
    minibatches: int,
) -> tuple[Learner, dict[str, Array]]:
    """Minimise mean(surrogate + penalty * KL step) over minibatches.

    Args:
        key: PRNG key of the minibatches.
        policy: the policy's score model.
        learner: its parameters and optimiser state.
        optimizer: optax transformation.
        transitions: what was stored at rollout.
        surrogate: per-row loss.
        penalty: lambda, the weight of each step's divergence from the reference, through the mean.
        epochs: passes over the transitions.
        minibatches: per pass; divides the number of steps.

    Returns:
        The learner and metrics, averaged over minibatches.
    """
    batch, steps = transitions.advantages.shape
    index = minibatch_indices(key, batch, steps, epochs=epochs, minibatches=minibatches)
    index = jnp.concatenate([index[:minibatches], index])
    scoring = jnp.arange(index.shape[0]) < minibatches

    def body(carry, inputs):
        learner, scored = carry
        index, scoring = inputs
        rows = select(transitions, index)
        score, pull_back = jax.vjp(
            lambda params: policy.apply(params, rows.times, rows.states, *rows.conditions),
            learner.params,
        )

        def store(_):
            return learner, _put(scored, index, score), _blank_metrics()

        def update(_):
            old = _flatten(_take(scored, index))
            loss = lambda s: _loss(surrogate, rows, s, old, penalty)  # noqa: E731
            gradient_score, metrics = jax.grad(loss, has_aux=True)(score)
            (gradient,) = pull_back(gradient_score)
            moved, finite = apply_gradient(learner, gradient, optimizer)
            metrics["policy/gradient_norm"] = optax.tree.norm(gradient)
            metrics["update/finite"] = finite.astype(score.dtype)
            return moved, scored, metrics

        learner, scored, metrics = jax.lax.cond(scoring, store, update, None)
        return (learner, scored), metrics

    start = (learner, jnp.zeros_like(transitions.actions))
    (learner, scored), history = jax.lax.scan(body, start, (index, scoring))
    history = jax.tree.map(lambda values: values[minibatches:], history)
    metrics = {name: jnp.mean(values) for name, values in history.items()}
    metrics["update/finite"] = jnp.min(history["update/finite"])
    metrics["ratio/max_deviation"] = history["ratio/max_deviation"][0]
    metrics["ratio/rollout_deviation"] = _rollout_deviation(transitions, scored)
    return learner, metrics


def _loss(surrogate, rows, score, old, penalty):
    log_ratio = -girsanov.log_ratio(rows.kernel, rows.noise, old, score)
    kl = girsanov.kl_rate(rows.kernel.kl_rate, score, rows.reference)
    share = rows.weights / jnp.sum(rows.weights)
    loss = jnp.sum(share * (surrogate(rows, score, log_ratio) + penalty * kl))
    ratio = jnp.exp(log_ratio)
    metrics = {
        "policy/loss": loss,
        "policy/approx_kl": jnp.sum(share * (ratio - 1 - log_ratio)),
        "ratio/max_deviation": jnp.max(jnp.abs(ratio - 1)),
    }
    return loss, metrics


def _blank_metrics():
    names = ("policy/loss", "policy/approx_kl", "ratio/max_deviation", "policy/gradient_norm")
    return dict.fromkeys((*names, "update/finite"), jnp.zeros(()))


def _rollout_deviation(transitions, scored):
    """Largest |log-prob of a stored step as scored here - as the rollout drew it|."""
    noise = _flatten(transitions.noise)
    kernel = jax.tree.map(
        lambda c: jnp.broadcast_to(c, transitions.advantages.shape).reshape(-1), transitions.kernel
    )
    drawn, seen = _flatten(transitions.actions), _flatten(scored)
    return jnp.max(jnp.abs(girsanov.log_ratio(kernel, noise, drawn, seen)))


def _flatten(array):
    return array.reshape(-1, *array.shape[2:])


def _take(array, index):
    return jax.vmap(lambda row, i: row[i])(array, index)


def _put(array, index, rows):
    values = rows.reshape(*index.shape, *rows.shape[1:])
    return jax.vmap(lambda row, i, v: row.at[i].set(v))(array, index, values)
