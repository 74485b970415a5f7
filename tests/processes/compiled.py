"""Laws are computed by one program each: a hundred small ones would each be compiled apart."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def compiled(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return what `function` says of NumPy inputs, by one program, as NumPy arrays."""
    return jax.tree.map(np.asarray, jax.jit(function)(*inputs))


def in_double(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return the same in double precision."""
    with jax.enable_x64(True):
        return compiled(function, *inputs)
