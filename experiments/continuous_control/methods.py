"""The methods compared, and the one program that trains all seeds of one of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Algorithm,
    ContinuousControl,
    OccupationConfig,
    ProximalConfig,
    make_cpg,
    make_cppo,
    make_discrete_policy_gradient,
    make_discrete_ppo,
)
from ctrl_jax.runtime import check_choice, check_count, check_positive, refuse

METHODS = ("cpg", "cppo_sqrt_kl", "cppo_linear_kl", "cppo_clipped", "pg", "ppo")
VARIANTS = ("cpg_difference", "cppo_clipped_difference")
"""The same methods without the simulator's noise: q by the difference quotient."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How every method is trained; the budget in environment time is the same for all steps.

    Args:
        batch: trajectories per update.
        horizon: length of a trajectory, in units of time.
        draws: transitions used per trajectory, whatever the step.
        learning_rate: adam's rate of cpg and pg at first; it falls to a twentieth by a cosine.
        proximal_rate: adam's rate within each update of cppo and ppo at first; it falls to a tenth.
        epochs: gradient steps per update of cppo and ppo.
        value_rate: adam's rate of the critic.
        value_epochs: gradient steps of the critic per update.
        distance: target of the mean root of KL, in sqrt(nat); its square is that of the mean KL.
        clip: half-width of the interval of clipped ratios.
        trace: decay per step of the discrete-time advantages.
    """

    batch: int = 32
    horizon: float = 4.0
    draws: int = 16
    learning_rate: float = 0.05
    proximal_rate: float = 0.02
    epochs: int = 15
    value_rate: float = 0.05
    value_epochs: int = 10
    distance: float = 0.1
    clip: float = 0.2
    trace: float = 0.95


def make_method(
    name: str,
    problem: ContinuousControl,
    policy: Model,
    value: Model,
    training: Training,
    updates: int,
) -> Algorithm:
    """Return a method by its name in the results."""
    estimator = "difference" if name.endswith("_difference") else "pathwise"
    name = name.removesuffix("_difference")
    occupation = OccupationConfig(
        draws=training.draws, value_epochs=training.value_epochs, estimator=estimator
    )
    outer = optax.adam(optax.cosine_decay_schedule(training.learning_rate, updates, alpha=0.05))
    inner = optax.adam(
        optax.cosine_decay_schedule(training.proximal_rate, training.epochs, alpha=0.1)
    )
    critic = optax.adam(training.value_rate)
    models = (problem, policy, value)
    if name == "cpg":
        return make_cpg(*models, outer, critic, occupation)
    if name == "pg":
        return make_discrete_policy_gradient(
            *models, outer, critic, trace=training.trace, occupation=occupation
        )
    if name == "ppo":
        return make_discrete_ppo(
            *models,
            inner,
            critic,
            trace=training.trace,
            clip=training.clip,
            epochs=training.epochs,
            occupation=occupation,
        )
    limits = {
        "cppo_sqrt_kl": {"penalty": "sqrt_kl", "target": training.distance},
        "cppo_linear_kl": {"penalty": "linear_kl", "target": training.distance**2},
        "cppo_clipped": {"penalty": "clipped", "clip": training.clip},
    }
    proximal = ProximalConfig(epochs=training.epochs, **limits[name])
    return make_cppo(*models, inner, critic, proximal, occupation)


def check_training(training: Training, time_steps: Sequence[float], methods: Sequence[str]) -> None:
    """Raise ValueError for a setting out of range."""
    if not methods:
        raise refuse("methods", methods, "at least one is needed", "give cppo_clipped")
    for method in methods:
        check_choice("methods", method, METHODS + VARIANTS)
    for name in ("batch", "draws", "epochs", "value_epochs"):
        check_count(f"training.{name}", getattr(training, name))
    for name in ("horizon", "learning_rate", "proximal_rate", "value_rate", "distance", "clip"):
        check_positive(f"training.{name}", getattr(training, name))
    if not 0 < training.trace < 1:
        rule = "it must lie strictly between 0 and 1"
        raise refuse("training.trace", training.trace, rule, "use 0.95")
    if not time_steps:
        raise refuse("time_steps", time_steps, "at least one is needed", "give 0.1 0.01")
    for dt in time_steps:
        check_positive("time_steps", dt)
        if dt > training.horizon / 2:
            rule = "a trajectory must have two steps at least"
            raise refuse("time_steps", dt, rule, "take smaller steps")


class Curves(NamedTuple):
    """What training left, over seeds and updates.

    Fields:
        scores: what ``evaluate`` says of the policy after each update.
        params: final parameters, a leading axis of seeds.
        metrics: of every update.
    """

    scores: np.ndarray
    params: Any
    metrics: dict[str, np.ndarray]


def train_seeds(
    algorithm: Algorithm,
    keys: jax.Array,
    start_fn: Callable[[jax.Array], jax.Array],
    evaluate: Callable[[Any], jax.Array],
    updates: int,
) -> Curves:
    """Train all seeds in one compiled program.

    Args:
        algorithm: to train.
        keys: one per seed.
        start_fn: ``start_fn(key)`` draws a batch of start states.
        evaluate: exact score of the policy's parameters.
        updates: number of updates.
    """

    def one_seed(key):
        init_key, start_key = jax.random.split(key)

        def body(state, key):
            state, metrics = algorithm.step(state, start_fn(key))
            return state, (evaluate(state.policy.params), metrics)

        start_keys = jax.random.split(start_key, updates)
        state, (scores, metrics) = jax.lax.scan(body, algorithm.init(init_key), start_keys)
        return scores, state.policy.params, metrics

    scores, params, metrics = jax.jit(jax.vmap(one_seed))(keys)
    return Curves(np.asarray(scores), params, {k: np.asarray(v) for k, v in metrics.items()})
