"""Checks of scalar arguments at the door: which argument, what was received, the rule."""

import math

from jax.core import Tracer


def require_positive(owner: str, **values: float) -> bool:
    """Raise ValueError unless every concrete scalar is a positive finite number.

    Returns:
        Whether all were concrete, so that the caller may compare them.
    """
    concrete = {name: value for name, value in values.items() if not isinstance(value, Tracer)}
    for name, value in concrete.items():
        number = float(value)
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{owner}: {name} must be a positive finite number, got {value!r}.")
    return len(concrete) == len(values)
