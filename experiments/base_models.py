"""Score networks that studies start from, trained in one program."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._typing import Model, Params
from ctrl_jax.algorithms import (
    Algorithm,
    DataBatch,
    RunState,
    make_score_pretraining,
    uniform_times,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.networks import MLP, as_model
from ctrl_jax.processes import parameterization
from experiments.directed_tasks import END, Task, forward_process
from experiments.study import Conduct


def score_model(task: Task) -> Model:
    """Return the score network, which predicts a velocity."""
    network = as_model(
        lambda rngs: MLP(task.shape, width=2 * task.width, depth=2, classes=task.classes, rngs=rngs)
    )

    def apply(params, t, x, *conditions):
        velocity = partial(network.apply, params)
        return parameterization.from_v(forward_process(), velocity)(t, x, *conditions)

    return Model(network.init, apply)


def pretrain(task: Task, steps: int, *, batch: int, seed: int, study: Conduct) -> Params:
    """Return the parameters of `score_model` after so many updates on the task's data points."""
    algorithm = make_score_pretraining(
        forward_process(),
        score_model(task),
        adam(make_schedule(2e-3, steps)),
        sample_times=uniform_times(forward_process(), END),
        weighting=lambda t: 1 / forward_process().marginal(t).scale ** 2,
        average_decay=0.99,
    )
    conditions = () if task.labels is None else (jnp.asarray(task.labels),)
    data = DataBatch(jnp.asarray(task.points), conditions)
    run = jax.jit(lambda key: train_on(algorithm, data, key, steps=steps, batch=batch))
    kept = study.once(f"{task.name}-pretraining", lambda: run(jax.random.key(seed)).params)
    return jax.tree.map(jnp.asarray, kept)


def train_on(
    algorithm: Algorithm, data: DataBatch, key: Array, *, steps: int, batch: int
) -> RunState:
    """Return the state after so many updates on batches drawn from the data, with replacement."""

    def body(state, key):
        rows = jax.random.randint(key, (batch,), 0, len(data.x_0))
        return algorithm.step(state, jax.tree.map(lambda field: field[rows], data))[0], None

    start_key, data_key = jax.random.split(key)
    keys = jax.random.split(data_key, steps)
    return jax.lax.scan(body, algorithm.init(start_key), keys)[0]
