"""The cores of a CPU as devices of their own, for runs side by side that differ in a key alone.

One device's operations use all cores by themselves, where they are large. Many small ones do not:
where seeds train a few numbers each, side by side, every core doing its own seeds takes less time.
"""

import contextlib
import os
from typing import Any

import jax


def cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def use_cores(runs: int) -> None:
    """Let the CPU pose as a device for each core, before JAX's first use; of no effect after that.

    There are no more of them than give each device as few runs as possible, and none is added where
    the user has said how many there are (``JAX_NUM_CPU_DEVICES``, ``XLA_FLAGS``).

    Args:
        runs: that the devices divide among them.
    """
    config: Any = jax.config  # whose options type checkers do not see
    flags = os.environ.get("XLA_FLAGS", "")
    if config.jax_num_cpu_devices > 0 or "host_platform_device_count" in flags:
        return
    each = -(-runs // cores())
    with contextlib.suppress(RuntimeError):
        config.update("jax_num_cpu_devices", -(-runs // each))
