"""The methods compared, their options, and the one program that trains all seeds of a method."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ctrl_jax._checks import (
    check_choice,
    check_count,
    check_divides,
    check_fields,
    check_numbers,
    check_positive,
    refuse,
)
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
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.environments import ControlledSDE
from ctrl_jax.runtime import check_small_run, progress
from experiments.options import COMMON, Common, over_data
from experiments.study import Conduct

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

    def validate(self) -> None:
        """Raise ValueError for a setting out of range."""
        check_numbers(self, "training")
        if not 0 < self.trace < 1:
            rule = "it must lie strictly between 0 and 1"
            raise refuse("training.trace", self.trace, rule, "use 0.95")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Options of a comparison; a study gives its own defaults and documents them."""

    time_steps: tuple[float, ...] = (0.1, 0.01)
    seeds: int = 10
    methods: tuple[str, ...] = METHODS
    training: Training = Training()
    run: Common = COMMON
    usual_updates: ClassVar[int]

    def updates(self) -> int:
        """Return the updates of each training."""
        return self.run.steps or self.usual_updates

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("seeds", self.seeds, least=2)
        if not self.methods:
            raise refuse("methods", self.methods, "at least one is needed", "give cppo_clipped")
        check_fields(self, check_choice, "methods", choices=METHODS + VARIANTS)
        if not self.time_steps:
            raise refuse("time_steps", self.time_steps, "at least one is needed", "give 0.1 0.01")
        for dt in self.time_steps:
            check_positive("time_steps", dt)
            if dt > self.training.horizon / 2:
                rule = "a trajectory must have two steps at least"
                raise refuse("time_steps", dt, rule, "take smaller steps")
            check_divides("time_steps", dt, "training.horizon", self.training.horizon)
        check_small_run(self.run)


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
    outer = adam(make_schedule(training.learning_rate, updates, final=0.05), clip=None)
    inner = adam(make_schedule(training.proximal_rate, training.epochs, final=0.1), clip=None)
    critic = adam(training.value_rate, clip=None)
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


class Task(NamedTuple):
    """What is controlled, by what, and how it is judged.

    Fields:
        environment: the problem.
        policy: its ``init`` returns the policy that training starts from.
        value: the critic.
        start_states: ``start_states(key, size)`` draws a batch of start states.
        evaluate: exact score of the policy's parameters.
    """

    environment: ControlledSDE
    policy: Model
    value: Model
    start_states: Callable[[jax.Array, int], jax.Array]
    evaluate: Callable[[Any], jax.Array]


def train_methods(config: Comparison, task: Task, study: Conduct) -> dict[float, dict[str, Curves]]:
    """Return the training by every method at every step of time, each kept once it is done."""
    pairs = [(dt, name) for dt in config.time_steps for name in config.methods]
    runs: dict[float, dict[str, Curves]] = {dt: {} for dt in config.time_steps}
    with progress(len(pairs), "method and step", enabled=config.run.progress) as show:
        for i, (dt, name) in enumerate(pairs):
            train = make_training(config, task, name, dt, study.mesh, config.updates())
            runs[dt][name] = Curves(*study.once(f"{name}-dt={dt:g}", train))
            show(i + 1)
    return runs


def make_training(
    config: Comparison, task: Task, name: str, dt: float, mesh: Mesh, updates: int
) -> Callable[[], tuple[Any, Any, Any]]:
    """Return what trains all seeds of a method in one program, divided over the data axis."""
    problem = ContinuousControl(task.environment, dt, config.training.horizon)
    batch = config.training.batch
    algorithm = make_method(name, problem, task.policy, task.value, config.training, updates)

    def one_seed(key):
        init_key, start_key = jax.random.split(key)

        def body(state, key):
            state, metrics = algorithm.step(state, task.start_states(key, batch))
            return state, (task.evaluate(state.policy.params), metrics)

        start_keys = jax.random.split(start_key, updates)
        state, (scores, metrics) = jax.lax.scan(body, algorithm.init(init_key), start_keys)
        return scores, state.policy.params, metrics

    keys = jax.random.split(jax.random.key(config.run.seed), config.seeds)
    return over_data(mesh, one_seed, keys)
