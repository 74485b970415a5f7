"""A large batch through a function, some rows at a time: pictures of latents, within memory."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

TOGETHER = 8
"""Pictures that a device decodes at once: of 512 x 512 pixels some gigabytes."""


def in_pieces(
    function: Callable[[Array], Array], x: Float[Array, "batch ..."], devices: int = 1
) -> Float[Array, "batch ..."]:
    """Return ``function(x)`` of rows that do not know of each other, some at a time.

    A piece takes every n-th row, so that each device keeps those that it has.

    Args:
        function: of a batch.
        x: its rows, divided over devices in their order.
        devices: over which they are divided.
    """
    size = x.shape[0]
    fitting = [n for n in range(devices, size + 1, devices) if size % n == 0]
    at_once = max((n for n in fitting if n <= TOGETHER * devices), default=size)
    if at_once == size:
        return function(x)
    pieces = x.reshape(at_once, size // at_once, *x.shape[1:]).swapaxes(0, 1)
    # Where it is differentiated, one piece at a time is in memory.
    found = jax.lax.map(jax.checkpoint(function), pieces).swapaxes(0, 1)
    return found.reshape(size, *found.shape[2:])
