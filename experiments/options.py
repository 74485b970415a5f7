"""The common options in a study's config, where their flags have no prefix, and their mesh."""

from typing import TYPE_CHECKING, Annotated

import tyro

from ctrl_jax.runtime import RunOptions

if TYPE_CHECKING:
    from jax import Array
    from jax.sharding import Mesh

Common = Annotated[RunOptions, tyro.conf.arg(name="")]
COMMON = RunOptions()


def over_data(mesh: "Mesh", keys: "Array") -> "Array":
    """Return the keys of runs side by side, divided over ``data`` where it divides their number.

    Every run then is one device's own; elsewhere one device has them all.
    """
    from jax.sharding import NamedSharding, PartitionSpec

    from ctrl_jax.runtime.devices.mesh import place

    if len(keys) % mesh.shape["data"]:
        return keys
    return place(keys, NamedSharding(mesh, PartitionSpec("data")))
