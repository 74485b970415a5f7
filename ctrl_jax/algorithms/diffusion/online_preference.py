r"""Preference optimization of a diffusion model, online: its own paths, compared in pairs.

One step draws for every prompt two paths from the same start, asks an annotator which end is
better, and descends a preference loss of the log-ratios of the paths,

    E loss(rho_w, rho_l),  rho = log dP_theta/dP_pre of a path (`losses.path_log_ratio`).    (1)

Under the annotator of Bradley and Terry, P(first wins) = sigmoid(R(x) - R(x')), and DPO's loss
-log sigmoid(beta (rho_w - rho_l)) the minimum is beta rho = R + const for the paths of one start,
whatever law the pairs were drawn from: the law of paths of the penalized control problem,

    dP* ~ e^{R/lambda} dP_pre given the start,   lambda = beta,                              (2)

the same optimum that `actor_critic` has. Two starts would spoil it: the constant of (2) depends
on the start. Mallows-theta has lambda = c beta, c = -2 log phi. Nothing is learned but the policy:
there is no value and no reward model, and the annotator may be anybody. Pairs of data, not of own
paths: `offline_preference`.

Source: arXiv 2305.18290 (DPO), 2405.14953 (Mallows), 2409.08400 (2); on diffusion paths, ours.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import check_count, check_decay, refuse
from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import (
    Metrics,
    RunState,
    apply_gradient,
    finish,
    pair_metrics,
    start,
    weighted_means,
)
from ctrl_jax.algorithms.diffusion.actor_critic import Control
from ctrl_jax.algorithms.diffusion.problem import (
    Batch,
    DiffusionControl,
    Rollout,
    along_path,
    compare_paths,
    mask_rewards,
    path_metrics,
    roll_out,
)
from ctrl_jax.losses import path_log_ratio

ROUNDING = 1e-6  # nats

PairLoss = Callable[[Array, Array, Batch], Array]
"""``loss(log_ratio_chosen, log_ratio_rejected, batch)`` returns one loss per pair, for instance
``lambda chosen, rejected, batch: preference.dpo(chosen, rejected, beta=0.1)``."""

Annotator = Callable[[Array, Array, Array, Batch], Array]
"""``annotator(key, reward_first, reward_second, batch)`` says whether the first end wins."""


@dataclasses.dataclass(frozen=True)
class PreferenceUpdate:
    """How one batch of pairs is used.

    Args:
        epochs: updates on the same pairs.
        average_decay: decay per step of the moving average of the policy's parameters; 0 for none.
    """

    epochs: int = 1
    average_decay: float = 0.0

    def __post_init__(self):
        check_count("epochs", self.epochs)
        check_decay("average_decay", self.average_decay)


DEFAULT_PREFERENCE_UPDATE = PreferenceUpdate()


def bradley_terry(
    key: Array, first: Float[Array, " batch"], second: Float[Array, " batch"], batch: Batch
) -> Bool[Array, " batch"]:
    """Return whether the first end wins, which it does with probability sigmoid(first - second).

    Args:
        key: PRNG key.
        first: rewards of the first ends, in units of the annotator's noise.
        second: rewards of the second ends.
        batch: what was asked; not looked at.
    """
    return jax.random.bernoulli(key, jax.nn.sigmoid(first - second))


def make_online_preference(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    loss_fn: PairLoss,
    *,
    annotator: Annotator = bradley_terry,
    config: PreferenceUpdate = DEFAULT_PREFERENCE_UPDATE,
) -> Control:
    """Return preference optimization on own paths; its batch is a `Batch`, a row for each pair.

    For every prompt two paths from one start are drawn and compared, and a preference loss of their
    log-ratios log dP_theta/dP_pre is descended. Under DPO and annotators of Bradley and Terry the
    optimum is the law e^{R/beta} dP_pre of the paths given their start. `collect` returns the two
    rollouts of every pair, and `learn` takes the rewards of both, arrays (batch,): what the
    annotator sees.

    Args:
        problem: what to control; its penalty counts in the metric "objective" only.
        policy_model: the acting model, of the problem's prediction; its ``init`` returns the
            pretrained parameters.
        optimizer: of the policy.
        loss_fn: ``loss_fn(log_ratio_chosen, log_ratio_rejected, batch)`` returns one loss per pair,
            for instance ``lambda w, l, batch: preference.dpo(w, l, beta=0.1)``.
        annotator: ``annotator(key, reward_first, reward_second, batch)`` says whether the first end
            wins; of Bradley and Terry by default.
        config: how a batch is used.

    Raises:
        ValueError: the problem has a window, outside of which paths have no density.

    Source: arXiv 2305.18290 (DPO), 2405.14953 (Mallows); on diffusion paths, ours.
    """
    if problem.window is not None:
        rule = "the ratio of whole paths needs noise in every step"
        raise refuse("problem.window", problem.window, rule, "leave it out, or take make_grpo")

    def init(key: Array) -> RunState:
        policy, averaged = (policy_model.init, optimizer.init), config.average_decay > 0
        return start(key, {"policy": policy}, reference=problem.reference.init, averaged=averaged)

    def collect(state: RunState, batch: Batch) -> tuple[Rollout, Rollout]:
        _, start_key, path_key, _ = jax.random.split(state.key, 4)
        x_0 = problem.start(start_key, batch)

        def draw(i):
            key, params = jax.random.fold_in(path_key, i), state.policy.params
            acted = (problem, policy_model, params, state.reference, batch)
            # What learns evaluates the reference.
            return roll_out(key, *acted, x_0=x_0, compare=False)

        return draw(0), draw(1)

    def learn(state: RunState, rollouts: tuple[Rollout, Rollout], rewards):
        key, _, _, annotator_key = jax.random.split(state.key, 4)
        first, second = rollouts
        batch, ends = first.batch, (first.states[-1], second.states[-1])
        one, two = (mask_rewards(r, x, batch) for r, x in zip(rewards, ends, strict=True))
        scored = jax.tree.map(lambda *pair: jnp.stack(pair, axis=1), one, two)
        first_wins = annotator(annotator_key, one.values, two.values, batch)
        compared = [compare_paths(problem, state.reference, rollout) for rollout in rollouts]
        log_ratios = partial(_log_ratios, problem, policy_model)

        def objective(params):
            one, two = log_ratios(params, compared)
            chosen, rejected = jnp.where(first_wins, one, two), jnp.where(first_wins, two, one)
            metrics = pair_metrics(chosen, rejected) | {"loss": loss_fn(chosen, rejected, batch)}
            metrics = weighted_means(metrics, batch.weights)
            return metrics["loss"], metrics

        def update(learner, _):
            gradient, metrics = jax.grad(objective, has_aux=True)(learner.params)
            learner, finite = apply_gradient(learner, gradient, optimizer)
            return learner, (finite, metrics | {"gradient_norm": optax.tree.norm(gradient)})

        learner, (finite, history) = jax.lax.scan(update, state.policy, length=config.epochs)
        # The metrics of the first pass.
        metrics = {name: values[0] for name, values in history.items()}
        kl = jnp.stack([rollout.path_kl for rollout in compared], axis=1)
        failed_at = jnp.stack([rollout.failed_at for rollout in rollouts], axis=1)
        metrics |= path_metrics(problem, scored, kl, failed_at, batch)
        decay = config.average_decay
        state, counts = finish(state, key, {"policy": learner}, jnp.all(finite), decay=decay)
        return state, metrics | counts

    def step(state: RunState, batch: Batch) -> tuple[RunState, Metrics]:
        rollouts = collect(state, batch)
        return learn(state, rollouts, [problem.scored(rollout) for rollout in rollouts])

    return Control(init, step, collect, learn)


def _log_ratios(
    problem: DiffusionControl, policy_model: Model, params, rollouts: Sequence[Rollout]
) -> list[Float[Array, " batch"]]:
    """Return rho of every path of rollouts of one batch, whose steps are evaluated together."""
    times = jnp.tile(problem.forward_times()[:-1], len(rollouts))
    states = jnp.concatenate([rollout.states[:-1] for rollout in rollouts])
    predict = jax.checkpoint(partial(policy_model.apply, params))
    batch = rollouts[0].batch
    score = along_path(predict, times, states, batch, rows=problem.together)
    parts = zip(rollouts, jnp.split(score, len(rollouts)), strict=True)
    return [_log_ratio(problem, rollout, part) for rollout, part in parts]


def _log_ratio(
    problem: DiffusionControl, rollout: Rollout, score: Float[Array, "steps batch ..."]
) -> Float[Array, " batch"]:
    """Return rho of every path, 0 where nothing but rounding tells the two scores apart."""
    assert rollout.reference is not None
    kernel = problem.kernel()
    # Where the gain is negative, the noise in units of the action is the negative.
    noise = expand(jnp.sign(kernel.action_gain), rollout.noise) * rollout.noise
    terms = path_log_ratio.of_steps(
        kernel.kl_rate, noise, rollout.actions, score, rollout.reference
    )
    rho = jnp.sum(terms, axis=0)
    # At the pretrained policy the sign of rounding would choose a side of the exact link's jump.
    rounding = jnp.where(jnp.abs(rho) < ROUNDING, rho, 0.0)
    return rho - jax.lax.stop_gradient(rounding)
