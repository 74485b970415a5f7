"""From a file's arrays to a network's parameters, by a table that leaves nothing to chance.

One table per architecture says, for each parameter, the name it has in the file and how its axes
are ordered there. Anything that does not fit is refused with its name: a parameter without an
array, an array without a parameter, another shape, another dtype.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from ctrl_jax._checks import refuse


class Part(NamedTuple):
    """Which part of an array of the file a parameter is.

    Fields:
        shape: of the whole array in the file.
        view: a shape it is seen in.
        start: where the part begins along axis 1 of that view.
        stop: where it ends.
    """

    shape: tuple[int, ...]
    view: tuple[int, ...]
    start: int
    stop: int


class Source(NamedTuple):
    """Where a parameter comes from.

    Fields:
        key: its name in the file.
        axes: axis i of the parameter is axis ``axes[i]`` in the file; None for the same order.
        part: where several parameters lie in one array, this one's part; `axes` are then those of
            the part, joined to as many axes as the parameter has.
        numbers: where the parameter is a stack of several arrays, what stands for the ``{}`` of
            their keys; `axes` are then those of one of them.
    """

    key: str
    axes: tuple[int, ...] | None = None
    part: Part | None = None
    numbers: tuple[int, ...] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The names in the file, one unless the parameter is a stack."""
        return (self.key,) if self.numbers is None else tuple(map(self.key.format, self.numbers))


def fill(
    target: Any,
    table: Mapping[str, Source],
    arrays: Mapping[str, np.ndarray],
    *,
    ignored: Collection[str] = (),
    converted: Collection[Any] = (),
    shardings: Any = None,
) -> Any:
    """Return the tree `target` with its leaves taken from `arrays`.

    Args:
        target: nested dictionaries of arrays or `jax.ShapeDtypeStruct`.
        table: dotted path in `target` to the source of that leaf.
        arrays: the file's arrays by name.
        ignored: names in the file that no parameter needs.
        converted: dtypes that may stand in the file for a leaf's own, and are converted to it.
        shardings: where the leaves are placed, a tree like `target`; the default device by default.

    Raises:
        ValueError: table and target differ, or an array is missing, unused, or of another shape or
            dtype; the message names up to five of them.
    """
    leaves = named_leaves(target)
    _check_table(table, leaves)
    dtypes = [np.dtype(dtype) for dtype in converted]
    problems = [
        problem
        for path, leaf in leaves.items()
        for key in table[path].keys
        if (problem := _problem(key, table[path], leaf, arrays, dtypes))
    ]
    needed = {key for source in table.values() for key in source.keys}
    unused = sorted({*arrays} - needed - {*ignored})
    problems += [f"{key} is used by no parameter" for key in unused]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        rule = f"they do not fit the network: {'; '.join(problems[:5])}{more}"
        raise refuse("weights", f"{len(arrays)} arrays", rule, "give those of this very network")
    tree = jax.tree.structure(target)
    places = [None] * len(leaves) if shardings is None else tree.flatten_up_to(shardings)
    return tree.unflatten(
        [
            _placed(table[path], leaf, arrays, place)
            for (path, leaf), place in zip(leaves.items(), places, strict=True)
        ]
    )


def unfill(target: Any, table: Mapping[str, Source]) -> dict[str, np.ndarray]:
    """Return the arrays by name that `fill` makes `target` from: what a file of it holds.

    Args:
        target: nested dictionaries of arrays.
        table: dotted path in `target` to the source of that leaf.

    Raises:
        ValueError: table and target differ.
    """
    leaves = named_leaves(target)
    _check_table(table, leaves)
    arrays, parts = {}, {}
    for path, source in table.items():
        leaf = np.asarray(leaves[path])
        ones = [leaf] if source.numbers is None else list(leaf)
        for key, one in zip(source.keys, ones, strict=True):
            array = one if source.axes is None else np.transpose(one, np.argsort(source.axes))
            if source.part is None:
                arrays[key] = array
            else:
                parts.setdefault(key, []).append((source.part, array))
    return arrays | {key: _join(found) for key, found in parts.items()}


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of nested dictionaries by their dotted paths."""
    return {
        ".".join(str(part.key) for part in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _check_table(table: Mapping[str, Source], leaves: Mapping[str, Any]) -> None:
    if set(leaves) != set(table):
        rule = f"it differs from the network at {set(leaves) ^ set(table)}"
        raise refuse("table", f"{len(table)} names", rule, "name every parameter once")


def _problem(
    key: str,
    source: Source,
    leaf: Any,
    arrays: Mapping[str, np.ndarray],
    converted: list[np.dtype],
) -> str | None:
    if key not in arrays:
        return f"{key} is missing"
    array = arrays[key]
    expected = source.part.shape if source.part else _shape_in_file(source, leaf)
    if array.shape != expected:
        return f"{key} has shape {array.shape}, {expected} is needed"
    if array.dtype != leaf.dtype and array.dtype not in converted:
        return f"{key} is {array.dtype}, {leaf.dtype} is needed"
    return None


def _shape_in_file(source: Source, leaf: Any) -> tuple[int, ...]:
    shape = leaf.shape if source.numbers is None else leaf.shape[1:]
    axes = range(len(shape)) if source.axes is None else source.axes
    return tuple(shape[i] for i in np.argsort(axes))


def _placed(source: Source, leaf: Any, arrays: Mapping[str, np.ndarray], place: Any) -> jax.Array:
    """The leaf on its devices; each is handed its own part, and no more lies in the host."""
    views = [_view(key, source, leaf, arrays) for key in source.keys]

    def piece(index: Any) -> np.ndarray:
        # Copies: JAX may share memory, here that of the file.
        if source.numbers is None:
            return np.array(views[0][index], leaf.dtype)
        first, *inner = index
        return np.stack([np.asarray(view[tuple(inner)], leaf.dtype) for view in views[first]])

    if isinstance(place, Sharding):
        return jax.make_array_from_callback(leaf.shape, place, piece)
    return jax.device_put(piece((slice(None),) * len(leaf.shape)), place)


def _view(key: str, source: Source, leaf: Any, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """One array of the file as the parameter sees it, where it lies."""
    array = arrays[key]
    if source.part is not None:
        part = array.reshape(source.part.view)[:, source.part.start : source.part.stop]
        array = part.reshape(_shape_in_file(source, leaf))
    return array if source.axes is None else np.transpose(array, source.axes)


def _join(parts: list[tuple[Part, np.ndarray]]) -> np.ndarray:
    first = parts[0][0]
    whole = np.empty(first.view, parts[0][1].dtype)
    for part, array in parts:
        place = whole[:, part.start : part.stop]
        place[...] = array.reshape(place.shape)
    return whole.reshape(first.shape)
