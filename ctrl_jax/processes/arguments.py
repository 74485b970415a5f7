"""Checks of scalar arguments at the door: which argument, what was received, the rule."""

import math

from jax.core import Tracer


def require_positive(owner: str, **values: float) -> None:
    """Raise ValueError unless every concrete scalar is a positive finite number."""
    for name, value in values.items():
        if isinstance(value, Tracer):
            continue
        number = float(value)
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{owner}: {name} must be a positive finite number, got {value!r}.")
