"""From a file's arrays to a network's parameters, by a table that leaves nothing to chance.

One table per architecture says, for each parameter, the name it has in the file and how its axes
are ordered there. Anything that does not fit is refused with its name: a parameter without an
array, an array without a parameter, another shape, another dtype.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Source(NamedTuple):
    """Where a parameter comes from.

    Fields:
        key: its name in the file.
        axes: axis i of the parameter is axis ``axes[i]`` in the file; None for the same order.
    """

    key: str
    axes: tuple[int, ...] | None = None


def fill(
    target: Any,
    table: Mapping[str, Source],
    arrays: Mapping[str, np.ndarray],
    *,
    ignored: Collection[str] = (),
) -> Any:
    """Return the tree `target` with its leaves taken from `arrays`.

    Args:
        target: nested dictionaries of arrays or `jax.ShapeDtypeStruct`.
        table: dotted path in `target` to the source of that leaf.
        arrays: the file's arrays by name.
        ignored: names in the file that no parameter needs.

    Raises:
        ValueError: table and target differ, or an array is missing, unused, or of another shape or
            dtype; the message names up to five of them.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(target)
    paths = [".".join(str(part.key) for part in path) for path, _ in leaves]
    if set(paths) != set(table):
        raise ValueError(f"table: it differs from the network at {set(paths) ^ set(table)}")
    problems = [
        _problem(table[p], leaf, arrays) for p, (_, leaf) in zip(paths, leaves, strict=True)
    ]
    unused = sorted({*arrays} - {source.key for source in table.values()} - {*ignored})
    problems = [*filter(None, problems), *(f"{key} is used by no parameter" for key in unused)]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"weights: they do not fit the network: {'; '.join(problems[:5])}{more}; give the file "
            "of this very network"
        )
    return tree.unflatten([_take(table[path], arrays) for path in paths])


def _problem(source: Source, leaf: Any, arrays: Mapping[str, np.ndarray]) -> str | None:
    if source.key not in arrays:
        return f"{source.key} is missing"
    array = arrays[source.key]
    axes = source.axes or tuple(range(array.ndim))
    expected = tuple(np.asarray(leaf.shape)[np.argsort(axes)]) if source.axes else leaf.shape
    if array.shape != tuple(expected):
        wanted = tuple(int(n) for n in expected)
        return f"{source.key} has shape {array.shape}, {wanted} is needed"
    if array.dtype != leaf.dtype:
        return f"{source.key} is {array.dtype}, {leaf.dtype} is needed"
    return None


def _take(source: Source, arrays: Mapping[str, np.ndarray]) -> jax.Array:
    array = arrays[source.key]
    return jnp.asarray(array if source.axes is None else np.transpose(array, source.axes))
