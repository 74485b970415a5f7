"""What came back from outside, as one finite number per picture."""

import numbers
from typing import Any

import jax
import numpy as np

from ctrl_jax.rewards.outside.faults import Fault, shown


def read_values(answer: Any, number: int) -> np.ndarray:
    """Return the values of an answer, shape (number,), in JAX's default floating type.

    Args:
        answer: a list, or an array or tensor of any library that has ``tolist``; true is 1.
        number: of the pictures.

    Raises:
        Fault: there is another number of values, one is no number, or one is not finite.
    """
    answer = _plain(answer)
    if not isinstance(answer, list | tuple):
        said = f"it returned {_kind(answer)} in place of a list or an array of {number} numbers"
        raise Fault(said)
    if len(answer) != number:
        said = f"it returned {len(answer)} values for {number} pictures"
        raise Fault(said, "wrong_number")
    with np.errstate(over="ignore"):
        values = np.asarray([_number(each, k) for k, each in enumerate(answer)], np.float64)
        values = values.astype(jax.dtypes.canonicalize_dtype(float))
    if not np.isfinite(values).all():
        k = int(np.flatnonzero(~np.isfinite(values))[0])
        raise Fault(f"value {k} of {number} is {values[k]}", "not_finite")
    return values


def _plain(value: Any) -> Any:
    """Tensors of every library, on every device and of every precision, have this in common."""
    return value.tolist() if hasattr(value, "tolist") else value


def _number(value: Any, k: int) -> float:
    value = _plain(value)
    if not isinstance(value, numbers.Real):
        raise Fault(f"value {k} is {_kind(value)}, not a number")
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, str):
        return shown(repr(value))
    return f"a {type(value).__name__}"
