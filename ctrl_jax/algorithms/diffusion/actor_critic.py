r"""One step of fine-tuning, for any surrogate and any advantage.

Roll out the policy, score the end states, evaluate the critic, estimate advantages, take minibatch
updates of the policy, fit the critic: one pure function of state and batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import (
    Algorithm,
    Learner,
    count_skips,
    move_average,
    skip_metrics,
    start_learner,
    weighted_mean,
)
from ctrl_jax.algorithms.diffusion.critic import (
    Critic,
    evaluate_critic,
    explained_variance,
    fit_critic,
    remove_martingale,
)
from ctrl_jax.algorithms.diffusion.policy_update import (
    Passes,
    Surrogate,
    Transitions,
    update_policy,
)
from ctrl_jax.algorithms.diffusion.problem import Batch, DiffusionControl, Rollout, roll_out
from ctrl_jax.losses import advantage


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """How one batch of trajectories is used.

    Args:
        epochs: policy passes over the transitions.
        minibatches: policy updates per pass; divides the number of solver steps.
        chunks: pieces that each policy minibatch is computed in, their gradients added up;
            minibatches * chunks divides the number of solver steps.
        value_epochs: value passes over the transitions.
        value_minibatches: value updates per pass, at most the number of solver steps + 1.
        trace: in [0, 1], decay of (1): 0 trusts the value network, 1 the trajectory.
        clip: half-width of PPO's interval for the ratio of a step.
        average_decay: decay per step of the moving average of the policy's parameters; 0 for none.
        control_variate: whether PPO takes what the critic predicts of the advantage out of the
            ratio's noise and adds its exact gradient instead.
    """

    epochs: int = 1
    minibatches: int = 5
    chunks: int = 1
    value_epochs: int = 2
    value_minibatches: int = 5
    trace: float = 0.9
    clip: float = 0.2
    average_decay: float = 0.0
    control_variate: bool = True

    def __post_init__(self):
        for name in ("epochs", "minibatches", "chunks", "value_epochs", "value_minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("trace", "average_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}.")


DEFAULT_UPDATE = UpdateConfig()


class ControlState(NamedTuple):
    """State of a fine-tuning run.

    Fields:
        key: PRNG key of the next step.
        update: number of steps taken.
        policy: policy parameters and optimizer.
        value: value parameters and optimizer; None without a value network.
        average: moving average of the policy's parameters.
        reference: parameters of the reference score.
        skipped: steps whose update was not finite.
        skipped_in_a_row: the same since the last finite one.
    """

    key: Array
    update: Int[Array, ""]
    policy: Learner
    value: Learner | None
    average: Any
    reference: Any
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


AdvantageFn = Callable[[Rollout, Array | None, Batch], Array]
"""``advantage(rollout, values, batch)`` returns (steps, batch)."""


def make_control(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    surrogate: Surrogate,
    *,
    critic: Critic | None,
    config: UpdateConfig,
    advantage_fn: AdvantageFn | None = None,
    clip: float | None = None,
) -> Algorithm:
    """Return the algorithm of this module's page for any surrogate and advantage.

    Args:
        problem: what to control.
        policy_model: the acting score.
        optimizer: of the policy.
        surrogate: per-row policy loss.
        critic: value network; None for algorithms without one.
        config: how a batch is used.
        advantage_fn: the advantage of every step; (1) by default.
        clip: where the surrogate clips ratios, if it does; for the metric ppo/clip_fraction.

    Raises:
        ValueError: minibatches do not divide the solver steps.
    """
    _check_minibatches(problem, config)

    def default_advantage(rollout, values, batch):
        running = -problem.penalty * rollout.kl
        return advantage.generalized(values, running, rollout.rewards, trace=config.trace)

    advantage_fn = advantage_fn or default_advantage

    def init(key: Array) -> ControlState:
        key, policy_key, value_key, reference_key = jax.random.split(key, 4)
        # Every leaf is a buffer of its own, so that the state can be donated.
        params = jax.tree.map(jnp.copy, policy_model.init(policy_key))
        return ControlState(
            key=key,
            update=jnp.zeros((), jnp.int32),
            policy=start_learner(params, optimizer),
            value=critic and start_learner(critic.model.init(value_key), critic.optimizer),
            average=jax.tree.map(jnp.copy, params),
            reference=jax.tree.map(jnp.copy, problem.reference.init(reference_key)),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
        )

    def step(state: ControlState, batch: Batch) -> tuple[ControlState, dict[str, Array]]:
        key, rollout_key, policy_key, value_key = jax.random.split(state.key, 4)
        rollout = roll_out(
            rollout_key, problem, policy_model, state.policy.params, state.reference, batch
        )
        values, gradients = None, None
        if critic is not None:
            assert state.value is not None
            evaluated = evaluate_critic(critic, state.value, problem, rollout, batch)
            values, gradients = evaluated.values, evaluated.gradients
        advantages = advantage_fn(rollout, values, batch)
        if critic is not None and critic.gradient_at == "mean":
            advantages = remove_martingale(advantages, evaluated, problem, rollout)
        learner, metrics = update_policy(
            policy_key,
            policy_model,
            state.policy,
            optimizer,
            _transitions(problem, rollout, advantages, gradients, batch),
            surrogate,
            problem.penalty,
            Passes(config.epochs, config.minibatches, config.chunks, clip),
        )
        value_learner = state.value
        if critic is not None:
            value_learner, value_metrics = fit_critic(
                value_key, critic, state.value, problem, rollout, evaluated, batch, config
            )
            finite = jnp.minimum(metrics["update/finite"], value_metrics.pop("value/finite"))
            metrics = {**metrics, **value_metrics, "update/finite": finite}
            metrics["value/explained_variance"] = explained_variance(
                problem, rollout, values, batch
            )
        skips = count_skips(state, metrics["update/finite"])
        moved = ControlState(
            key=key,
            update=state.update + 1,
            policy=learner,
            value=value_learner,
            average=move_average(state.average, learner.params, config.average_decay),
            reference=state.reference,
            **skips,
        )
        metrics |= skip_metrics(skips)
        return moved, {**_rollout_metrics(problem, rollout, batch), **metrics}

    return Algorithm(init, step)


def _transitions(problem, rollout, advantages, gradients, batch) -> Transitions:
    def batch_major(array):
        return jnp.swapaxes(array, 0, 1)

    return Transitions(
        times=problem.forward_times()[:-1],
        kernel=problem.kernel(),
        states=batch_major(rollout.states[:-1]),
        noise=batch_major(rollout.noise),
        actions=batch_major(rollout.actions),
        reference=batch_major(rollout.reference),
        advantages=batch_major(advantages),
        gradients=None if gradients is None else batch_major(gradients),
        weights=batch.weights,
        conditions=batch.conditions,
    )


def _rollout_metrics(problem, rollout, batch):
    reward = weighted_mean(rollout.rewards, batch.weights)
    spread = weighted_mean((rollout.rewards - reward) ** 2, batch.weights)
    path_kl = weighted_mean(jnp.sum(rollout.kl, axis=0), batch.weights)
    moved = rollout.ok | (batch.weights == 0)
    return {
        "reward/mean": reward,
        "reward/std": jnp.sqrt(spread),
        "states/finite": jnp.all(moved),
        # Of a state that is not finite the reward may say anything.
        "reward/finite": jnp.all(jnp.isfinite(rollout.rewards) | ~rollout.ok),
        "kl/path": path_kl,
        "objective": reward - problem.penalty * path_kl,
    }


def _check_minibatches(problem, config):
    if problem.steps % (config.minibatches * config.chunks):
        raise ValueError(
            "minibatches must divide the solver steps, and minibatches * chunks too, got "
            f"{config.minibatches} * {config.chunks} for {problem.steps} steps; choose divisors."
        )
    if config.value_minibatches > problem.steps + 1:
        raise ValueError(
            f"value_minibatches must be at most the {problem.steps + 1} grid points, got "
            f"{config.value_minibatches}."
        )
