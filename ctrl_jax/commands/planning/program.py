"""An update as a program on shapes, and what its compiler and its text say of it."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._checks import refuse
from ctrl_jax.algorithms import RunState
from ctrl_jax.runtime.checkpoints.digests import is_key
from ctrl_jax.runtime.devices.chips import Chip
from ctrl_jax.runtime.devices.costs import Costs, costs_of
from ctrl_jax.runtime.devices.memory import needed_of
from ctrl_jax.runtime.devices.operations import operations_of
from ctrl_jax.runtime.loop.compilation import jit_step


class Program(NamedTuple):
    """The update of a command, on shapes.

    Fields:
        step: ``step(state, batch)``, or ``step(state, batch, fixed)``, as the command compiles it.
        state: shapes and types of the state, with how it is divided.
        batch: the same of a batch.
        fixed: the same of what no gradient moves; None for a step without.
        examples: of an update, over all devices.
        unit: what they are, such as "images".
        beside: shapes of what the command holds at the same time, and no update reads.
        tokens: of all examples together, without padding; None where examples are no texts.
    """

    step: Callable[..., Any]
    state: RunState
    batch: Any
    fixed: Any
    examples: int
    unit: str
    beside: Any = None
    tokens: float | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the step is called with."""
        return (self.state, self.batch, *(() if self.fixed is None else (self.fixed,)))


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a program needs of each device, in bytes.

    Args:
        parameters: what is trained, and what no gradient moves.
        optimizer: of what is trained.
        rest: the other arguments: averages, keys, the batch; and what tiling adds.
        results: what has no argument's place.
        temporaries: all that it needs in between, activations among them.
        beside: what the command holds at the same time.
        activations: the share of the temporaries that grows with the batch; None where only one
            batch was compiled.
    """

    parameters: int
    optimizer: int
    rest: int
    results: int
    temporaries: int
    beside: int = 0
    activations: int | None = None

    @property
    def total(self) -> int:
        """All of it at once."""
        kept = self.parameters + self.optimizer + self.rest + self.beside
        return kept + self.results + self.temporaries


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What is known of a program compiled for a mesh.

    Args:
        memory: of each device.
        costs: of each device, in one update.
        share: operations of each device if all that the program asks for were divided evenly.
        lowering: seconds that it took to write the program down.
        compiling: seconds that the compiler took.
    """

    memory: Memory
    costs: Costs
    share: float
    lowering: float
    compiling: float


class TooLarge(ValueError):
    """The compiler refuses a program for want of memory.

    Args:
        needed: bytes that it names; 0 where it names none.
    """

    def __init__(self, text: str, needed: int):
        super().__init__(text)
        self.needed = needed


def compiled(program: Program, mesh: Mesh) -> Compiled:
    """Compile a program for devices that need not be there.

    Args:
        program: on shapes that say how they are divided.
        mesh: of the devices.

    Raises:
        TooLarge: the compiler finds that a device has too little memory.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.state)
    jitted: Any = jit_step(program.step, mesh, shardings)
    platform = mesh.devices.flat[0].platform
    began = time.perf_counter()
    traced = jitted.trace(*program.arguments)
    lowered = traced.lower(lowering_platforms=(platform,))
    middle = time.perf_counter()
    try:
        found = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = needed_of(error) or 0
        said = f"{needed / 1e9:.1f} GB of a device" if needed else "more than a device has"
        repair = "lower the batch, or take more chips, --mesh.model, remat or bfloat16"
        text = str(refuse("memory", said, "the compiler finds that this is too much", repair))
        raise TooLarge(text, needed) from error
    seconds = time.perf_counter() - middle
    memory = memory_of(program, found.memory_analysis())
    costs = costs_of(text_of(found), mesh.devices.size)
    share = operations_of(traced.jaxpr) / mesh.devices.size
    return Compiled(memory, costs, share, middle - began, seconds)


def text_of(found: Any) -> str:
    """Return the text of a compiled program.

    Raises:
        ValueError: JAX cannot read what the compiler wrote.
    """
    try:
        return found.as_text() or ""
    except jax.errors.JaxRuntimeError as error:
        rule = f"this JAX cannot read what its compiler wrote ({str(error)[:160]})"
        repair = "install the libtpu that this jax asks for (ctrl_jax[tpu]), or take another slice"
        raise refuse("topology", "a compiled program", rule, repair) from error


def memory_of(program: Program, analysis: Any) -> Memory:
    """Return what a program needs of each device, by what it is for.

    Args:
        program: on shapes.
        analysis: the compiler's account.
    """
    learners = program.state.learners.values()
    held = [program.state.reference, program.fixed]
    parameters = on_a_device([*(one.params for one in learners), *held])
    optimizer = on_a_device([one.optimizer for one in learners])
    return Memory(
        parameters,
        optimizer,
        max(analysis.argument_size_in_bytes - parameters - optimizer, 0),
        max(analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0),
        analysis.temp_size_in_bytes,
        on_a_device(program.beside),
    )


def on_a_device(tree: Any) -> int:
    """Return the bytes that a tree of shapes takes of each device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if not is_key(leaf):
            total += int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    return total


def placed(tree: Any, mesh: Mesh, specs: Any = None) -> Any:
    """Return shapes and types with how they are divided.

    Args:
        tree: arrays or shapes.
        mesh: of the devices.
        specs: a tree of `PartitionSpec` like it; replicated by default.
    """

    def leaf(array, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    if specs is None:
        return jax.tree.map(lambda array: leaf(array, PartitionSpec()), tree)
    return jax.tree.map(leaf, tree, specs)


def shapes_of(tree: Any) -> Any:
    """Return a tree of shapes and types."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def floors(costs: Costs, chip: Chip) -> Mapping[str, float]:
    """Return the seconds below which no update can take, by what sets them.

    Args:
        costs: of each device.
        chip: its peaks.
    """
    return {
        "arithmetic": costs.flops / chip.flops,
        "memory": costs.bytes / chip.bandwidth,
        "interconnect": costs.sent / chip.interconnect,
    }
