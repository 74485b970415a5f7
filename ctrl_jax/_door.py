"""The door of functions of arrays: what comes in is what the annotations of the function say.

An annotation such as ``Float[Array, "batch d"]`` is a promise that its reader makes; here it is
kept. Numbers of other kinds (integers, booleans, lists, arrays of NumPy) become floating ones, so
that nothing wraps around or is computed in whole numbers; what is no real number is refused, and
so are shapes that do not fit each other, which would else broadcast to another result.
"""

import contextlib
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import AbstractArray, jaxtyped

from ctrl_jax._checks import as_float, check_whole, refuse

Function = TypeVar("Function", bound=Callable[..., Any])

_KINDS = {"float": "floating numbers", "int": "whole numbers", "bool": "true and false"}


class _Promise(NamedTuple):
    """What an annotation says: forms of an array, and what else will do."""

    arrays: tuple[Any, ...]
    kind: str
    number: bool
    optional: bool
    others: tuple[type, ...]


def at_the_door(function: Function) -> Function:
    """Let a function check its arrays, numbers and keys, before it begins, by its annotations.

    Args:
        function: with annotated arguments; those of no array are not looked at.

    Returns:
        The same function of what was read, which raises ValueError about an argument of another
        kind or of a shape that does not fit.
    """
    signature = inspect.signature(function)
    promises = {name: promise(p.annotation) for name, p in signature.parameters.items()}
    promises = {name: found for name, found in promises.items() if found is not None}
    keys = [n for n, p in signature.parameters.items() if n == "key" and p.annotation is jax.Array]
    plain = [n for n, p in signature.parameters.items() if _is_plain(p.annotation)]

    @functools.wraps(function)
    def checked(*arguments, **named):
        bound = signature.bind(*arguments, **named)
        given = bound.arguments
        for name in keys:
            check_key(name, given[name])
        for name in plain:
            if name in given:
                given[name] = as_float(given[name])
        with jaxtyped("context"):
            for name in promises.keys() & given.keys() if promises else ():
                given[name] = read(name, given[name], promises[name])
            _check_shapes({name: given[name] for name in promises if name in given}, promises)
        return function(*bound.args, **bound.kwargs)

    return checked  # pyright: ignore[reportReturnType]


def _is_plain(annotation: Any) -> bool:
    """Return whether an annotation is of one floating number and no array."""
    return annotation in (float, float | None)


def promise(annotation: Any) -> _Promise | None:
    """Return what an annotation says of an array; None where it is not of one."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(annotation) if union else (annotation,)
    arrays = tuple(p for p in parts if inspect.isclass(p) and issubclass(p, AbstractArray))
    if not arrays:
        return None
    kinds = {str(dtype).rstrip("0123456789_") for form in arrays for dtype in form.dtypes}
    kind = next((kind for kind in _KINDS if any(k.endswith(kind) for k in kinds)), "float")
    plain = (float, int, type(None))
    others = [typing.get_origin(part) or part for part in parts if part not in arrays + plain]
    others = tuple(part for part in others if inspect.isclass(part) and part is not jax.Array)
    return _Promise(arrays, kind, float in parts, type(None) in parts, others)


def read(name: str, value: Any, promised: _Promise) -> Any:
    """Return an argument as an array of the promised kind, or as the one number that will do.

    Args:
        name: of the argument.
        value: what was given.
        promised: what its annotation says.

    Raises:
        ValueError: it is no real number and no array of such, or a number that is NaN or too large.
    """
    if (value is None and promised.optional) or isinstance(value, promised.others):
        return value
    if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool):
        return _number(name, value, promised)
    array = value
    if isinstance(value, list | tuple):
        array = _listed(value)
    if not isinstance(array, jax.Array | np.ndarray | np.generic):
        what = "a number" if promised.number else f"an array of {_KINDS[promised.kind]}"
        raise refuse(name, value, f"it must be {what}", "give one")
    if promised.number and array.ndim == 0 and jnp.issubdtype(array.dtype, jnp.bool_):
        raise refuse(name, value, "it must be a number", "give one")
    known = promised.number and array.ndim == 0 and not isinstance(array, Tracer)
    if known and jnp.issubdtype(array.dtype, jnp.floating) and np.isnan(np.asarray(array, float)):
        raise refuse(name, value, "it must be a finite number", "give one such as 0.1")
    return _of_kind(name, array, promised.kind)


def read_real(name: str, value: Any) -> Any:
    """Return real numbers of any shape as an array of the default floating type.

    Args:
        name: of the argument, as the user writes it.
        value: what was given.

    Raises:
        ValueError: it is no real number and no array of such.
    """
    number = not isinstance(value, list | tuple) and not hasattr(value, "ndim")
    promised = _Promise((), "float", number, False, ())
    return jnp.asarray(read(name, value, promised), float)


def read_host(name: str, value: Any) -> np.ndarray:
    """Return real numbers of any shape as an array of float64 on the host.

    Args:
        name: of the argument, as the user writes it.
        value: what was given.

    Raises:
        ValueError: it is no array of real numbers.
    """
    array = _listed(value)
    dtype = np.dtype(object) if array is None else array.dtype
    if not jnp.issubdtype(dtype, jnp.floating) and dtype.kind not in "iub":
        raise refuse(name, value, "it must hold real numbers", "give an array of such")
    return np.asarray(array, np.float64)


def real_as(name: str, rank: int) -> Callable[[Any], Any]:
    """Return the converter of a field to real numbers of so many axes, which names it.

    Args:
        name: of the field, "Owner.name".
        rank: 0 for a number, 2 for a matrix.
    """

    def convert(value: Any) -> Any:
        found = read_real(name, value)
        if found.ndim != rank:
            what = ("one number", "a vector", "a matrix")[rank]
            raise refuse(name, found, f"it must be {what}", f"give {what}")
        return found

    return convert


def check_key(name: str, value: Any) -> None:
    """Raise ValueError, about `name`, unless `value` is one key of JAX, of the new style or old."""
    dtype = getattr(value, "dtype", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and value.ndim == 0
    # Old keys have two words by default, and four of another generator.
    if not new and (dtype != np.uint32 or value.ndim != 1 or value.shape[0] not in (2, 4)):
        rule = "it must be one random key"
        raise refuse(name, value, rule, "give jax.random.key(0), or use vmap for several")


def _number(name: str, value: Any, promised: _Promise) -> Any:
    if promised.kind != "float":
        return _of_kind(name, np.asarray(value), promised.kind)
    if not _fits(value):
        rule = "it must be a finite number" + ("" if value != value else " of the floating type")
        raise refuse(name, value, rule, "give one such as 0.1")
    if promised.number and not isinstance(value, np.generic):
        return float(value)
    # A plain number takes the type of the arrays beside it.
    return jnp.asarray(value if isinstance(value, np.floating) else float(value))


def _fits(value: Any) -> bool:
    try:
        size = abs(float(value))
    except OverflowError:
        return False
    return size <= float(jnp.finfo(jnp.result_type(float)).max) or size == math.inf


def _listed(value: Any) -> Any:
    try:
        return np.asarray(value)
    except (ValueError, TypeError):  # of several lengths, or of traced numbers
        with contextlib.suppress(ValueError, TypeError):
            return jnp.asarray(value)
        return None


def _of_kind(name: str, array: Any, kind: str) -> Any:
    dtype = array.dtype
    rule = f"it must be of {_KINDS[kind]}"
    if kind == "float":
        if jnp.issubdtype(dtype, jnp.floating):
            return jnp.asarray(array)
        if jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_):
            return jnp.asarray(array, float)
        raise refuse(name, array, rule, "give its real part, or numbers")
    fine = jnp.issubdtype(dtype, jnp.bool_ if kind == "bool" else jnp.integer)
    if not fine:
        raise refuse(name, array, rule, "compare or round it first")
    check_whole(name, array)
    return jnp.asarray(array)


def _check_shapes(given: dict[str, Any], promises: dict[str, _Promise]) -> None:
    for name, value in given.items():
        found = promises[name]
        if not isinstance(value, jax.Array) or any("{" in form.dim_str for form in found.arrays):
            continue
        scalar = found.number and value.ndim == 0
        if not scalar and not any(isinstance(value, form) for form in found.arrays):
            shapes = " or ".join(f"({form.dim_str.strip()})" for form in found.arrays)
            rule = f"its shape must be {shapes}, sizes of one name being the same everywhere"
            raise refuse(name, value, rule, "give it in this shape")
    _check_beside(given, promises)


def _check_beside(given: dict[str, Any], promises: dict[str, _Promise]) -> None:
    """Refuse a vector that has neither one number for all nor one for each example beside it."""
    arrays = {name: value for name, value in given.items() if isinstance(value, jax.Array)}
    forms = {name: promises[name].arrays[0].dim_str.split() for name in arrays}
    sizes = {arrays[n].shape[0] for n, form in forms.items() if form[:1] == ["batch"]}
    for name, value in arrays.items():
        free = len(forms[name]) == 1 and forms[name][0].startswith("*")
        if free and sizes and value.ndim == 1 and value.shape[0] not in sizes | {1}:
            rule = f"it must be one number, or one for each of {min(sizes)} examples"
            raise refuse(name, value, rule, "give it in this shape")
