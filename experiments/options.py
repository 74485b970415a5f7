"""The common options in a study's config, where their flags have no prefix, and their mesh."""

from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ctrl_jax.runtime import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from jax import Array
    from jax.sharding import Mesh

Common = Annotated[RunOptions, tyro.conf.arg(name="")]
COMMON = RunOptions()


def over_data(mesh: "Mesh", function: "Callable[[Array], Any]", keys: "Array") -> Any:
    """Return what a function gives of every key, in one program, whole on every device.

    The keys are divided over ``data`` where that divides their number, and every run is then one
    device's own; elsewhere one device has them all.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from ctrl_jax.runtime import replicate
    from ctrl_jax.runtime.devices.mesh import place

    if len(keys) % mesh.shape["data"] == 0:
        keys = place(keys, NamedSharding(mesh, PartitionSpec("data")))
    return replicate(mesh, jax.jit(jax.vmap(function))(keys))
