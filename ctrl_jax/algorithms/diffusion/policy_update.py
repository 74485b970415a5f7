r"""Minibatch passes over stored transitions, with an importance ratio that starts at exactly one.

Transitions are laid out once in minibatches, each with k time steps of every trajectory, at random
per trajectory; with the batch sharded over devices no transition ever moves. The first passes only
*score*: they run the forward function of the update, in the update's own shapes and in the same
compiled loop body, and store the scores of the old policy. Then follow the epochs, whose ratio is

    log pi / pi_old = d . z - |d|^2 / 2,  d = (action_gain / std) (mu - mu_old),          (1)

with z the noise that moved the state. At the old parameters d is zero bit for bit, so the ratio is
one, whatever the sizes of rollout and update batches. The derivative is behind a conditional, so a
scoring pass costs one forward evaluation.

Or there is no such pass, and mu_old is what the rollout itself predicted (`PolicyUpdate.old`). Then
d is what rollout and update round differently: nothing, with most networks, where both evaluate the
same function in the same shapes, that is where a piece is one time step of all trajectories.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._checks import (
    check_choice,
    check_count,
    check_decay,
    check_fields,
    check_positive,
    refuse,
)
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Learner, Metrics, apply_gradient, keep_if
from ctrl_jax.losses import policy
from ctrl_jax.solvers import Kernel, girsanov

Conditions = Callable[[int], tuple[Array, ...]]
"""``conditions(k)`` returns the conditions of every trajectory, each k times in a row."""


class Transitions(NamedTuple):
    """Stored steps: per-step fields (steps,), the others batch-major (batch, steps, ...).

    Fields:
        number: of each step, from 0.
        times: forward time of each step.
        kernel: coefficients of each step.
        states: state before the step.
        noise: the standard normal that moved it.
        actions: the rollout's own predictions.
        reference: those of the reference; None where nothing is compared with it.
        advantages: estimate of q dt, (batch, steps).
        gradients: value gradient at the next state; None where no loss needs it.
        weights: (batch,).
    """

    number: Int[Array, " steps"]
    times: Float[Array, " steps"]
    kernel: Kernel
    states: Float[Array, "batch steps ..."]
    noise: Float[Array, "batch steps ..."]
    actions: Float[Array, "batch steps ..."]
    reference: Float[Array, "batch steps ..."] | None
    advantages: Float[Array, "batch steps"]
    gradients: Float[Array, "batch steps ..."] | None
    weights: Float[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class PolicyUpdate:
    """How the policy learns from one batch of trajectories.

    Args:
        epochs: passes over the transitions.
        minibatches: optimizer steps per pass.
        chunks: pieces that each minibatch is computed in, their gradients added up: bounds the
            memory, and keeps a CPU within its cache. minibatches * chunks divides the steps.
        average_decay: decay per step of the moving average of the parameters; 0 for none.
        old: what ratios are taken against. "scored": what the policy predicts in a pass of its own
            before the first update; the ratio starts at exactly one. "rollout": what the rollout
            predicted, without a further pass. With minibatches * chunks equal to the steps, a piece
            is one time step of all trajectories, as in the rollout, and the ratio starts at one
            as exactly as the compiler rounds one function alike in two places: bit for bit with
            MLP, DiT and UNet, and up to 3e-4 with small guided MMDiT and UNet2DCondition, by the
            version of the compiler. In other pieces from 1e-7 to 5e-4 was measured of small
            networks. The metrics ``ratio/rollout_deviation`` and ``_mean`` are the largest and
            the mean |log-ratio| of the first minibatch. It is also right where the policy has been
            updated since.
        per_step: whether the metrics tell the mean of |ratio - 1| at each step, ``ratio/step_000``,
            and the share that is clipped, ``ppo/clip_fraction/step_000``.
    """

    epochs: int = 1
    minibatches: int = 5
    chunks: int = 1
    average_decay: float = 0.0
    old: Literal["scored", "rollout"] = "scored"
    per_step: bool = False

    def __post_init__(self):
        check_fields(self, check_count, "epochs", "minibatches", "chunks")
        check_decay("average_decay", self.average_decay)
        check_choice("old", self.old, ("scored", "rollout"))

    def check_steps(self, steps: int) -> None:
        """Raise ValueError unless the minibatches and chunks divide the steps learned from."""
        if steps % (self.minibatches * self.chunks):
            product = f"minibatches times chunks ({self.chunks})"
            rule = f"{product} must divide the {steps} steps learned from"
            raise refuse("minibatches", self.minibatches, rule, "choose divisors")


class Surrogate(NamedTuple):
    """What the policy descends, and what that needs.

    The log-ratio of new and old policy at a step that was made with the noise z is

        log pi / pi_old = d . z - |d|^2 / 2,   d = (action_gain / std) (mu - mu_old),

    with mu and mu_old their predictions, and action_gain and std those of the solver's step.

    Fields:
        loss: ``loss(rows, score, log_ratio)`` returns one number per row of `Transitions`, from the
            policy's prediction there and its log-ratio. ``rows.actions`` are here those of the old
            policy.
        clip: where it clips ratios, for the metric ppo/clip_fraction; None where it does not.
        bound: divergence from the old policy, in nats, beyond which it gives no gradient that leads
            farther, for the metric ppo/mask_fraction; None where it has none.
        gradient_at: where it needs the gradient of V(t_{i+1}, .), as ``rows.gradients``: at the
            next state x_{i+1}, or at its conditional mean m_i. With "mean" the noise that this
            gradient explains is taken out of the advantage (`critic.remove_martingale`).
    """

    loss: Callable[[Transitions, Array, Array], Array]
    clip: float | None = None
    gradient_at: Literal["next", "mean"] | None = None
    bound: float | None = None


def clipped(clip: float) -> Surrogate:
    """Return PPO's surrogate, -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)."""
    check_positive("clip", clip)

    def loss(rows, score, log_ratio):
        return policy.clipped_surrogate(log_ratio, rows.advantages, clip=clip)

    return Surrogate(loss, clip)


def masked(bound: float) -> Surrogate:
    """Return -ratio A, held fixed where KL(old || new) is beyond a bound and would grow."""
    check_positive("mask", bound)

    def loss(rows, score, log_ratio):
        kl = _moved(rows, score)
        return policy.masked_surrogate(log_ratio, rows.advantages, kl, bound=bound)

    return Surrogate(loss, bound=bound)


def _moved(rows: Transitions, score: Array) -> Array:
    """KL(old || new) of each row's step, which is exact; the rows' actions are the old policy's."""
    return girsanov.kl_rate(rows.kernel.kl_rate, score, rows.actions)


def lay_out(transitions: Transitions, order: Array) -> Transitions:
    """Return the transitions in minibatches, every field (minibatches, rows, ...).

    Args:
        transitions: per-step and batch-major fields.
        order: time indices (minibatches, batch, k), as from `minibatch_order`.
    """
    minibatches, _, k = order.shape
    steps = order.reshape(minibatches, -1)

    pick = partial(jax.tree.map, lambda array: arrange(array, order))
    weights = jnp.repeat(transitions.weights, k)
    return Transitions(
        number=steps,
        times=transitions.times[steps],
        kernel=jax.tree.map(lambda c: c[steps], transitions.kernel),
        states=pick(transitions.states),
        noise=pick(transitions.noise),
        actions=pick(transitions.actions),
        reference=pick(transitions.reference),
        advantages=pick(transitions.advantages),
        gradients=pick(transitions.gradients),
        weights=jnp.broadcast_to(weights, (minibatches, *weights.shape)),
    )


def arrange(array: Array, order: Array) -> Array:
    """Return array (batch, steps, ...) at time indices (minibatches, batch, k), rows flattened."""
    taken = jax.vmap(jax.vmap(lambda row, i: row[i]), (None, 0))(array, order)
    return taken.reshape(order.shape[0], -1, *array.shape[2:])


def minibatch_order(
    key: Array, batch: int, steps: int, minibatches: int, *, shifted: bool = True
) -> Array:
    """Return time indices (minibatches, batch, steps // minibatches), without repeats in a row.

    One random order serves all rows, each at a random shift of its own unless they are to be at the
    same times: as good as an order per row for mixing, without a sort per row. A remainder of the
    division is left out at random.
    """
    order_key, shift_key = jax.random.split(key)
    shift = jax.random.randint(shift_key, (batch,), 0, steps if shifted else 1)
    k = steps // minibatches
    blocks = jax.random.permutation(order_key, steps)[: minibatches * k].reshape(minibatches, 1, k)
    return (blocks + shift[None, :, None]) % steps


def minibatch_passes(key: Array, minibatches: int, epochs: int) -> Array:
    """Return minibatch numbers (epochs * minibatches,), shuffled within each epoch."""
    keys = jax.random.split(key, epochs)
    return jax.vmap(lambda k: jax.random.permutation(k, minibatches))(keys).reshape(-1)


def update_policy(
    key: Array,
    model: Model,
    learner: Learner,
    optimizer: optax.GradientTransformation,
    transitions: Transitions,
    surrogate: Surrogate,
    penalty: Float[Array, ""] | float,
    update: PolicyUpdate,
    conditions: Conditions,
) -> tuple[Learner, Bool[Array, ""], Metrics]:
    """Minimize mean(surrogate + penalty * KL step) over minibatches.

    Args:
        key: PRNG key of the minibatches.
        model: the policy's model.
        learner: its parameters and optimizer state.
        optimizer: optax transformation.
        transitions: what was stored at rollout.
        surrogate: the loss of each row.
        penalty: lambda, the weight of each step's divergence from the reference, through the mean.
        update: how often the transitions are used, and in which pieces.
        conditions: ``conditions(k)`` gives those of every trajectory k times in a row, as
            `Batch.gathered` does; asked for inside every piece, so that they are never stored.

    Returns:
        The learner, whether every update was finite, and metrics, averaged over minibatches.
    """
    order_key, pass_key = jax.random.split(key)
    batch, steps = transitions.advantages.shape
    total = jnp.sum(transitions.weights) * steps / update.minibatches
    laid_out = _pieces(order_key, transitions, update)
    which, scoring, scored = _passes(pass_key, laid_out.actions, update)
    loss_fn = partial(_loss, surrogate, update, steps, penalty, total)

    def add_chunk(scoring, params, gradient, inputs):
        rows, old = inputs
        own = conditions(rows.weights.shape[0] // batch)
        score, pull_back = jax.vjp(
            lambda params: model.apply(params, rows.times, rows.states, *own), params
        )

        def differentiate(_):
            gradient_score, metrics = jax.grad(loss_fn, has_aux=True)(score, rows, old)
            return jax.tree.map(jnp.add, gradient, pull_back(gradient_score)[0]), metrics

        if scoring is None:
            gradient, metrics = differentiate(None)
            return gradient, (None, metrics)
        blank = _blank_metrics(surrogate, update, steps)
        gradient, metrics = jax.lax.cond(scoring, lambda _: (gradient, blank), differentiate, None)
        return gradient, (score, metrics)

    def body(carry, inputs):
        learner, scored = carry
        m, scoring = inputs
        rows = jax.tree.map(lambda field: field[m], laid_out)
        zero = jax.tree.map(jnp.zeros_like, learner.params)
        old = rows.actions if scored is None else scored[m]
        gradient, (scores, metrics) = jax.lax.scan(
            partial(add_chunk, scoring, learner.params), zero, (rows, old)
        )
        moved, finite = apply_gradient(learner, gradient, optimizer)
        if scored is not None:
            moved, finite = keep_if(scoring, learner, moved), finite | scoring
            scored = scored.at[m].set(jnp.where(scoring, scores, scored[m]))
        over_chunks = {n: jnp.max if n in _LARGEST else partial(jnp.sum, axis=0) for n in metrics}
        metrics = {name: over_chunks[name](values) for name, values in metrics.items()}
        metrics["policy/gradient_norm"] = optax.tree.norm(gradient)
        return (moved, scored), (finite, metrics)

    (learner, scored), (finite, history) = jax.lax.scan(body, (learner, scored), (which, scoring))
    if scored is not None:
        history = jax.tree.map(lambda values: values[update.minibatches :], history)
    metrics = {name: jnp.mean(values, axis=0) for name, values in history.items()}
    metrics |= {name: history[name][0] for name in _OF_FIRST if name in history}
    if scored is not None:
        metrics |= _rollout_deviation(laid_out, scored, total * update.minibatches)
    return learner, jnp.all(finite), _by_step(metrics)


_LARGEST = ("ratio/max_deviation", "ratio/rollout_deviation")
_OF_FIRST = (*_LARGEST, "ratio/rollout_deviation_mean")


def _pieces(key: Array, transitions: Transitions, update: PolicyUpdate) -> Transitions:
    """Return the transitions laid out, every field (minibatches, chunks, rows, ...)."""
    batch, steps = transitions.advantages.shape
    pieces = update.minibatches * update.chunks
    as_rolled_out = update.old == "rollout" and pieces == steps
    order = minibatch_order(key, batch, steps, pieces, shifted=not as_rolled_out)
    laid_out = lay_out(transitions, order)
    if as_rolled_out:
        kernel, number = jax.tree.map(lambda field: field[:, 0], (laid_out.kernel, laid_out.number))
        laid_out = laid_out._replace(times=laid_out.times[:, 0], kernel=kernel, number=number)
    return jax.tree.map(
        lambda field: field.reshape(update.minibatches, update.chunks, *field.shape[1:]), laid_out
    )


def _passes(key: Array, actions: Array, update: PolicyUpdate):
    """Return the minibatch of every pass, whether it only scores, and where scores are stored."""
    passes = minibatch_passes(key, update.minibatches, update.epochs)
    if update.old == "rollout":
        return passes, None, None
    which = jnp.concatenate([jnp.arange(update.minibatches), passes])
    return which, jnp.arange(which.shape[0]) < update.minibatches, jnp.zeros_like(actions)


def _loss(surrogate: Surrogate, update: PolicyUpdate, steps, penalty, total, score, rows, old):
    log_ratio = -girsanov.log_ratio(rows.kernel, rows.noise, old, score)
    share = rows.weights / total
    rows = rows._replace(actions=old)
    losses = surrogate.loss(rows, score, log_ratio)
    if rows.reference is not None:
        losses = losses + penalty * girsanov.kl_rate(rows.kernel.kl_rate, score, rows.reference)
    loss = jnp.sum(share * losses)
    ratio = jnp.exp(log_ratio)
    metrics = {
        "policy/loss": loss,
        "policy/approx_kl": jnp.sum(share * (ratio - 1 - log_ratio)),
        "ratio/max_deviation": jnp.max(jnp.abs(ratio - 1)),
    }
    beyond = None if surrogate.clip is None else jnp.abs(ratio - 1) > surrogate.clip
    if beyond is not None:
        metrics["ppo/clip_fraction"] = jnp.sum(share * beyond)
    if update.old == "rollout":
        metrics["ratio/rollout_deviation"] = jnp.max(jnp.abs(log_ratio))
        metrics["ratio/rollout_deviation_mean"] = jnp.sum(share * jnp.abs(log_ratio))
    if (bound := surrogate.bound) is not None:
        left = policy.leaves(log_ratio, rows.advantages, _moved(rows, score), bound=bound)
        metrics["ppo/mask_fraction"] = jnp.sum(share * left)
    if update.per_step:
        here = rows.number.reshape(1, -1) == jnp.arange(steps)[:, None]
        each = {"ratio/step_": jnp.abs(ratio - 1)} | (
            {} if beyond is None else {"ppo/clip_fraction/step_": beyond}
        )
        # Of a whole pass, the mean of each step.
        metrics |= {n: steps * jnp.sum(here * (share * v)[None], axis=1) for n, v in each.items()}
    return loss, metrics


def _blank_metrics(surrogate, update, steps):
    names = ["policy/loss", "policy/approx_kl", "ratio/max_deviation"]
    names += [] if surrogate.clip is None else ["ppo/clip_fraction"]
    names += [] if surrogate.bound is None else ["ppo/mask_fraction"]
    blank = dict.fromkeys(names, jnp.zeros(()))
    if update.per_step:
        names = ["ratio/step_"]
        names += [] if surrogate.clip is None else ["ppo/clip_fraction/step_"]
        blank |= dict.fromkeys(names, jnp.zeros(steps))
    return blank


def _by_step(metrics: Metrics) -> Metrics:
    """Return metrics of every step as one number each, by the number of the step."""
    found = {}
    for name, values in metrics.items():
        if values.ndim == 0:
            found[name] = values
        else:
            found |= {f"{name}{i:03d}": value for i, value in enumerate(values)}
    return found


def _rollout_deviation(laid_out, scored, total) -> Metrics:
    """|log-prob of a stored step as scored here - as the rollout drew it|, largest and mean."""
    deviation = jax.vmap(jax.vmap(girsanov.log_ratio))(
        laid_out.kernel, laid_out.noise, laid_out.actions, scored
    )
    return {
        "ratio/rollout_deviation": jnp.max(jnp.abs(deviation)),
        "ratio/rollout_deviation_mean": jnp.sum(laid_out.weights * jnp.abs(deviation)) / total,
    }
