r"""Fine-tuning a diffusion model by continuous-time RL, the score as the action (2409.08400).

One step: roll out the policy, score the end states, estimate the advantage of every transition from
a value network, take minibatch updates of the policy with the penalty acting directly through the
mean, then fit the value network,

    A_i = \sum_k trace^k [V(t_{i+k+1}, x_{i+k+1}) - lambda KL_{i+k} - V(t_{i+k}, x_{i+k})],    (1)
    policy:  E \sum_i [surrogate(ratio_i, A_i) + lambda KL_i(mu_theta)],                        (2)
    value:   E \sum_i (R - lambda \sum_{j>=i} KL_j - V(t_i, x_i))^2 / 2.                        (3)

(1) with (2) is the exact gradient of the penalised objective for the chain: KL_i inside (1) is the
price of the future, KL_i in (2) the direct derivative. All of it is one pure function.

The algorithms differ in the surrogate and in the advantage: `make_ppo` (clipped ratio),
`make_policy_gradient` (score function), `make_value_gradient` (q is linear in the action, so its
gradient is \nabla V), and in `ddpo.py` the two that use terminal rewards only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import (
    Algorithm,
    Learner,
    apply_gradient,
    keep_if,
    move_average,
    start_learner,
    weighted_mean,
)
from ctrl_jax.algorithms.diffusion_control import Batch, DiffusionControl, Rollout, roll_out
from ctrl_jax.algorithms.policy_update import (
    Surrogate,
    Transitions,
    minibatch_indices,
    update_policy,
)
from ctrl_jax.losses import advantage, policy, value


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """How one batch of trajectories is used.

    Args:
        epochs: policy passes over the transitions.
        minibatches: policy updates per pass; divides the number of solver steps.
        value_epochs: value passes over the transitions.
        value_minibatches: value updates per pass, at most the number of solver steps + 1.
        trace: in [0, 1], decay of (1): 0 trusts the value network, 1 the trajectory.
        clip: half-width of PPO's interval for the ratio of a step.
        average_decay: decay per step of the moving average of the policy's parameters; 0 for none.
    """

    epochs: int = 1
    minibatches: int = 5
    value_epochs: int = 2
    value_minibatches: int = 5
    trace: float = 0.9
    clip: float = 0.2
    average_decay: float = 0.0

    def __post_init__(self):
        for name in ("epochs", "minibatches", "value_epochs", "value_minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("trace", "average_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}.")


class ControlState(NamedTuple):
    """State of a fine-tuning run.

    Fields:
        key: PRNG key of the next step.
        update: number of steps taken.
        policy: policy parameters and optimiser.
        value: value parameters and optimiser; None without a value network.
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


def make_ppo(
    problem: DiffusionControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    config: UpdateConfig = UpdateConfig(),
) -> Algorithm:
    """Return continuous-time PPO: clipped ratios of transitions with the advantage (1).

    Args:
        problem: what to control.
        policy_model: the acting score; its ``init`` returns the pretrained parameters.
        value_model: V(t, x, *conditions), one value per example.
        optimizer: of the policy.
        value_optimizer: of the value.
        config: how a batch is used.

    Returns:
        The algorithm; its batch is a `Batch`.
    """

    def surrogate(rows, score, log_ratio):
        return policy.clipped_surrogate(log_ratio, rows.advantages, clip=config.clip)

    return make_control(
        problem,
        policy_model,
        optimizer,
        surrogate,
        critic=Critic(value_model, value_optimizer),
        config=config,
    )


def make_policy_gradient(
    problem: DiffusionControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    config: UpdateConfig = UpdateConfig(),
) -> Algorithm:
    """Return plain continuous-time policy gradient with the advantage (1); arguments as `make_ppo`."""

    def surrogate(rows, score, log_ratio):
        return policy.policy_gradient(log_ratio, rows.advantages)

    return make_control(
        problem,
        policy_model,
        optimizer,
        surrogate,
        critic=Critic(value_model, value_optimizer),
        config=config,
    )


def make_value_gradient(
    problem: DiffusionControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    config: UpdateConfig = UpdateConfig(),
) -> Algorithm:
    """Return the form <grad V, dX>: no action noise in the gradient; arguments as `make_ppo`."""

    def surrogate(rows, score, log_ratio):
        return policy.value_gradient(rows.kernel.mean(rows.states, score), rows.gradients)

    return make_control(
        problem,
        policy_model,
        optimizer,
        surrogate,
        critic=Critic(value_model, value_optimizer, with_gradient=True),
        config=config,
    )


class Critic(NamedTuple):
    """A value network, its optimiser, and whether the policy loss needs its gradient in x."""

    model: Model
    optimizer: optax.GradientTransformation
    with_gradient: bool = False


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
        values, gradients = _evaluate_critic(critic, state.value, problem, rollout, batch)
        advantages = advantage_fn(rollout, values, batch)
        learner, metrics = update_policy(
            policy_key,
            policy_model,
            state.policy,
            optimizer,
            _transitions(problem, rollout, advantages, gradients, batch),
            surrogate,
            penalty=problem.penalty,
            epochs=config.epochs,
            minibatches=config.minibatches,
        )
        value_learner = state.value
        if critic is not None:
            value_learner, value_metrics = _fit_value(
                value_key, critic, state.value, problem, rollout, batch, config
            )
            finite = jnp.minimum(metrics["update/finite"], value_metrics.pop("value/finite"))
            metrics = {**metrics, **value_metrics, "update/finite": finite}
            metrics["value/explained_variance"] = _explained(problem, rollout, values)
        skipped = (metrics["update/finite"] < 1).astype(jnp.int32)
        in_a_row = jnp.where(skipped > 0, state.skipped_in_a_row + 1, 0)
        moved = ControlState(
            key=key,
            update=state.update + 1,
            policy=learner,
            value=value_learner,
            average=move_average(state.average, learner.params, config.average_decay),
            reference=state.reference,
            skipped=state.skipped + skipped,
            skipped_in_a_row=in_a_row,
        )
        metrics["update/skipped_in_a_row"] = in_a_row
        return moved, {**_rollout_metrics(problem, rollout, batch), **metrics}

    return Algorithm(init, step)


def _evaluate_critic(critic, learner, problem, rollout, batch):
    """Values at t_0 .. t_{n-1} and, where asked for, gradients at t_1 .. t_n; time-major."""
    if critic is None:
        return None, None

    def evaluate(inputs):
        t, x = inputs
        return critic.model.apply(learner.params, t, x, *batch.conditions)

    def gradient(inputs):
        t, x = inputs
        return jax.grad(
            lambda x: jnp.sum(critic.model.apply(learner.params, t, x, *batch.conditions))
        )(x)

    times = problem.forward_times()
    values = jax.lax.map(evaluate, (times[:-1], rollout.states[:-1]))
    if not critic.with_gradient:
        return values, None
    return values, jax.lax.map(gradient, (times[1:], rollout.states[1:]))


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


def _returns(problem, rollout) -> Float[Array, "steps+1 batch"]:
    """Penalised return from every grid point on; the last is the reward."""
    to_go = advantage.returns_to_go(-problem.penalty * rollout.kl, rollout.rewards)
    return jnp.concatenate([to_go, rollout.rewards[None]])


def _fit_value(key, critic, learner, problem, rollout, batch, config):
    """Minimise (3) over minibatches of the grid points of every trajectory."""
    states = jnp.swapaxes(rollout.states, 0, 1)
    returns = jnp.swapaxes(_returns(problem, rollout), 0, 1)
    times = problem.forward_times()
    index = minibatch_indices(
        key,
        *returns.shape,
        epochs=config.value_epochs,
        minibatches=config.value_minibatches,
    )
    share = batch.weights / jnp.sum(batch.weights)

    def loss_fn(params, index):
        k = index.shape[1]
        x = jax.vmap(lambda row, i: row[i])(states, index)
        target = jnp.take_along_axis(returns, index, axis=1).reshape(-1)
        conditions = tuple(jnp.repeat(c, k, axis=0) for c in batch.conditions)
        rows = x.reshape(-1, *x.shape[2:])
        predicted = critic.model.apply(params, times[index.reshape(-1)], rows, *conditions)
        weights = jnp.repeat(share / k, k, axis=0)
        return jnp.sum(value.martingale(predicted, target, weights=weights))

    def body(learner, index):
        loss, gradient = jax.value_and_grad(loss_fn)(learner.params, index)
        learner, finite = apply_gradient(learner, gradient, critic.optimizer)
        return learner, (loss, finite)

    learner, (losses, finite) = jax.lax.scan(body, learner, index)
    metrics = {"value/loss": jnp.mean(losses), "value/finite": jnp.min(finite.astype(losses.dtype))}
    return learner, metrics


def _explained(problem, rollout, values):
    returns = _returns(problem, rollout)[:-1]
    return 1 - jnp.var(returns - values) / jnp.maximum(jnp.var(returns), 1e-12)


def _rollout_metrics(problem, rollout, batch):
    reward = weighted_mean(rollout.rewards, batch.weights)
    spread = weighted_mean((rollout.rewards - reward) ** 2, batch.weights)
    path_kl = weighted_mean(jnp.sum(rollout.kl, axis=0), batch.weights)
    return {
        "reward/mean": reward,
        "reward/std": jnp.sqrt(spread),
        "reward/finite": jnp.all(rollout.ok | (batch.weights == 0)),
        "kl/path": path_kl,
        "objective": reward - problem.penalty * path_kl,
    }


def _check_minibatches(problem, config):
    if problem.steps % config.minibatches:
        raise ValueError(
            f"minibatches must divide the solver steps, got {config.minibatches} for "
            f"{problem.steps} steps; choose a divisor of {problem.steps}."
        )
    if config.value_minibatches > problem.steps + 1:
        raise ValueError(
            f"value_minibatches must be at most the {problem.steps + 1} grid points, got "
            f"{config.value_minibatches}."
        )
