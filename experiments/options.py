"""The common options in a study's config, where their flags have no prefix, and their mesh."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ctrl_jax.runtime import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax import Array
    from jax.sharding import Mesh

Common = Annotated[RunOptions, tyro.conf.arg(name="")]
COMMON = RunOptions()


def over_data(
    mesh: "Mesh", function: "Callable[[Array], Any]", keys: "Array"
) -> "Callable[[], Any]":
    """Return what computes a function of every key, in one program, whole on every device.

    The keys are divided over ``data``, the first again where some are wanting, and every run is
    then one device's own.
    """
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from ctrl_jax.runtime.devices.mesh import place

    count, devices = len(keys), mesh.shape["data"]
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    filled = place(keys[np.arange(-(-count // devices) * devices) % count], rows)

    # Replicated results, which every process can read, and of the keys that were given alone: what
    # is kept of them is then the same on every mesh.
    @partial(jax.jit, out_shardings=whole)
    def run(keys):
        return jax.tree.map(lambda leaf: leaf[:count], jax.vmap(function)(keys))

    return lambda: run(filled)
