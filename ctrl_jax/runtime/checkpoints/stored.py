"""How a leaf is stored in a checkpoint: a typed PRNG key as its bits, an empty array not at all."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ctrl_jax.runtime.checkpoints import digests


def describe(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the description of a checkpoint says about leaves: dtype, shape and digest."""
    types = map(digests.leaf_type, leaves.values())
    found = digests.leaf_digests(leaves.values())
    return {
        name: {"dtype": dtype, "shape": list(shape), "digest": digest}
        for name, (dtype, shape), digest in zip(leaves, types, found, strict=True)
    }


def placed_as(tree: Any, shardings: Any) -> Any:
    """Return shapes and types of a tree with how it is divided.

    Args:
        tree: arrays, or shapes and types.
        shardings: a tree like it, or one for all of it.
    """

    def leaf(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        array = array if hasattr(array, "dtype") else np.asarray(array)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda array: leaf(array, shardings), tree)
    return jax.tree.map(leaf, tree, shardings)


def abstract_bits(leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
    """Return what Orbax is to read for a leaf: the bits of a key, in the leaf's own sharding."""
    if isinstance(leaf, np.ndarray):
        return leaf  # of the host, where numbers of 64 bits stay what they are
    if digests.is_key(leaf):
        bits = jax.eval_shape(jax.random.key_data, leaf)
    else:
        bits = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(bits.shape, bits.dtype, sharding=sharding)


def rebuild(leaf: Any, bits: Any) -> Any:
    """Return the leaf to restore from what Orbax read; None stands for an empty array."""
    if bits is None:
        return leaf if isinstance(leaf, jax.Array) else np.zeros(leaf.shape, leaf.dtype)
    if digests.is_key(leaf):
        return jax.random.wrap_key_data(bits, impl=_key_impl(leaf))
    is_array = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    return bits if is_array else np.asarray(bits)


def _key_impl(leaf: Any) -> Any:
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]
