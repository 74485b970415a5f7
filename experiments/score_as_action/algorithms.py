"""From options to an algorithm: the one place that knows how the five are made."""

import jax
import optax

from ctrl_jax.algorithms import (
    Algorithm,
    Critic,
    make_ddpo,
    make_dpok,
    make_policy_gradient,
    make_ppo,
    make_value_gradient,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from experiments.fine_tuning import Task
from experiments.score_as_action.config import Config

WITHOUT_VALUE = ("ddpo", "dpok")
LEARNING_RATE = {
    "ppo": 3e-4,
    "value_gradient": 5e-4,
    "policy_gradient": 1e-4,
    "ddpo": 2e-4,
    "dpok": 2e-4,
}
PENALTY = {"digits": 0.09, "gaussian": 2.5, "mixture": 0.8}


def penalty_of(config: Config, algorithm: str) -> float:
    """Return the penalty that an algorithm runs with."""
    if algorithm == "ddpo":
        return 0.0
    return PENALTY[config.environment] if config.penalty is None else config.penalty


def make_algorithm(config: Config, task: Task, name: str, penalty: float | jax.Array) -> Algorithm:
    """Return the named algorithm on the task.

    Args:
        config: options.
        task: the task.
        name: one of `config.ALGORITHMS`.
        penalty: lambda, a number or a traced scalar.
    """
    problem = task.problem(config.grid_steps(), penalty)
    policy = problem, task.policy, _policy_optimizer(config, name)
    critic = Critic(task.value, _value_optimizer(config), config.value)
    update, clip, trace = config.update, config.clip, config.trace
    if name == "ddpo":
        return make_ddpo(*policy, clip=clip, update=update)
    if name == "dpok":
        return make_dpok(*policy, clip=clip, update=update)
    if name == "value_gradient":
        return make_value_gradient(*policy, critic, update=update)
    if name == "policy_gradient":
        return make_policy_gradient(*policy, critic, trace=trace, update=update)
    variate = config.control_variate
    return make_ppo(*policy, critic, trace=trace, clip=clip, control_variate=variate, update=update)


def _value_optimizer(config: Config) -> optax.GradientTransformation:
    options = config.optimization
    updates = config.updates() * config.value.epochs * config.value.minibatches
    rate = make_schedule(options.value_learning_rate, updates, options.schedule, final=0.05)
    return adam(rate, clip=options.gradient_clip)


def _policy_optimizer(config: Config, name: str) -> optax.GradientTransformation:
    """Adam with clipping, a warm-up in which the policy rests, and a decay to 2 percent."""
    options = config.optimization
    peak = LEARNING_RATE[name] if options.learning_rate is None else options.learning_rate
    per_update = config.update.epochs * config.update.minibatches
    resting = (0 if name in WITHOUT_VALUE else options.warmup) * per_update
    updates = config.updates() * per_update
    rate = make_schedule(peak, updates, options.schedule, rest=resting, final=0.02)
    return adam(rate, clip=options.gradient_clip)
