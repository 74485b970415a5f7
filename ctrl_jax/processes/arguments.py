"""Checks of scalar arguments at the door: which argument, what was received, the rule."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float


def require_positive(owner: str, **values: float | Array) -> bool:
    """Raise ValueError unless every concrete scalar is a positive finite number.

    Returns:
        Whether all were concrete, so that the caller may compare them.
    """
    concrete = {name: value for name, value in values.items() if not isinstance(value, Tracer)}
    for name, value in concrete.items():
        number = float(value)
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{owner}: {name} must be a positive finite number, got {number:g}.")
    return len(concrete) == len(values)


def require_unused(config: Any, names: Sequence[str], reason: str) -> None:
    """Raise ValueError where a field that does not apply differs from its default.

    Args:
        config: a dataclass instance.
        names: fields that nothing reads.
        reason: what makes them useless, such as ``penalty='clipped'``.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in names and value != field.default:
            raise ValueError(
                f"{type(config).__name__}: {field.name} is not used with {reason}, got {value!r}; "
                "leave it out."
            )


def require_end(end: float, horizon: float, *, zero: bool = False) -> None:
    """Raise ValueError unless `end` lies in (0, horizon), or is zero where that is allowed."""
    if not 0 <= end < horizon or (end == 0 and not zero):
        bracket = "[" if zero else "("
        raise ValueError(
            f"end must lie in {bracket}0, horizon) = {bracket}0, {horizon}), got {end!r}."
        )


def require_bounded_growth(owner: str, exponent: float | Array) -> None:
    """Raise ValueError if e^exponent, a variance or its rate, overflows (unless traced)."""
    if isinstance(exponent, Tracer):
        return
    largest = math.log(jnp.finfo(jax.dtypes.canonicalize_dtype(float)).max)
    if not float(exponent) < largest:
        raise ValueError(
            f"{owner}: variances or their rate grow to e^{float(exponent):.1f} up to the horizon "
            f"and may reach e^{largest:.1f}; shorten the horizon, lower the rate, or enable "
            "float64."
        )


def real(value: Any) -> Array:
    """Return a number, nested sequence or array as an array of the default real type."""
    return jnp.asarray(value, float)


def constant(value: float | Array, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
    """Return `value` in the shape of t and in its type, or in the default one for integer times."""
    t = jnp.asarray(t)
    floating = jnp.issubdtype(t.dtype, jnp.floating)
    dtype = t.dtype if floating else jax.dtypes.canonicalize_dtype(float)
    return jnp.full(t.shape, value, dtype)
