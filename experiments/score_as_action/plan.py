"""The update of the study on shapes, for `ctrl-jax plan experiments.score_as_action`.

The pretrained model and the reward are constants of the program, as in the run: they are small, and
drawn at random here.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch
from ctrl_jax.commands.planning.batches import batch_of as batch_of
from ctrl_jax.commands.planning.batches import with_batch as with_batch
from ctrl_jax.commands.planning.program import Program, placed
from ctrl_jax.networks import ValueMLP, as_model
from ctrl_jax.networks.sharding import SCORE, partition_specs
from ctrl_jax.rewards import learned
from ctrl_jax.runtime import check_batch
from ctrl_jax.runtime.devices.mesh import batch_shapes
from experiments import known_optima
from experiments.fine_tuning import Task
from experiments.score_as_action import digits
from experiments.score_as_action.algorithms import make_algorithm, penalty_of
from experiments.score_as_action.config import Config

SHAPE = (8, 8, 1)
"""Of an image of scikit-learn's digits."""


def unit_of(config: Config, mesh: Mesh) -> int:
    """Return what every batch is a multiple of."""
    return mesh.shape["data"]


def program(config: Config, mesh: Mesh) -> Program:
    """Return the update on shapes."""
    for name in ("data", "reward"):
        if getattr(config, name) is not None:
            rule = "a plan is of the digits and of what is learned from them"
            raise refuse(name, getattr(config, name), rule, "leave it out")
    size = config.optimization.batch
    check_batch(mesh, size, "optimization.batch")
    penalty = penalty_of(config, config.algorithm)
    algorithm = make_algorithm(config, task_of(config), config.algorithm, penalty)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    weights: Any = jax.ShapeDtypeStruct((size,), jnp.float32)
    return Program(
        step=algorithm.step,
        state=placed(state, mesh, partition_specs(state, mesh, rules=SCORE)),
        batch=batch_shapes(mesh, Batch(weights)),
        fixed=None,
        examples=size,
        unit="images",
    )


def task_of(config: Config) -> Task:
    """Return the task, its networks untrained."""
    if config.environment != "digits":
        spec = known_optima.make_spec(config.environment, config.penalty)
        return known_optima.make_task(spec, config.run.dtype)
    spec = config.model
    model = spec.model(SHAPE, config.run.dtype)
    params = jax.jit(model.init)(jax.random.key(0))
    reward = as_model(lambda rngs: ValueMLP(SHAPE, width=128, depth=2, rngs=rngs))
    its = jax.jit(reward.init)(jax.random.key(1))
    reward_fn = learned(reward, its)
    fixed = Model(lambda key: params, model.apply)
    copy = Model(lambda key: its, reward.apply)
    given = fixed, params, reward_fn, copy, SHAPE
    return Task(
        process=spec.process(),
        shape=SHAPE,
        reference=fixed,
        policy=fixed,
        value=digits.make_value(config.value_network, spec.process(), *given),
        reward_fn=reward_fn,
        success_fn=partial(_unasked, "success"),
        diversity_fn=None,
        end=spec.end,
        facts={},
    )


def _unasked(name: str, images: Any) -> Any:
    raise NotImplementedError(f"{name}: a plan draws no images")
