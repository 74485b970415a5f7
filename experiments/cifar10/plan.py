"""The update of the study on shapes, for `ctrl-jax plan experiments.cifar10`."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ctrl_jax.algorithms import DataBatch
from ctrl_jax.commands.planning.batches import batch_of as batch_of
from ctrl_jax.commands.planning.batches import with_batch as with_batch
from ctrl_jax.commands.planning.program import Program, placed
from ctrl_jax.networks.sharding import SCORE, partition_specs
from ctrl_jax.runtime import check_batch
from ctrl_jax.runtime.devices.mesh import batch_shapes
from experiments.cifar10.config import TINY, Config
from experiments.cifar10.data import TINY_SHAPE
from experiments.cifar10.training import make_algorithm

SHAPE = TINY_SHAPE
"""Of an image of CIFAR-10, and of the made ones."""


def default_of(args: Sequence[str]) -> Config | None:
    """Return the defaults that --tiny stands for."""
    return TINY if "--tiny" in args else None


def unit_of(config: Config, mesh: Mesh) -> int:
    """Return what every batch is a multiple of."""
    return mesh.shape["data"]


def program(config: Config, mesh: Mesh) -> Program:
    """Return the update on shapes."""
    size = config.optimization.batch
    check_batch(mesh, size, "optimization.batch")
    algorithm = make_algorithm(config, config.spec().model(SHAPE, config.run.dtype))
    images: Any = jax.ShapeDtypeStruct((size, *SHAPE), np.float32)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    return Program(
        step=algorithm.step,
        state=placed(state, mesh, partition_specs(state, mesh, rules=SCORE)),
        batch=batch_shapes(mesh, DataBatch(images)),
        fixed=None,
        examples=size,
        unit="images",
    )
