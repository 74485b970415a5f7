"""Odd values by the kind of an argument, and what an outcome must be.

A valid call is a function and its arguments, each marked by its kind; in a draw one or two of them
are replaced by values that a hurried user might give.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NAN, INF = float("nan"), float("inf")
NO_NUMBERS: tuple[Any, ...] = ("", "nan", [], None, 1j, object(), {}, (1, 2), np.array(["a"]))
NUMBERS = (NAN, INF, -INF, -1, -0.5, 0, 0.0, 1e300, -1e300, 1e-300, 10**23, 2**40, 1.5, True)
SCALARS = (np.float32(0.3), np.float64(NAN), np.array(0.3), np.array([0.3]), np.int64(3))
ON_DEVICE = (lambda: jnp.ones(1), lambda: jnp.array(0.3), lambda: jnp.array(NAN))
ODD_SHAPES = ((), (-1, 2), (0, 2), (1.5, 2), (2**40, 2), (10**23,), (True, 2), ("a",), (None, 2))
ODD_KEYS = (0, 10**23, -1, NAN, np.zeros(3, np.uint32), np.zeros((2, 2), np.uint32))


class Number(NamedTuple):
    value: Any
    optional: bool = False


class Count(NamedTuple):
    value: Any
    optional: bool = False


class Values(NamedTuple):
    """An array, made anew at each call."""

    value: Any
    optional: bool = False


class Choice(NamedTuple):
    value: Any
    optional: bool = False


class Shape(NamedTuple):
    value: Any
    optional: bool = False


class Key(NamedTuple):
    value: Any = 0
    optional: bool = False


def odd_arrays(x: np.ndarray) -> list[Callable[[], Any]]:
    """Return what may stand in the place of an array."""
    return [
        lambda: x.astype(np.float16),
        lambda: (np.abs(x) * 10).astype(np.uint8),
        lambda: x.astype(np.int32),
        lambda: x.astype(np.int64),
        lambda: x.astype(bool),
        lambda: x.astype(np.complex64),
        lambda: x.astype(object),
        lambda: x.astype(str),
        lambda: x.astype(np.float64),
        lambda: x.tolist(),
        lambda: x[..., None],
        lambda: x[None],
        lambda: x[:0],
        lambda: x[:-1] if x.ndim else x,
        lambda: x[0] if x.ndim else x,
        lambda: np.concatenate([x, x]) if x.ndim else np.stack([x, x]),
        lambda: np.full(x.shape, NAN, np.float32),
        lambda: np.full(x.shape, INF, np.float32),
        lambda: np.zeros(x.shape, np.float32),
        lambda: jnp.asarray(x),
        lambda: jnp.asarray(x, jnp.bfloat16),
        lambda: jnp.zeros((1,)),
        lambda: 0.5,
        lambda: True,
        lambda: None,
        lambda: "",
        lambda: "nan",
        lambda: [],
        lambda: {},
        lambda: 10**23,
    ]


def odd(kind: Any) -> list[Callable[[], Any]]:
    """Return what may stand in the place of an argument of a kind."""
    match kind:
        case Number() | Count():
            plain = (*NUMBERS, *NO_NUMBERS, *SCALARS)
            return [*(lambda v=v: v for v in plain), *ON_DEVICE]
        case Values():
            return odd_arrays(np.asarray(kind.value))
        case Choice():
            return [lambda v=v: v for v in ("", "nan", None, 0, NAN, True, [], "a" * 10_000, "ß")]
        case Shape():
            return [lambda v=v: v for v in (*ODD_SHAPES, None, 3, "ab", NAN, [2, 2])]
        case Key():
            old = (lambda: jax.random.PRNGKey(0),)
            return [*(lambda v=v: v for v in (*ODD_KEYS, None, "")), *old]
    raise TypeError(kind)


def plain(kind: Any) -> Any:
    """Return the valid value of an argument."""
    match kind:
        case Values():
            return None if kind.value is None else jnp.asarray(kind.value)
        case Key():
            return jax.random.key(0)
        case Number() | Count() | Choice() | Shape():
            return kind.value
    return kind


def drawable(arguments: dict[str, Any]) -> list[str]:
    """Return the names of the arguments that odd values may replace."""
    kinds = Number | Count | Values | Choice | Shape | Key
    return [name for name, kind in arguments.items() if isinstance(kind, kinds)]


FORM = re.compile(r"^[^;]{1,90}: received .+; .+; .+", re.DOTALL)


def leaves(result: Any) -> list[Any]:
    """Return the arrays of a result."""
    return [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array | np.ndarray | float)]
