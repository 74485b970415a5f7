"""The three trainings of a data set: a score model, its distillation, and one from data alone.

Each is kept in the run's folder under a name made of all that it depends on, and found again there.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax._typing import Model, Params
from ctrl_jax.algorithms import (
    ConsistencyConfig,
    DataBatch,
    make_consistency_training,
    make_score_pretraining,
    uniform_times,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.networks import MLP, as_model
from ctrl_jax.processes import consistency_function
from ctrl_jax.runtime import own_part
from experiments.consistency.config import Config
from experiments.consistency.tasks import Task
from experiments.study import Conduct


def make_network(config: Config, task: Task) -> Model:
    """Return the network of the normalized velocity, the same for every model."""
    network = as_model(
        lambda rngs: MLP(
            task.shape,
            width=config.width,
            depth=config.depth,
            horizon=task.process.horizon,
            dtype=config.run.dtype,
            rngs=rngs,
        )
    )

    def apply(params, t, x, *conditions):
        return network.apply(params, t, x).astype(x.dtype)

    return Model(network.init, apply)


def score_model(task: Task, network: Model) -> Model:
    """Return the score model of a network."""

    def apply(params, t, x, *conditions):
        score_fn = consistency_function.score_from_normalized_v(
            task.process, lambda t, x: network.apply(params, t, x), data_std=task.data_std
        )
        return score_fn(t, x)

    return Model(network.init, apply)


def consistency_model(task: Task, network: Model, params: Params | None = None) -> Model:
    """Return the consistency model of a network, started from `params` where given."""

    def apply(params, t, x, *conditions):
        function = consistency_function.from_normalized_v(
            task.process,
            lambda t, x: network.apply(params, t, x),
            end=task.end,
            data_std=task.data_std,
        )
        return function(t, x)

    return Model(network.init if params is None else lambda key: params, apply)


def pretrain(config: Config, task: Task, network: Model, study: Conduct) -> Params:
    """Train the score model, every normalized velocity weighing the same."""
    process = task.process

    def weighting(t):
        scale, std = process.marginal(t)
        return 1 + (std / (task.data_std * scale)) ** 2

    algorithm = make_score_pretraining(
        process,
        score_model(task, network),
        make_optimizer(config, config.pretraining_learning_rate, config.pretraining_steps),
        sample_times=uniform_times(process, task.end),
        weighting=weighting,
        average_decay=config.average_decay,
    )
    return run_stage(config, task, "score", algorithm, config.pretraining_steps, study)


def train_consistency(
    config: Config, task: Task, network: Model, teacher: Params | None, study: Conduct
) -> Params:
    """Distil a score model, or train from data alone where there is no teacher."""
    options = ConsistencyConfig(
        steps=config.updates(),
        first_levels=config.first_levels,
        doublings=config.doublings,
        target_decay=config.target_decay,
        average_decay=config.average_decay,
        huber=config.huber,
    )
    score = score_model(task, network)
    algorithm = make_consistency_training(
        task.process,
        consistency_model(task, network, teacher),
        make_optimizer(config, config.learning_rate, config.updates()),
        end=task.end,
        config=options,
        teacher=None if teacher is None else lambda t, x: score.apply(teacher, t, x),
    )
    name = "training" if teacher is None else "distillation"
    return run_stage(config, task, name, algorithm, config.updates(), study)


def make_optimizer(config: Config, rate: float, steps: int) -> optax.GradientTransformation:
    """Return clipped Adam on the schedule of the options."""
    warmup = min(100, steps // 2)
    return adam(
        make_schedule(rate, steps, config.schedule, warmup=warmup), clip=config.gradient_clip
    )


def run_stage(config: Config, task: Task, name: str, algorithm, steps: int, study: Conduct):
    """Run a training to its end, or on from its newest checkpoint; return the averaged weights."""
    options = dataclasses.asdict(config)
    for unused in ("evaluations", "samples", "data", "run"):
        options.pop(unused)
    stage = f"{task.name}-{name}-{study.fingerprint(options, config.run.steps)}"

    def batch(k):
        generator = np.random.default_rng([config.run.seed, k])
        return own_part(study.mesh, DataBatch(jnp.asarray(task.batch(generator, config.batch))))

    state = study.train(
        algorithm.step,
        algorithm.init(jax.random.key(config.run.seed)),
        batch,
        steps,
        stage=f"checkpoints/{stage}",
        log=f"{task.name}-{name}.jsonl",
        fetch_every=100,
        checkpoint_every=1000,
        description=f"{task.name}: {name}",
    )
    return jax.device_get(state.params)
