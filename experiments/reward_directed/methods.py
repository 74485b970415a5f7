"""The methods compared, each one program for all seeds, and what each of them costs.

| name | score it knows | policy |
|---|---|---|
| q_ratio | ratio estimate from all data points | that estimate + network |
| q_network | ratio estimates from m fresh points (the paper's form) | network |
| q_pretrained | a pretrained network | that network + network |
| ddpo, dpok | – | the pretrained network, fine-tuned |
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model, ScoreFn
from ctrl_jax.algorithms import (
    Algorithm,
    Batch,
    DiffusionControl,
    PolicyUpdate,
    QLearningConfig,
    RewardDirection,
    known_score,
    make_ddpo,
    make_dpok,
    make_q_learning,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.networks import MLP, ValueMLP, as_model
from ctrl_jax.processes import RatioScore, grids
from ctrl_jax.solvers import sample
from experiments.base_models import score_model
from experiments.directed_tasks import END, Task, forward_process
from experiments.options import over_data
from experiments.study import Conduct

METHODS = ("q_ratio", "q_network", "q_pretrained", "ddpo", "dpok")
PRETRAINED = ("q_pretrained", "ddpo", "dpok")


@dataclasses.dataclass(frozen=True)
class Training:
    """How every method is trained; all of them ask for as many rewards.

    Args:
        updates: updates, each on one batch of episodes.
        batch: episodes per update, each one reward query.
        q_epochs: passes of q-learning over a batch.
        fine_tuning_epochs: passes of DDPO and DPOK over a batch: as many network evaluations as
            q-learning has.
        q_rate: peak step size of q-learning, of policy and value.
        fine_tuning_rate: peak step size of DDPO and DPOK.
        temperature: theta: the noise of the actions of q-learning, in units of w h per unit of
            time.
        few: m, the fresh points per estimate of q_network.
        pretraining_steps: updates of the score network that the last three methods start from.
        pretraining_batch: data points per update of the score network.
    """

    updates: int = 80
    batch: int = 64
    q_epochs: int = 2
    fine_tuning_epochs: int = 5
    q_rate: float = 1e-2
    fine_tuning_rate: float = 1e-3
    temperature: float = 0.3
    few: int = 64
    pretraining_steps: int = 2000
    pretraining_batch: int = 128


class Trained(NamedTuple):
    """What all seeds of a method left: samples (seeds, number, ...), labels, history, params."""

    samples: np.ndarray
    labels: np.ndarray | None
    history: dict[str, np.ndarray]
    params: Any


def corrected(task: Task, base: ScoreFn) -> Model:
    """Return base + a(t) network, the network zero at first."""
    network = as_model(
        lambda rngs: MLP(
            task.shape, width=task.width, depth=1, embedding=32, classes=task.classes, rngs=rngs
        )
    )

    def apply(params, t, x, *conditions):
        scale = expand(forward_process().marginal(t).scale, x)
        return base(t, x, *conditions) + scale * network.apply(params, t, x, *conditions)

    return Model(network.init, apply)


def train(
    task: Task,
    name: str,
    training: Training,
    *,
    solver_steps: int,
    flow: bool,
    study: Conduct,
    keys: jax.Array,
    number: int,
    pretrained: Any = None,
) -> Trained:
    """Train all seeds of a method in one program and draw samples of each.

    Args:
        task: what is directed.
        name: one of `METHODS`.
        training: budgets.
        solver_steps: steps of the sampler, in training and after.
        flow: whether the sampler is the probability flow; q-learning only.
        study: the run, which keeps them.
        keys: one per seed.
        number: samples per seed.
        pretrained: parameters from `base_models.pretrain`; None for the methods that need none.
    """
    grid = grids.quadratic(forward_process(), solver_steps, end=END)
    algorithm, policy = make_method(task, name, training, grid, flow, pretrained)

    def labels_of(count) -> tuple[jax.Array, ...]:
        return () if not task.classes else (jnp.arange(count) % task.classes,)

    def one_seed(key):
        init_key, sample_key = jax.random.split(key)
        batch = Batch(jnp.ones(training.batch), labels_of(training.batch))

        def body(state, _):
            return algorithm.step(state, batch)

        state, history = jax.lax.scan(body, algorithm.init(init_key), None, training.updates)
        samples = sample(
            sample_key,
            forward_process(),
            partial(policy.apply, state.params),
            (number, *task.shape),
            grid=grid,
            noise_level=0.0 if flow else 1.0,
            conditions=labels_of(number),
        )
        return samples, history, state.params

    piece = f"{task.name}-{name}-{'flow' if flow else 'sde'}-{solver_steps}"
    found = study.once(piece, over_data(study.mesh, one_seed, keys))
    samples, history, params = found
    labels = np.asarray(labels_of(number)[0]) if task.classes else None
    return Trained(samples, labels, history, params)


def make_method(
    task: Task, name: str, training: Training, grid, flow: bool, pretrained: Any
) -> tuple[Algorithm, Model]:
    """Return a method by its name, and the score it learns."""
    score = score_model(task)
    if name in ("ddpo", "dpok"):
        start = score._replace(init=lambda key: pretrained)
        return _fine_tuning(task, name, training, grid, start), score
    estimate, policy = {
        "q_ratio": lambda: (known_score(task.ratio()), corrected(task, task.ratio())),
        "q_network": lambda: (RatioScore(forward_process(), task.draw(), training.few), score),
        "q_pretrained": lambda: (
            known_score(partial(score.apply, pretrained)),
            corrected(task, partial(score.apply, pretrained)),
        ),
    }[name]()
    return q_learning(task, training, estimate, policy, grid, flow), policy


def q_learning(
    task: Task, training: Training, estimate, policy: Model, grid, flow: bool, **options
) -> Algorithm:
    """Return q-learning of a policy from estimates of the score."""
    problem = RewardDirection(
        forward_process(),
        estimate,
        task.reward_fn,
        task.shape,
        grid,
        task.weight,
        training.temperature,
        probability_flow=flow,
        **options,
    )
    value = as_model(
        lambda rngs: ValueMLP(
            task.shape, width=task.width, depth=1, embedding=32, classes=task.classes, rngs=rngs
        )
    )
    updates = training.updates * training.q_epochs
    config = QLearningConfig(epochs=training.q_epochs, trace=1.0, average_decay=0.9)
    optimizer = _adam(training.q_rate, updates)
    return make_q_learning(problem, policy, value, optimizer, optimizer, config)


def _fine_tuning(task: Task, name: str, training: Training, grid, policy: Model) -> Algorithm:
    penalty = 0.0 if name == "ddpo" else 2 / task.weight
    problem = DiffusionControl(
        forward_process(), policy, task.reward_fn, task.shape, grid, penalty, path_kl=True
    )
    minibatches = min(5, problem.steps)
    update = PolicyUpdate(training.fine_tuning_epochs, minibatches, average_decay=0.9)
    updates = training.updates * update.epochs * minibatches
    make = make_ddpo if name == "ddpo" else make_dpok
    return make(problem, policy, _adam(training.fine_tuning_rate, updates), update=update)


def _adam(rate: float, updates: int) -> optax.GradientTransformation:
    return adam(make_schedule(rate, updates, final=0.02), clip=10.0)


def network_evaluations(name: str, training: Training, solver_steps: int) -> int:
    """Return evaluations of a network on one state, a gradient counting as two more.

    Pre-training is not in it; `pretraining_evaluations` is.
    """
    rows = training.updates * training.batch * solver_steps
    if name in ("ddpo", "dpok"):  # rollout, reference, scoring pass, gradients
        return rows * (3 + 3 * training.fine_tuning_epochs)
    # Rollout; per pass the policy's gradient and the value's, with its gradient in the state.
    return rows * (1 + 8 * training.q_epochs)


def pretraining_evaluations(training: Training) -> int:
    """Return the same for pre-training."""
    return 3 * training.pretraining_steps * training.pretraining_batch
