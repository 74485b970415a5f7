"""Time grids for sampling, increasing in reverse time r = horizon - t.

Each returns the ``steps + 1`` reverse times from 0 to ``horizon - end``, where `end` > 0 is the
forward time at which sampling stops (scores of data are singular at t = 0).

`uniform` and `quadratic` space the times themselves. `log_snr` and `edm` space the noise-to-signal
ratio n(t) = std / a, which grows with t for every process, and so mean the same for all of them;
for a process whose n is t (`EDM`) `edm` is the grid of Karras et al. 2022, eq. 5.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_end
from ctrl_jax.processes.base import LinearProcess


def uniform(
    process: LinearProcess, steps: int, *, end: float | None = None
) -> Float[Array, " {steps}+1"]:
    """Return times at equal distances.

    Args:
        process: the forward process.
        steps: number of steps, at least 1.
        end: forward time of the last point, in the process's unit, in [0, horizon); a thousandth
            of the horizon by default.
    """
    return _polynomial(process, steps, end, power=1)


def quadratic(
    process: LinearProcess, steps: int, *, end: float | None = None
) -> Float[Array, " {steps}+1"]:
    """Return forward times that are squares of equidistant numbers: finer towards the data."""
    return _polynomial(process, steps, end, power=2)


def log_snr(
    process: LinearProcess, steps: int, *, end: float | None = None
) -> Float[Array, " {steps}+1"]:
    """Return times at equal distances of the log signal-to-noise ratio log(a / std).

    The inverse is found on the host by interpolation of a fine table: `process` is concrete.
    """
    times, log_ratios = _table(process, steps, end)
    levels = np.linspace(log_ratios[-1], log_ratios[0], steps + 1)
    return _at_log_ratios(process, times, log_ratios, levels)


def edm(
    process: LinearProcess, steps: int, *, rho: float = 7.0, end: float | None = None
) -> Float[Array, " {steps}+1"]:
    """Return times at equal distances of the noise-to-signal ratio to the power 1 / rho.

    Args:
        process: the forward process, concrete.
        steps: number of steps, at least 1.
        rho: 1 for equal distances of the ratio, finer towards the data above, `log_snr` at
            infinity.
        end: forward time of the last point, in the process's unit, in (0, horizon); a thousandth
            of the horizon by default.

    Raises:
        ValueError: an argument is out of range.
    """
    if not (np.isfinite(rho) and rho > 0):
        raise ValueError(f"rho must be a positive finite number, got {rho!r}.")
    times, log_ratios = _table(process, steps, end)
    lowest = np.exp((log_ratios[0] - log_ratios[-1]) / rho)  # relative to the largest
    levels = log_ratios[-1] + rho * np.log(np.linspace(1.0, lowest, steps + 1))
    return _at_log_ratios(process, times, log_ratios, levels)


def _table(process: LinearProcess, steps: int, end: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return increasing times from `end` to the horizon and the log noise-to-signal ratio there."""
    end = _check(process, steps, end)
    if end == 0:
        raise ValueError("end must be positive where the ratio of noise to signal is used, got 0.")
    span = process.horizon - end
    # Fine at both ends: a cosine schedule's ratio runs away at the horizon.
    near_horizon = process.horizon - np.geomspace(1e-6 * span, span, 10001)
    times = np.concatenate([np.geomspace(end, process.horizon, 20001), near_horizon])
    times = np.unique(times[times >= end])
    # In float64, since the ratio of a contractive process flattens; concrete under jit too.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), process)
        scale, std = (np.asarray(c, np.float64) for c in exact.marginal(jnp.asarray(times)))
    return times, np.log(std) - np.log(scale)


def _at_log_ratios(process, times, log_ratios, levels) -> Array:
    found = np.exp(np.interp(levels, log_ratios, np.log(times)))
    found[0], found[-1] = process.horizon, times[0]
    return _reversed(process, found)


def _polynomial(process: LinearProcess, steps: int, end: float | None, *, power: int) -> Array:
    end = _check(process, steps, end)
    roots = np.linspace(process.horizon ** (1 / power), end ** (1 / power), steps + 1)
    times = roots**power
    times[0], times[-1] = process.horizon, end
    return _reversed(process, times)


def _reversed(process: LinearProcess, times: np.ndarray) -> Array:
    grid = np.asarray(process.horizon - times, jax.dtypes.canonicalize_dtype(np.float64))
    if not (np.diff(grid) > 0).all():
        raise ValueError(
            f"steps: {len(grid) - 1} of them cannot be told apart in {grid.dtype} with end = "
            f"{times[-1]:.3g}; use fewer, raise end, or enable float64."
        )
    return jnp.asarray(grid)


def _check(process: LinearProcess, steps: int, end: float | None) -> float:
    """Return `end`, or its default."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if steps != int(steps):
        raise ValueError(f"steps must be a whole number, got {steps}.")
    if end is None:
        return 1e-3 * process.horizon
    check_end(end, process.horizon, zero=True)
    return end
