"""From options to an algorithm, by the names that the command `ctrl-jax fine-tune` has too."""

import jax

from ctrl_jax.algorithms import Algorithm, Critic
from ctrl_jax.commands.fine_tuning.named import (
    NAMED,
    make_named,
    policy_optimizer,
    value_optimizer,
)
from experiments.fine_tuning import Task
from experiments.score_as_action.config import Config

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
    options, value = config.optimization, config.value
    peak = LEARNING_RATE[name] if options.learning_rate is None else options.learning_rate
    each = config.update.epochs * config.update.minibatches
    rests = NAMED[name].has_value
    optimizer = policy_optimizer(options, peak, config.updates(), each, rests=rests)
    critic = Critic(task.value, value_optimizer(options, config.updates(), value), value)
    return make_named(
        name,
        task.problem(config.grid_steps(), penalty),
        task.policy,
        optimizer,
        config.update,
        critic=critic,
        trace=config.trace,
        clip=config.clip,
        control_variate=config.control_variate,
    )
