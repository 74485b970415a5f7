r"""Little q-learning of a reward-directed sampler, with or without a pretrained score (2409.04832).

One step: a batch of episodes under the current Gaussian policy, an estimate of the score at every
state, and the moment updates of `q_residuals` for the mean of the policy and for the value. Both
are learned from the same martingale, which holds under any behavior policy, so a batch may be used
for several updates (`epochs`) without importance ratios. With `online` the two are updated after
every step of the episodes, as time goes on, and nothing is stored.

The problem is `reward_direction.RewardDirection`. Its score is an estimate from data points, or a
function, a pretrained network say, and then this is a fine-tuner. All of a step is one pure
function of state and batch.
"""

import dataclasses
from functools import partial
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
from ctrl_jax.algorithms.diffusion.problem import Batch
from ctrl_jax.algorithms.q_learning.episodes import Episodes, penalty_rates
from ctrl_jax.algorithms.q_learning.problem import RewardDirection
from ctrl_jax.algorithms.q_learning.residuals import ActorCritic, Estimator
from ctrl_jax.algorithms.q_learning.updates import Learners


@dataclasses.dataclass(frozen=True)
class QLearningConfig:
    """How a batch of episodes is used.

    Args:
        online: update after every step of the episodes, not after the last.
        epochs: updates per batch of whole episodes; 1 for `online`.
        estimator: which known noise is removed from the updates, `q_residuals`.
        trace: in [0, 1], decay of (1) there; 0 for `online`.
        average_decay: decay per step of the moving average of the policy's parameters; 0 for none.
    """

    online: bool = False
    epochs: int = 1
    estimator: Estimator = "gradient"
    trace: float = 0.0
    average_decay: float = 0.0

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}.")
        if self.estimator not in ("difference", "pathwise", "gradient"):
            raise ValueError(
                f"estimator must be difference, pathwise or gradient, got {self.estimator!r}."
            )
        for name in ("trace", "average_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.online and (self.epochs, self.trace) != (1, 0.0):
            raise ValueError(
                "online updates see each transition once: epochs must be 1 and trace 0, got "
                f"{self.epochs} and {self.trace}."
            )


DEFAULT_Q_LEARNING = QLearningConfig()


class QLearningState(NamedTuple):
    """State of a run.

    Fields:
        key: PRNG key of the next step.
        update: number of steps taken.
        policy: parameters of the mean and their optimizer.
        value: parameters of J and their optimizer.
        average: moving average of the policy's parameters.
        skipped: steps with an update that was not finite.
        skipped_in_a_row: the same since the last finite one.
    """

    key: Array
    update: Int[Array, ""]
    policy: Learner
    value: Learner
    average: Any
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def make_q_learning(
    problem: RewardDirection,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    config: QLearningConfig = DEFAULT_Q_LEARNING,
) -> Algorithm:
    """Return actor-critic little q-learning; its batch is a `Batch`.

    Args:
        problem: what is maximized.
        policy_model: the mean of the action, ``apply(params, t, x, *conditions)``; after training
            it is the score of the sampler.
        value_model: J(t, x, *conditions), in units of w h, one value per example.
        optimizer: of the policy.
        value_optimizer: of the value.
        config: how a batch is used.
    """
    models = ActorCritic(policy_model, value_model, config.estimator, config.trace)
    learners = Learners(problem, models, optimizer, value_optimizer)
    collect = learners.online if config.online else partial(learners.whole, epochs=config.epochs)

    def init(key: Array) -> QLearningState:
        key, policy_key, value_key = jax.random.split(key, 3)
        # Every leaf is a buffer of its own, so that the state can be donated.
        params = jax.tree.map(jnp.copy, policy_model.init(policy_key))
        value_params = jax.tree.map(jnp.copy, value_model.init(value_key))
        update, skipped, in_a_row = (jnp.zeros((), jnp.int32) + 0 for _ in range(3))
        return QLearningState(
            key=key,
            update=update,
            policy=start_learner(params, optimizer),
            value=start_learner(value_params, value_optimizer),
            average=jax.tree.map(jnp.copy, params),
            skipped=skipped,
            skipped_in_a_row=in_a_row,
        )

    def step(state: QLearningState, batch: Batch) -> tuple[QLearningState, dict[str, Array]]:
        key, path_key = jax.random.split(state.key)
        (policy, value), episodes, metrics = collect(path_key, state.policy, state.value, batch)
        skips = count_skips(state, metrics["update/finite"])
        moved = QLearningState(
            key=key,
            update=state.update + 1,
            policy=policy,
            value=value,
            average=move_average(state.average, policy.params, config.average_decay),
            **skips,
        )
        metrics |= skip_metrics(skips)
        return moved, {**_episode_metrics(problem, episodes, batch), **metrics}

    return Algorithm(init, step)


def _episode_metrics(problem: RewardDirection, episodes: Episodes, batch: Batch):
    """Return the reward, the penalty that the actions paid, and flags.

    The action's noise pays theta d/2 per unit of time whatever its mean, and is left out.
    """
    steps, moved = problem.coefficients(), episodes.transitions
    paid = penalty_rates(steps.rate, moved, moved.actions)
    noise = problem.temperature * moved.states[0, 0].size * jnp.sum(steps.dt) / 2
    penalty = weighted_mean(steps.dt @ paid, batch.weights) - noise
    value = weighted_mean(episodes.values, batch.weights)
    reward = value / problem.weight
    spread = weighted_mean((episodes.values / problem.weight - reward) ** 2, batch.weights)
    return {
        "reward/mean": reward,
        "reward/std": jnp.sqrt(spread),
        "penalty": penalty,
        "objective": value - penalty,
        "states/finite": jnp.all(episodes.ok | (batch.weights == 0)),
        "reward/finite": jnp.all(jnp.isfinite(episodes.values) | ~episodes.ok),
    }
