"""Checks of scalar arguments at the door: which argument, what was received, the rule."""

import dataclasses
import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float


def refuse(name: str, value: object, rule: str, repair: str) -> ValueError:
    """Builds the error for one argument; the caller raises it.

    Args:
        name: The argument as the user writes it.
        value: What was received.
        rule: What it must be.
        repair: What to write instead.

    Returns:
        The `ValueError`, not raised.
    """
    return ValueError(f"{name}: received {value!r}; {rule}; {repair}")


def check_unused(config: Any, names: Iterable[str], rule: str, repair: str) -> None:
    """Raises ValueError if one of these options of a config is not its default.

    Args:
        config: A dataclass that can be made without arguments.
        names: The options that this run would ignore, "a.b" for field b of the group a.
        rule: Why they would be ignored.
        repair: What to do instead.
    """
    default = type(config)()
    for name in names:
        given, usual = (operator.attrgetter(name)(c) for c in (config, default))
        if given != usual:
            # The options of a run have no prefix on the command line.
            raise refuse(name.removeprefix("run."), given, rule, repair)


def _check_finite(name: str, value: object) -> float:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value):  # pyright: ignore[reportArgumentType]
        raise refuse(name, value, "it must be a finite number", "give a plain number such as 0.1")
    return float(value)  # pyright: ignore[reportArgumentType]


def check_positive(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a finite number above zero."""
    if _check_finite(name, value) <= 0:
        raise refuse(name, value, "it must be above zero", "give a positive number")


def check_non_negative(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a finite number, zero or above."""
    if _check_finite(name, value) < 0:
        raise refuse(name, value, "it must be zero or above", "give 0 or a positive number")


def check_fraction(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a finite number in [0, 1]."""
    if not 0 <= _check_finite(name, value) <= 1:
        raise refuse(name, value, "it must lie in [0, 1]", "give a fraction such as 0.5")


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Raises ValueError unless `value` is a whole number of at least `least`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:  # pyright: ignore[reportOperatorIssue]
        rule = f"it must be a whole number of at least {least}"
        raise refuse(name, value, rule, f"give {least} or more")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise refuse(
            name, value, "it must be one of the known choices", "give " + "|".join(choices)
        )


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
