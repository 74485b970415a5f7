"""A model as plain data, and the score that it stands for.

A spec is a frozen dataclass of numbers, words and further such dataclasses, from which process and
network are built again. A class of one's own that has the members of `ModelSpec` is trained, saved
and loaded like those of this package::

    save_model(folder, MySpec(width=32), shape, params)
    load_model(folder, kinds=(MySpec,))
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Model, ScoreFn
from ctrl_jax.processes import LinearProcess

Spec = TypeVar("Spec")


@runtime_checkable
class ModelSpec(Protocol):
    """What a spec says: process, network, prediction, conditions and end."""

    @property
    def end(self) -> float:
        """Forward time at which sampling stops."""
        ...

    @property
    def conditions(self) -> int | None:
        """How many arrays of conditions a score takes; None for any number."""
        ...

    def process(self) -> LinearProcess:
        """Return the forward process."""
        ...

    def make_network(self, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
        """Return the network for examples of a shape, its arithmetic in `dtype`."""
        ...

    def prediction(self, process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
        """Return the score that ``network(t, x, *conditions)`` stands for."""
        ...


def score_model(spec: ModelSpec, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
    """Return the score of a spec, with the parameters of its network.

    Args:
        spec: process, network and what the network predicts.
        shape: of one example.
        dtype: type of the network's arithmetic; that of parameters and inputs by default. The
            score has x's type in any case.

    Returns:
        A `Model` whose ``apply(params, t, x, *conditions)`` is the score at the forward time t.

    Raises:
        ValueError: the network does not fit the shape; from `apply`, another number of conditions.
    """
    process, network = spec.process(), spec.make_network(shape, dtype)

    def score(predict, t, x, *conditions):
        if spec.conditions is not None and len(conditions) != spec.conditions:
            rule = f"a score of {type(spec).__name__} takes {spec.conditions}"
            raise refuse("conditions", len(conditions), rule, "leave the others out")

        def exact(t, x, *conditions):
            return predict(t, x, *conditions).astype(x.dtype)

        return spec.prediction(process, exact)(t, x, *conditions)

    def apply(params, t, x, *conditions):
        return score(partial(network.apply, params), t, x, *conditions)

    dropping = network.train
    if dropping is None:
        return Model(network.init, apply)

    def train(key, params, t, x, *conditions):
        return score(partial(dropping, key, params), t, x, *conditions)

    return Model(network.init, apply, train=train)


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (height, width, channels), or raise ValueError where `shape` is something else."""
    if len(shape) != 3:
        rule = "the network needs images (height, width, channels)"
        raise refuse("shape", shape, rule, "reshape the data, or take an MLP")
    height, width, channels = shape
    return height, width, channels


def from_record(spec_class: type[Spec], record: Mapping[str, Any]) -> Spec:
    """Return the spec whose `dataclasses.asdict` went through JSON.

    Args:
        spec_class: a dataclass of plain values and further such dataclasses.
        record: its fields by name; lists stand for tuples.

    Raises:
        ValueError: a value is out of range.
        TypeError: a field is missing or unknown.
    """
    hints = typing.get_type_hints(spec_class)

    def value(name: str, item: Any) -> Any:
        if isinstance(item, dict) and dataclasses.is_dataclass(hints.get(name)):
            return from_record(hints[name], item)
        return _tuples(item)

    return spec_class(**{name: value(name, item) for name, item in record.items()})


def _tuples(item: Any) -> Any:
    return tuple(map(_tuples, item)) if isinstance(item, list | tuple) else item
