"""The mesh of devices: batches over `data`, large weights over `model`.

All devices of all processes form one grid with two named axes. A batch is cut along its first
axis over `data`; everything else is replicated unless its owner says otherwise. The axes are
of type Auto: the compiler places the intermediate arrays.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from ctrl_jax._checks import check_count, refuse
from ctrl_jax.runtime.checkpoints.digests import is_key

FILL = -1  # of MeshOptions.data


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """How many devices each axis of the mesh gets.

    Args:
        data: devices the batch is divided over; all that are left by default, or by -1.
        model: devices the weights are divided over.
    """

    data: int | None = None
    model: int = 1

    @property
    def fills(self) -> bool:
        """Whether all devices that are left divide the batch."""
        return self.data in (None, FILL)

    def validate(self) -> None:
        """Raise ValueError for a size below one."""
        check_count("mesh.model", self.model)
        if not self.fills:
            check_count("mesh.data", self.data)


def make_mesh(options: MeshOptions | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """Build the mesh over the devices of every process.

    Args:
        options: sizes of the axes; all devices on `data` by default.
        devices: that there are, also some that are only described; all of JAX's by default.

    Returns:
        A mesh with axes ("data", "model").

    Raises:
        ValueError: the sizes do not fit the devices.
    """
    options = options or MeshOptions()
    options.validate()
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    data = options.data if options.data and not options.fills else count // options.model
    used = data * options.model
    whole = options.fills or jax.process_count() > 1
    if used > count or data == 0 or (whole and used != count):
        rule = f"data x model must {'equal' if whole else 'not exceed'} the {count} devices"
        received = (options.data, options.model)
        raise refuse("mesh (data, model)", received, rule, "change --mesh.data or --mesh.model")
    shape, names = (data, options.model), ("data", "model")
    types = (AxisType.Auto, AxisType.Auto)
    try:
        return jax.make_mesh(shape, names, axis_types=types, devices=devices[:used])
    except NotImplementedError:  # its axes cut across those of a TPU slice
        found = mesh_utils.create_device_mesh(shape, devices[:used], allow_split_physical_axes=True)
        return Mesh(found, names, axis_types=types)


def on_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that JAX traces with the mesh known, so that networks gather their weights.

    Args:
        mesh: the mesh.
        function: of arrays; it is not compiled here.
    """

    @functools.wraps(function)
    def traced(*arguments: Any, **options: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments, **options)

    return traced


def check_batch(mesh: Mesh | AbstractMesh, size: int, name: str = "batch") -> None:
    """Raise ValueError unless the mesh's data axis divides a batch.

    Args:
        mesh: a mesh with a `data` axis.
        size: examples in the whole batch, over all processes.
        name: the option as the user writes it.
    """
    data = mesh.shape["data"]
    check_count(name, size, least=0)
    if size % data or size == 0:
        nearest = max(data, round(size / data) * data)
        rule = f"the mesh's data axis has {data} devices, which must divide it"
        raise refuse(name, size, rule, f"give {nearest}, or another --mesh.data")


def shard_batch(mesh: Mesh, tree: Any) -> Any:
    """Cut every array of a batch along its first axis over the mesh's data axis.

    Args:
        mesh: a mesh with a `data` axis.
        tree: arrays (batch, …); with several processes each gives the rows of its own devices, as
            from `own_part`. Scalars are replicated, as are the fields of a part that it names in
            `whole`, like the conditions of a `Batch` with rows; global arrays stay as they are.

    Returns:
        The same tree of global arrays.

    Raises:
        ValueError: the data axis does not divide a batch.
    """
    sharding, held = NamedSharding(mesh, PartitionSpec("data")), held_places(mesh)

    def put(path, leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        if np.ndim(leaf) == 0:
            return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))
        whole = leaf.shape[0] * mesh.shape["data"] // len(held)
        check_batch(mesh, whole, f"batch{jax.tree_util.keystr(path)}")
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        local, size = np.asarray(leaf), whole // mesh.shape["data"]
        local = local.astype(jax.dtypes.canonicalize_dtype(local.dtype), copy=False)

        def of_device(index):
            place = held.index((index[0].start or 0) // size)
            return local[place * size : (place + 1) * size]

        return jax.make_array_from_callback((whole, *local.shape[1:]), sharding, of_device)

    return _divided(put, lambda leaf: replicate(mesh, leaf), tree)


def batch_shapes(mesh: Mesh, tree: Any) -> Any:
    """Return shapes and types of what `shard_batch` makes of a batch, with how they are divided.

    Args:
        mesh: a mesh with a `data` axis, whose devices need not be there.
        tree: the whole batch, arrays or shapes (batch, …).

    Raises:
        ValueError: the data axis does not divide a batch.
    """

    def placed(leaf, spec):
        sharding = NamedSharding(mesh, spec)
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

    def cut(path, leaf):
        if len(leaf.shape) == 0:
            return placed(leaf, PartitionSpec())
        check_batch(mesh, leaf.shape[0], f"batch{jax.tree_util.keystr(path)}")
        return placed(leaf, PartitionSpec("data"))

    return _divided(cut, lambda leaf: placed(leaf, PartitionSpec()), tree)


def held_places(mesh: Mesh, process: int | None = None) -> list[int]:
    """Return the places along ``data`` of a process's devices, in order.

    Where ``model`` spans processes, several of them have the same.

    Args:
        mesh: a mesh with a `data` axis.
        process: its number; this one by default.
    """
    process = jax.process_index() if process is None else process
    rows = np.moveaxis(mesh.devices, mesh.axis_names.index("data"), 0)
    owners = ({device.process_index for device in row} for row in rows.reshape(len(rows), -1))
    return [place for place, found in enumerate(owners) if process in found]


def own_part(mesh: Mesh, tree: Any) -> Any:
    """Return the rows of a whole batch that this process gives to `shard_batch`.

    Args:
        mesh: a mesh with a `data` axis.
        tree: arrays (batch, …) with the same value on every process.

    Returns:
        The same tree of the rows of this process's devices, what a part names in `whole` undivided;
        the tree itself where there is one process.

    Raises:
        ValueError: the data axis does not divide a batch.
    """
    if jax.process_count() == 1:
        return tree
    held = held_places(mesh)

    def rows(path, leaf):
        check_batch(mesh, len(leaf), f"batch{jax.tree_util.keystr(path)}")
        size = len(leaf) // mesh.shape["data"]
        return leaf[np.concatenate([np.arange(k * size, (k + 1) * size) for k in held])]

    return _divided(rows, lambda leaf: leaf, tree)


def agreed_rows(mesh: Mesh, tree: Any) -> Any:
    """Return this process's rows of a batch, with one value of those that several processes hold.

    Args:
        mesh: a mesh with a `data` axis.
        tree: arrays (rows, …) that each process has found for the rows of its devices.

    Returns:
        The same tree, in NumPy where rows are shared: the first process that holds a row decides.
    """
    everyone = [held_places(mesh, process) for process in range(jax.process_count())]
    if sum(map(len, everyone)) == len(set().union(*everyone)):
        return tree
    from jax.experimental import multihost_utils

    first = {k: p for p in reversed(range(len(everyone))) for k in everyone[p]}
    mine = everyone[jax.process_index()]

    def agree(leaf):
        parts, size = multihost_utils.process_allgather(np.asarray(leaf)), len(leaf) // len(mine)
        starts = [(first[k], everyone[first[k]].index(k) * size) for k in mine]
        return np.concatenate([parts[p][start : start + size] for p, start in starts])

    return jax.tree.map(agree, tree)


def own_rows(tree: Any) -> Any:
    """Return the rows that this process holds of arrays that are cut over the data axis, in NumPy.

    Args:
        tree: arrays (batch, …), as from a program that was given what `shard_batch` returns.
    """

    def rows(leaf):
        if leaf.is_fully_addressable:
            return np.asarray(leaf)
        parts = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(rows, tree)


def _divided(cut: Callable[..., Any], keep: Callable[..., Any], tree: Any) -> Any:
    """Map `cut` over the arrays of a batch, with their paths, and `keep` over those left whole."""

    def part(path, node):
        whole = getattr(node, "whole", ())
        if not whole:
            return cut(path, node)
        kept = {name: jax.tree.map(keep, getattr(node, name)) for name in whole}
        rest = node._replace(**dict.fromkeys(whole))  # None has no arrays
        return jax.tree_util.tree_map_with_path(
            lambda below, leaf: cut((*path, *below), leaf), rest
        )._replace(**kept)

    return jax.tree_util.tree_map_with_path(
        part, tree, is_leaf=lambda n: bool(getattr(n, "whole", ()))
    )


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Copy every array of a tree to every device of the mesh.

    Args:
        mesh: the mesh.
        tree: arrays with the same value on every process.

    Returns:
        The same tree of replicated global arrays.
    """
    return place(tree, NamedSharding(mesh, PartitionSpec()))


def place(tree: Any, shardings: Any) -> Any:
    """Put every array of a tree where its sharding says, on any number of processes.

    Args:
        tree: arrays with the same value on every process, or global arrays; typed PRNG keys, which
            JAX places within one process only, travel as their bits.
        shardings: a tree of shardings like `tree`, or one for all of it.

    Returns:
        The same tree of placed arrays.
    """

    def put(leaf, sharding):
        if not is_key(leaf):
            return jax.device_put(leaf, sharding)
        bits = jax.device_put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
    return jax.tree.map(put, tree, shardings)
