r"""The largest batch that fits, found by bisection between one that does and one that does not.

Where two batches are known, what is needed of a device is taken to be a line through them,

    total(b) = c + s b,                                                                      (1)

and the batch that it says is tried next; where it is none between the two bounds, their middle.
Once two programs have each left more than half of the distance between the bounds, no line is
trusted any more, and all that follow are middles.
"""

import math
from collections.abc import Callable

from ctrl_jax._checks import refuse

MOST = 16
"""Programs that are compiled at most."""
FARTHEST = 16
"""A line is followed to so many times the largest batch that is known to fit."""


def largest(
    total_of: Callable[[int], int | None], *, first: int, unit: int, limit: int, most: int = MOST
) -> tuple[int, bool]:
    """Return the largest batch that fits, and whether the next one is known not to.

    Args:
        total_of: bytes of a device that a batch needs; None where the compiler refuses it.
        first: batch that is tried first, a multiple of `unit`.
        unit: what every batch is a multiple of.
        limit: bytes of a device.
        most: batches that are tried.

    Raises:
        ValueError: not even one unit fits.
    """
    known: dict[int, int] = {}
    low, high = 0, None
    at, slow = first // unit, 0
    for _ in range(most):
        total = total_of(at * unit)
        if total is not None:
            known[at] = total
        before = math.inf if high is None else high - low
        if total is not None and total <= limit:
            low = at
        else:
            high = at
        if high is not None and high - low == 1:
            break
        slow += high is not None and 2 * (high - low) > before
        at = _next(known, low, high, limit, by_line=slow < 2)
    if low == 0:
        rule = f"what it needs is above the {limit / 1e9:.1f} GB that a device has"
        repair = "take more chips, --mesh.model, --fully-sharded, remat or bfloat16"
        raise refuse("largest_batch", unit, rule, repair)
    return low * unit, high == low + 1


def _next(known: dict[int, int], low: int, high: int | None, limit: int, by_line: bool) -> int:
    """The batch to try, in units, above `low` and below `high`."""
    ends = [b for b in (low, high) if b in known]
    if len(ends) < 2:
        ends = sorted(sorted(known, key=lambda b: abs(known[b] - limit))[:2])
    at = 2 * low if high is None else (low + high) // 2
    if by_line and len(ends) == 2 and known[ends[1]] > known[ends[0]]:
        slope = (known[ends[1]] - known[ends[0]]) / (ends[1] - ends[0])
        meant = int(ends[0] + (limit - known[ends[0]]) / slope)
        if high is None:
            at = min(meant, FARTHEST * low)
        elif meant < high:
            at = meant
    # Where the line was right before, what it says has been tried: then the one beyond.
    return max(at, low + 1)


def slope_of(totals: dict[int, int]) -> float | None:
    """Return the bytes by which a device's share grows with the batch, None where one is known.

    Args:
        totals: bytes by batch.
    """
    if len(totals) < 2:
        return None
    least, most = min(totals), max(totals)
    return max((totals[most] - totals[least]) / (most - least), 0.0)
