"""Checks at the door: argument, value received, rule, repair.

A command line accepts `--learning-rate nan` and `--steps -5` as a float and an int. These
functions are called by a config's `validate()`; each returns nothing or raises a `ValueError`
of one line in the form `name: received value; rule; repair`.
"""

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any


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
