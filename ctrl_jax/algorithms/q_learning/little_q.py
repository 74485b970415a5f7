r"""Little q-learning of a reward-directed sampler, with or without a pretrained score (2409.04832).

One step: a batch of episodes under the current Gaussian policy, an estimate of the score at every
state, and the moment updates of `residuals` for the mean of the policy and for the value. Both
are learned from the same martingale, which holds under any behavior policy, so a batch may be used
for several updates (`epochs`) without importance ratios. With `online` the two are updated after
every step of the episodes, as time goes on, and nothing is stored.

The problem is `RewardDirection`. Its score is an estimate from data points, or a
function, a pretrained network say, and then this is a fine-tuner. All of a step is one pure
function of state and batch.
"""

import dataclasses
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ctrl_jax._checks import check_choice, check_count, check_decay, check_fraction, check_unused
from ctrl_jax._typing import Model, Rewards
from ctrl_jax.algorithms.base import Algorithm, Metrics, RunState, finish, start, weighted_mean
from ctrl_jax.algorithms.diffusion.problem import Batch, reward_metrics, terminal_rewards
from ctrl_jax.algorithms.q_learning.episodes import Episodes, penalty_rates
from ctrl_jax.algorithms.q_learning.problem import RewardDirection
from ctrl_jax.algorithms.q_learning.residuals import ActorCritic, Estimator
from ctrl_jax.algorithms.q_learning.updates import EpisodeUpdates


@dataclasses.dataclass(frozen=True)
class QLearningConfig:
    r"""How a batch of episodes is used.

    With the value J, the policy pi = N(mu, theta/(2 g^2) I) and q = theta log pi, the updates move
    along

        value:   \sum_i A_i \nabla J_i + (w h(x_n) - J_n) \nabla J_n,
        policy:  \sum_i A_i \nabla log pi_i,
        A_i = \sum_{j >= i} trace^{j-i} delta_j,   delta_i = J_{i+1} - J_i + (r_i - q_i) dt_i,

    averaged over the episodes of a batch. J_i = J(t_i, x_i) at the state before step i < n, dt_i is
    the step's length and r_i = -g^2 |s_i - a_i|^2, with the estimated score s_i, the action a_i and
    the diffusion coefficient g of the reversal. The last state x_n has the reward
    w h(x_n), which stands for J_n in delta_{n-1}; J_n itself is fitted to it. theta is the
    temperature of the `RewardDirection`, w its weight and h its reward function.

    Of the noise in them two parts are known, and can be taken out without moving the mean:

        pathwise:  that of the state, delta_i - \nabla J_i . std_i z_i;
        gradient:  beside it that of the action, in closed form: the policy moves along
                   \sum_i [2 rate_i dt_i (s_i - mu_i) + action_gain_i \nabla J_{i+1}] . \nabla mu_i,

    with z_i the standard normal that moved the state in step i, rate_i = g^2 there, and action_gain
    and std those of the solver's step. Gradients of J in these two lines are in the state.

    Args:
        online: update after every step of the episodes, not after the last.
        epochs: updates per batch of whole episodes; 1 for `online`.
        estimator: which known noise is removed from the updates: "pathwise", "gradient", or
            "difference" for none, as in the paper.
        trace: in [0, 1], decay of the residuals that an update sums, which with "gradient" only
            that of the value does; 0 for `online`.
        average_decay: decay per step of the moving average of the policy's parameters; 0 for none.

    Raises:
        ValueError: a number is out of range, there is no such estimator, or `online` comes with
            several epochs or a trace.

    Source: arXiv 2409.04832, section 4, for "difference".
    """

    online: bool = False
    epochs: int = 1
    estimator: Estimator = "gradient"
    trace: float = 0.0
    average_decay: float = 0.0

    def __post_init__(self):
        check_count("epochs", self.epochs)
        check_choice("estimator", self.estimator, get_args(Estimator))
        check_fraction("trace", self.trace)
        check_decay("average_decay", self.average_decay)
        if self.online:
            rule = "online updates see each transition once"
            check_unused(self, ("epochs", "trace"), rule, "leave it out, or set online=False")


DEFAULT_Q_LEARNING = QLearningConfig()


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
    made = EpisodeUpdates(problem, models, {"policy": optimizer, "value": value_optimizer})
    collect = made.online if config.online else partial(made.whole, epochs=config.epochs)

    def init(key: Array) -> RunState:
        policy, value = (
            (policy_model.init, optimizer.init),
            (value_model.init, value_optimizer.init),
        )
        averaged = config.average_decay > 0
        return start(key, {"policy": policy, "value": value}, averaged=averaged)

    def step(state: RunState, batch: Batch) -> tuple[RunState, Metrics]:
        key, path_key = jax.random.split(state.key)
        moved, episodes, finite, metrics = collect(path_key, state.learners, batch)
        state, counts = finish(state, key, moved, finite, decay=config.average_decay)
        return state, _episode_metrics(problem, episodes, batch) | metrics | counts

    return Algorithm(init, step)


def _episode_metrics(problem: RewardDirection, episodes: Episodes, batch: Batch):
    """Return the reward, the penalty that the actions paid, and flags.

    The action's noise pays theta d/2 per unit of time whatever its mean, and is left out.
    """
    steps, moved = problem.coefficients(), episodes.transitions
    paid = penalty_rates(steps.rate, moved, moved.actions)
    noise = problem.temperature * moved.states[0, 0].size * jnp.sum(steps.dt) / 2
    penalty = weighted_mean(steps.dt @ paid, batch.weights) - noise
    rewards = Rewards(episodes.values / problem.weight)
    if hasattr(problem.reward_fn, "scored"):  # the parts are asked for again, at the very end
        parts = terminal_rewards(problem.reward_fn, episodes.last, batch).parts
        rewards = rewards._replace(parts=parts)
    metrics = reward_metrics(rewards, episodes.failed_at, batch)
    objective = problem.weight * metrics["reward/mean"] - penalty
    return metrics | {"penalty/path": penalty, "objective": objective}
