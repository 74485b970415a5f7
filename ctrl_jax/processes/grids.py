"""Time grids for sampling, increasing in reverse time r = horizon - t.

Each returns the ``steps + 1`` reverse times from 0 to ``horizon - end``, where `end` > 0 is the
forward time at which sampling stops (scores of data are singular at t = 0).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax.processes.linear import LinearProcess


def uniform(process: LinearProcess, steps: int, *, end: float = 1e-3) -> Float[Array, " {steps}+1"]:
    """Return times at equal distances.

    Args:
        process: the forward process.
        steps: number of steps, at least 1.
        end: forward time of the last point, in the process's unit, in [0, horizon).
    """
    return _polynomial(process, steps, end, power=1)


def quadratic(
    process: LinearProcess, steps: int, *, end: float = 1e-3
) -> Float[Array, " {steps}+1"]:
    """Return forward times that are squares of equidistant numbers: finer towards the data."""
    return _polynomial(process, steps, end, power=2)


def log_snr(process: LinearProcess, steps: int, *, end: float = 1e-3) -> Float[Array, " {steps}+1"]:
    """Return times at equal distances of the log signal-to-noise ratio log(a / std).

    The inverse is found on the host by interpolation of a fine table: `process` is concrete.
    """
    _check(process, steps, end)
    if end == 0:
        raise ValueError("end must be positive for log_snr, whose ratio is infinite at 0, got 0.")
    table = np.concatenate(
        [np.geomspace(min(end, 1e-6 * process.horizon), process.horizon, 20001), [end]]
    )
    table = np.unique(table[table >= end])
    with jax.ensure_compile_time_eval():  # concrete under jit too
        scale, std = process.marginal(jnp.asarray(table))
    log_ratio = np.log(np.asarray(scale, np.float64)) - np.log(np.asarray(std, np.float64))
    levels = np.linspace(log_ratio[-1], log_ratio[0], steps + 1)
    times = np.interp(-levels, -log_ratio, table)
    times[0], times[-1] = process.horizon, end
    return jnp.asarray(process.horizon - times)


def _polynomial(process: LinearProcess, steps: int, end: float, *, power: int) -> Array:
    _check(process, steps, end)
    roots = np.linspace(process.horizon ** (1 / power), end ** (1 / power), steps + 1)
    times = roots**power
    times[0], times[-1] = process.horizon, end
    return jnp.asarray(process.horizon - times)


def _check(process: LinearProcess, steps: int, end: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if not 0 <= end < process.horizon:
        raise ValueError(f"end must lie in [0, horizon) = [0, {process.horizon}), got {end}.")
