"""What a tree of arrays is, exactly: its names, shapes, dtypes and bits.

A leaf is named by its path as JAX prints it, for example `.params['dense']['kernel']`. A typed
PRNG key is described by its own dtype (`key<fry>`) and carried by its raw bits. The digest of
a leaf is sha256 over dtype, shape and bytes; the digest of a tree is sha256 over all leaves in
the order of their names, so that equal digests mean equal bits.
"""

import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class LeafType(NamedTuple):
    """What a leaf is: the name of its dtype and its shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by name, in the order of the tree.

    Args:
        tree: any pytree of arrays.

    Returns:
        Path names to leaves.
    """
    return {
        jax.tree_util.keystr(path) or ".": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is a typed PRNG key (an array of keys)."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def leaf_type(leaf: Any) -> LeafType:
    """Return the dtype and shape of an array, an abstract array or a Python number."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return LeafType(str(leaf.dtype), tuple(leaf.shape))


def key_bits(leaf: Any) -> Any:
    """Return the raw bits of a typed PRNG key; any other leaf as it is."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def host_array(leaf: Any) -> np.ndarray:
    """Return the whole value of a leaf on this host, gathered from other processes where needed."""
    leaf = key_bits(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if leaf.is_fully_replicated:
            leaf = leaf.addressable_data(0)
        else:
            from jax.experimental import multihost_utils

            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _update(digest, kind: LeafType, value: np.ndarray, name: str = "") -> None:
    digest.update(f"{name}\0{kind}\0".encode())
    digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def leaf_digests(leaves: Iterable[Any]) -> list[str]:
    """Return the sha256 of each leaf's dtype, shape and bytes, as hex.

    Leaves come to the host one after the other, as processes gather them together, and are hashed
    by as many threads as there are cores meanwhile.
    """
    number = os.cpu_count() or 1
    room = threading.Semaphore(2 * number)  # for so many leaves on the host

    def digest_of(kind: LeafType, value: np.ndarray) -> str:
        try:
            digest = hashlib.sha256()
            _update(digest, kind, value)
            return digest.hexdigest()
        finally:
            room.release()

    with ThreadPoolExecutor(number) as threads:
        found = []
        for leaf in leaves:
            room.acquire()
            found.append(threads.submit(digest_of, leaf_type(leaf), host_array(leaf)))
        return [each.result() for each in found]


def state_digest(tree: Any) -> str:
    """Return the sha256 of a whole tree: every leaf's name, dtype, shape and bytes, in name order.

    Args:
        tree: any pytree of arrays, typed PRNG keys included.

    Returns:
        64 hex digits, equal exactly when the trees are bitwise equal.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(tree).items()):
        _update(digest, leaf_type(leaf), host_array(leaf), name)
    return digest.hexdigest()


def tree_diff(saved: dict[str, LeafType], wanted: dict[str, LeafType], most: int = 8) -> str:
    """Return the differences between two trees in one line.

    Args:
        saved: names to types of what is there.
        wanted: names to types of what is expected.
        most: differences shown; the rest is counted.

    Returns:
        Parts such as `['w']: saved float32[3], expected float32[4]`; empty for equal trees.
    """
    found = [
        f"{name}: saved {saved.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')}"
        for name in sorted({*saved, *wanted})
        if saved.get(name) != wanted.get(name)
    ]
    if len(found) > most:
        found[most:] = [f"and {len(found) - most} more"]
    return "; ".join(found)
