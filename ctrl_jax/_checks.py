"""The one door: every refused argument says "name: received v; rule; repair".

Values inside traced arrays are not seen here, so the checks of numbers let tracers pass.
"""

import contextlib
import dataclasses
import math
import numbers
import operator
import os
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def refuse(name: str, value: object, rule: str, repair: str) -> ValueError:
    """Return the error for one argument, "name: received value; rule; repair".

    Args:
        name: the argument as the user writes it, "Owner.name" where the owner is not plain.
        value: what was received; an array is shown by its dtype and shape, one number by itself.
        rule: what it must be.
        repair: what to write instead.

    Returns:
        The `ValueError`, for the caller to raise.
    """
    shown = repr(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        known = value.ndim == 0 and not isinstance(value, Tracer)
        shown = repr(value.item()) if known else f"{value.dtype}{list(value.shape)}"
    return ValueError(f"{name}: received {shown}; {rule}; {repair}")


@contextlib.contextmanager
def under_names(**names: str) -> Iterator[None]:
    """Let errors about arguments be about what the user gave for them.

    Args:
        **names: what the user calls it, by the name of the argument that errors begin with.

    Raises:
        ValueError: those raised within, under the user's names.
    """
    try:
        yield
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        if name not in names:
            raise
        raise ValueError(f"{names[name]}{colon}{rest}") from error


def check_unused(
    config: Any, names: Iterable[str], rule: str, repair: str = "leave it out"
) -> None:
    """Refuse options that nothing would read.

    Args:
        config: a dataclass instance.
        names: the fields that are not read, "a.b" for field b of the group a.
        rule: why they are not.
        repair: what to do instead.

    Raises:
        ValueError: one of them is not its default.
    """
    for name in names:
        given = operator.attrgetter(name)(config)
        if given != _default(config, *name.split(".")):
            # The options of a run have no prefix on the command line.
            raise refuse(name.removeprefix("run."), given, rule, repair)


def _default(config: Any, first: str, *rest: str) -> Any:
    field = next(field for field in dataclasses.fields(config) if field.name == first)
    made = field.default_factory is not dataclasses.MISSING
    value = field.default_factory() if made else field.default  # pyright: ignore[reportCallIssue]
    return operator.attrgetter(".".join(rest))(value) if rest else value


def check_positive(name: str, value: object) -> None:
    """Raise ValueError, about `name`, unless `value` is a finite number above zero."""
    number = check_finite(name, value)
    if number <= 0:
        raise refuse(name, value, "it must be above zero", "give a positive number")
    kind = _type_of(value)
    if number < np.finfo(kind).tiny:
        rule = f"it must be above zero, and in {kind.__name__} it is zero"
        raise refuse(name, value, rule, f"give {np.finfo(kind).tiny:.2g} or more")


def check_all_positive(owner: str, **values: object) -> bool:
    """Raise ValueError unless every concrete value is a finite number above zero.

    Args:
        owner: the class or function whose arguments they are.
        **values: the arguments.

    Returns:
        Whether all were concrete, so that the caller may compare them.
    """
    for name, value in values.items():
        check_positive(f"{owner}.{name}", value)
    return not any(isinstance(value, Tracer) for value in values.values())


def check_non_negative(name: str, value: object) -> None:
    """Raise ValueError, about `name`, unless `value` is a finite number, zero or above."""
    if check_finite(name, value) < 0:
        raise refuse(name, value, "it must be zero or above", "give 0 or a positive number")


def check_fraction(name: str, value: object) -> None:
    """Raise ValueError, about `name`, unless `value` is a finite number in [0, 1]."""
    if not isinstance(value, Tracer) and not 0 <= check_finite(name, value) <= 1:
        raise refuse(name, value, "it must lie in [0, 1]", "give a fraction such as 0.5")


MOST = 2**31 - 1
"""The largest count: updates, places and sizes are counted in 32 bits on the devices."""


_MOST = {"depth": 10_000, "blocks": 10_000, "seeds": 10_000}
"""Counts of what the host makes one by one, before anything refuses them for want of memory."""


def check_count(name: str, value: object, *, least: int = 1, most: int | None = None) -> None:
    """Raise ValueError, about `name`, unless `value` is a whole number from `least` to `most`."""
    if most is None:
        most = _MOST.get(name.replace(".", "_").rpartition("_")[2], MOST)
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:  # pyright: ignore[reportOperatorIssue]
        rule = f"it must be a whole number of at least {least}"
        raise refuse(name, value, rule, f"give {least} or more")
    if value > most:  # pyright: ignore[reportOperatorIssue]
        raise refuse(name, value, f"it must be at most {most}", "give a smaller one")


def check_seed(name: str, value: object) -> None:
    """Raise ValueError, about `name`, unless `value` is a whole number below 2**32."""
    check_count(name, value, least=0, most=2**32 - 1)


def check_divides(name: str, part: float, of: str, whole: float) -> int:
    """Return how often a length goes into another, a whole number.

    Args:
        name: of the part, as the user writes it.
        part: its length, above zero.
        of: name of the whole.
        whole: its length.

    Raises:
        ValueError: it does not go into it a whole number of times, up to rounding, or more than
            2^24 times, of which float32 tells no more apart.
    """
    check_positive(name, part)
    check_positive(of, whole)
    if whole > 2**24 * part:
        rule = f"{of} = {whole!r} must hold at most 2**24 of it"
        raise refuse(name, part, rule, f"give one such as {whole / 1000:.6g}")
    number = max(round(whole / part), 1)
    if abs(number * part - whole) > 1e-6 * whole:
        repair = f"give {name} {whole / number:.10g}, or {of} {number * part:.10g}"
        rule = f"it must go into {of} = {whole!r} a whole number of times"
        raise refuse(name, part, rule, repair)
    return number


def check_shape(shape: tuple[int, ...], *, name: str = "shape") -> None:
    """Raise ValueError unless a shape is of whole numbers, and of less than 2^40 in all."""
    for i, size in enumerate(shape):
        check_count(f"{name}[{i}]", size, least=0)
    if math.prod(shape) >= 2**40:
        raise refuse(name, shape, "it must hold fewer than 2**40 numbers", "draw a part at a time")


def check_entries(owner: str, **arrays: Any) -> None:
    """Raise ValueError, about "owner.name", if a concrete array holds NaN or infinity."""
    for name, array in arrays.items():
        if isinstance(array, Tracer):
            continue
        kind = getattr(array, "dtype", None)
        if kind is None or not (jnp.issubdtype(kind, jnp.floating) or kind.kind in "iu"):
            rule = "it must be an array of real numbers"
            raise refuse(f"{owner}.{name}", array, rule, "give one, such as jnp.asarray([0.5])")
        if not np.isfinite(np.asarray(array)).all():
            rule = "every entry must be a finite number"
            raise refuse(f"{owner}.{name}", np.asarray(array).tolist(), rule, "mend or drop it")


def check_decay(name: str, value: float) -> None:
    """Raise ValueError, about `name`, unless `value` is a decay of a moving average, in [0, 1)."""
    check_fraction(name, value)
    if value == 1:
        raise refuse(name, value, "an average with it would never move", "give a smaller one")


def check_whole(name: str, values: object) -> None:
    """Raise ValueError, about `name`, if JAX would wrap whole numbers into others.

    In 32 bits 2**32 + 5 becomes 5 without a word. Arrays of JAX's have been wrapped before, or not.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.size:
        bits = 8 * jax.numpy.result_type(int).itemsize  # 32, unless 64 are enabled
        kind = np.iinfo(f"{'u' if values.dtype.kind == 'u' else ''}int{bits}")
        least, most = int(values.min()), int(values.max())
        if least < kind.min or most > kind.max:
            wrong = most if most > kind.max else least
            rule = f"JAX holds whole numbers from {kind.min} to {kind.max}"
            raise refuse(name, wrong, rule, "give smaller ones, or enable 64 bits")


def check_distinct(name: str, values: tuple) -> None:
    """Raise ValueError, about `name`, unless there are values, no two of them the same."""
    if not values or len(set(values)) < len(values):
        raise refuse(name, values, "it must name one or more, each once", "leave it out")


def check_fields(
    config: Any, check: Callable[..., Any], *names: str, group: str = "", **how: Any
) -> None:
    """Apply a check to fields of a config, each by its name; to all that a tuple holds.

    Args:
        config: a dataclass instance.
        check: such as `check_count`.
        *names: of the fields.
        group: the option that the config is, whose name stands before those of its fields.
        **how: what the check takes besides.
    """
    hints = typing.get_type_hints(type(config))
    for name in names:
        value = getattr(config, name)
        several = isinstance(value, tuple) and "tuple" in str(hints[name])
        for each in value if several else (value,):
            check(f"{group}.{name}" if group else name, each, **how)


def check_numbers(config: Any, group: str) -> None:
    """Raise ValueError unless whole numbers of a config are counts, and all others above zero."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None:
            check = check_count if isinstance(value, int) else check_positive
            check(f"{group}.{field.name}", value)


def check_path(name: str, value: Any) -> None:
    """Raise ValueError, about `name`, unless `value` is a path that the system can look for."""
    fine = isinstance(value, str | os.PathLike)
    if fine:
        try:
            os.stat(value)
        except FileNotFoundError:
            pass
        except (OSError, ValueError):  # too long, or a character that no path has
            fine = False
    if not fine:
        raise refuse(name, value, "it must be a path that can be read", "give another")


def check_annotated(config: Any, owner: str, *, signed: tuple[str, ...] = ()) -> None:
    """Raise ValueError unless the fields of a config are what their annotations say.

    Args:
        config: a dataclass instance; fields of `int` are counts, those of `float` above zero, alone
            or within tuples; None is left where it is allowed.
        owner: its name.
        signed: numbers that may be zero or below.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value, parts = getattr(config, name), typing.get_args(hint)
        if value is None and type(None) in parts:
            continue
        kinds = [kind for kind in (int, float) if kind in (hint, *parts)]
        if typing.get_origin(hint) is tuple and kinds and not isinstance(value, tuple | list):
            raise refuse(f"{owner}.{name}", value, "it must be a tuple of numbers", "give one")
        several = value if typing.get_origin(hint) is tuple and value is not None else (value,)
        for each in several if kinds else ():
            check = check_finite if name in signed else check_positive
            (check_count if kinds == [int] else check)(f"{owner}.{name}", each)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError, about `name`, unless `value` is one of `choices`."""
    if value not in choices:
        raise refuse(
            name, value, "it must be one of the known choices", "give " + "|".join(choices)
        )


def check_end(
    end: float,
    horizon: float,
    *,
    name: str = "end",
    zero: bool = False,
    latest: float | None = None,
    usual: float | None = None,
) -> None:
    """Raise ValueError unless a time lies in (0, horizon), or is zero where that is allowed.

    Args:
        end: the time.
        horizon: the last time.
        name: of the argument.
        zero: whether zero is allowed.
        latest: a time before the horizon that it must not reach.
        usual: a good one, a thousandth of the horizon where none is known.
    """
    check_finite(name, end)
    usual = 1e-3 * horizon if usual is None else usual
    repair = f"give a small forward time such as {usual:g}"
    if not 0 <= end < horizon or (end == 0 and not zero):
        bracket = "[" if zero else "("
        rule = f"it must lie in {bracket}0, horizon) = {bracket}0, {horizon})"
        raise refuse(name, end, rule, repair)
    if latest is not None and end >= latest:
        rule = f"it must lie before {latest:g}, the last time that tells of the data"
        raise refuse(name, end, rule, repair)


def check_finite_growth(owner: str, *variances: Any) -> None:
    """Raise ValueError if a variance at the horizon, or its rate, overflows (unless traced)."""
    if any(isinstance(value, Tracer) for value in variances):
        return
    largest = max(float(value) for value in variances)
    if not math.isfinite(largest):
        raise refuse(
            f"{owner}.horizon",
            largest,
            "a variance or its rate grows beyond the largest number on the way there",
            "shorten the horizon, lower the rate, or enable float64",
        )


def check_finite(name: str, value: object) -> float:
    """Return a finite number, or 1, which every check lets pass, for a tracer.

    Raises:
        ValueError: `value` is no number, or infinite or NaN.
    """
    if isinstance(value, Tracer):
        return 1.0
    number = value
    if isinstance(value, jax.Array | np.ndarray | np.generic) and value.ndim == 0:
        number = value.item()
    real = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not real or not _is_finite(number):
        raise refuse(name, value, "it must be a finite number", "give a plain number such as 0.1")
    return float(number)  # pyright: ignore[reportArgumentType]


def as_float(value: Any) -> Any:
    """Return a whole number as a floating one, and all else as it is.

    JAX counts in 32 bits: a rate of 10**23 is a number that only floating types hold.
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and _is_finite(value)
    return float(value) if whole else value


def _is_finite(number: Any) -> bool:
    try:
        return abs(float(number)) <= float(np.finfo(_type_of(number)).max)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _type_of(number: Any) -> type[np.floating]:
    """Return the floating type that a number is computed with."""
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    return np.float64 if wide or isinstance(number, np.ndarray | np.generic) else np.float32
