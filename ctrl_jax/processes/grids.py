"""Time grids for sampling, increasing in reverse time r = horizon - t.

Each returns the ``steps + 1`` reverse times from 0 to ``horizon - end``, where `end` > 0 is the
forward time at which sampling stops (scores of data are singular at t = 0).

`uniform` and `quadratic` space the times themselves. `log_snr` and `edm` space the noise-to-signal
ratio n(t) = std / a, which grows with t for every process, and so mean the same for all of them;
for a process whose n is t (`EDM`) `edm` is the grid of Karras et al. 2022, eq. 5.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, check_end, check_positive, refuse
from ctrl_jax.processes.base import LinearProcess

_MOST = 2**24  # steps, of which float32 tells no more apart


def uniform(
    process: LinearProcess, steps: int, *, end: float | None = None
) -> Float[Array, " {steps}+1"]:
    """Return times at equal distances.

    Args:
        process: the forward process.
        steps: number of steps, at least 1.
        end: forward time of the last point, in the process's unit, in [0, horizon); by default
            `process.end`.

    Returns:
        Reverse times, shape (steps + 1,).

    Raises:
        ValueError: an argument is out of range.
    """
    return _polynomial(process, steps, end, power=1)


def quadratic(
    process: LinearProcess, steps: int, *, end: float | None = None
) -> Float[Array, " {steps}+1"]:
    """Return times whose forward times are squares of equidistant numbers: finer towards the data.

    Args:
        process: the forward process.
        steps: number of steps, at least 1.
        end: forward time of the last point, in the process's unit, in [0, horizon); by default
            `process.end`.

    Returns:
        Reverse times, shape (steps + 1,).

    Raises:
        ValueError: an argument is out of range.
    """
    return _polynomial(process, steps, end, power=2)


def log_snr(
    process: LinearProcess, steps: int, *, end: float | None = None
) -> Float[Array, " {steps}+1"]:
    """Return times at equal distances of the log signal-to-noise ratio log(a / std).

    Args:
        process: the forward process, concrete.
        steps: number of steps, at least 1.
        end: forward time of the last point, in the process's unit, in (0, horizon); by default
            `process.end`.

    Returns:
        Reverse times, shape (steps + 1,).

    Raises:
        ValueError: an argument is out of range.
    """
    return _by_ratio(process, steps, end, np.geomspace)


def edm(
    process: LinearProcess, steps: int, *, rho: float = 7.0, end: float | None = None
) -> Float[Array, " {steps}+1"]:
    """Return times at equal distances of the noise-to-signal ratio to the power 1 / rho.

    Args:
        process: the forward process, concrete.
        steps: number of steps, at least 1.
        rho: 1 for equal distances of the ratio, finer towards the data above, `log_snr` at
            infinity.
        end: forward time of the last point, in the process's unit, in (0, horizon); by default
            `process.end`.

    Returns:
        Reverse times, shape (steps + 1,).

    Raises:
        ValueError: an argument is out of range.

    Source: Karras et al. 2022, eq. 5.
    """
    check_positive("rho", rho)

    def spaced(largest, smallest, number):
        lowest = np.exp(np.log(smallest / largest) / rho)
        return largest * np.exp(rho * np.log(np.linspace(1.0, lowest, number)))

    return _by_ratio(process, steps, end, spaced)


def _by_ratio(
    process: LinearProcess, steps: int, end: float | None, spaced: Callable[..., np.ndarray]
) -> Array:
    """Return times whose noise-to-signal ratios are ``spaced(largest, smallest, steps + 1)``."""
    end = _check(process, steps, end)
    if end == 0:
        raise refuse("end", end, "where no noise is left the ratio is zero", "give a positive time")
    least = np.finfo(jax.dtypes.canonicalize_dtype(np.float64)).tiny
    # In float64, since the ratio of a contractive process flattens; concrete under jit too.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), process)
        ends = _ratios(exact, jnp.asarray([process.latest, end], float))
        # Smaller scales are zero to some devices, and the score of such a state is not a number.
        if not (np.isfinite(ends).all() and float(1 / ends[0]) > least):
            rule = f"at its `latest` time {process.latest:g} it must keep some of the data"
            repair = "shorten its horizon, or give it a `latest` before the scale is zero"
            raise refuse("process", type(process).__name__, rule, repair)
        found = np.array(exact.time_at(jnp.asarray(spaced(*np.asarray(ends), steps + 1))))
    return _reversed(process, found, end)


@eqx.filter_jit
def _ratios(process: LinearProcess, t: Array) -> Array:
    return process.noise_to_signal(t)


def _polynomial(process: LinearProcess, steps: int, end: float | None, *, power: int) -> Array:
    end = _check(process, steps, end)
    roots = np.linspace(process.horizon ** (1 / power), end ** (1 / power), steps + 1)
    return _reversed(process, roots**power, end)


def _reversed(process: LinearProcess, times: np.ndarray, end: float) -> Array:
    times[0], times[-1] = process.horizon, end
    grid = np.asarray(process.horizon - times, jax.dtypes.canonicalize_dtype(np.float64))
    if not (np.diff(grid) > 0).all():
        raise refuse(
            "steps",
            len(grid) - 1,
            f"their times must be distinct in {grid.dtype} down to end = {end:.3g}",
            "use fewer, raise end, or enable float64",
        )
    return jnp.asarray(grid)


def _check(process: LinearProcess, steps: int, end: float | None) -> float:
    """Return `end`, or its default."""
    check_count("steps", steps, most=_MOST)
    last: float = process.end if end is None else end
    check_end(last, process.horizon, zero=True, latest=process.latest, usual=process.end)
    return last
