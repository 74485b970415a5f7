r"""Advantages along trajectories: estimates of q(t_i, x_i, a_i) dt from values and rewards.

With running rewards r_i (reward per step, here minus the penalty) and V_n the terminal reward,

    delta_i = V_{i+1} + r_i - V_i,                                                      (1)
    A_i = \sum_{k >= 0} trace^k delta_{i+k},                                            (2)
    G_i = V_n + \sum_{j >= i} r_j.                                                      (3)

trace = 0 is the difference quotient of continuous-time q, A_i = delta_i; trace = 1 telescopes to
G_i - V_i. Time is the leading axis. `standardized` divides values by their spread, where there is
one: a spread of a few units in the last place of the values is rounding, and divided by it noise
would become a signal of order one.

Source: arXiv 2305.18901, section 3; 1506.02438.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._checks import check_choice, check_fraction, check_whole, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import discounted_sums

ROUNDING = 16
"""Standard deviations below this many units in the last place of the largest value are zero."""


@at_the_door
def returns_to_go(
    running: Float[Array, "steps batch"], terminal: Float[Array, " batch"]
) -> Float[Array, "steps batch"]:
    """Return the return to go at every step, G_i = V_n + sum_{j >= i} r_j.

    Args:
        running: running reward r_i of each step (not per unit of time), shape (steps, batch).
        terminal: terminal reward V_n, shape (batch,).

    Returns:
        Shape (steps, batch), in units of the reward.

    Raises:
        ValueError: the shapes do not fit each other.

    Source: arXiv 2305.18901, section 3.
    """
    return terminal[None] + jnp.cumsum(running[::-1], axis=0)[::-1]


@at_the_door
def generalized(
    values: Float[Array, "steps batch"],
    running: Float[Array, "steps batch"],
    terminal: Float[Array, " batch"],
    *,
    trace: float,
) -> Float[Array, "steps batch"]:
    """Return the generalized advantage A_i = sum_{k >= 0} trace^k delta_{i+k} at every step.

    delta_i = V_{i+1} + r_i - V_i, with V_n the terminal reward. A_i is delta_i where trace = 0 and
    the return to go less V_i where trace = 1.

    Args:
        values: V_i = V(t_i, x_i) for i < n, shape (steps, batch).
        running: running reward r_i of each step (not per unit of time), of the same shape.
        terminal: terminal reward, which stands for V_n, shape (batch,).
        trace: in [0, 1]: 0 trusts the value, 1 trusts the trajectory.

    Returns:
        Shape (steps, batch), in units of the reward.

    Raises:
        ValueError: trace is not in [0, 1], or the shapes do not fit each other.

    Source: arXiv 1506.02438; in continuous time arXiv 2305.18901, section 3.
    """
    check_fraction("trace", trace)
    next_values = jnp.concatenate([values[1:], terminal[None]])
    return discounted_sums(next_values + running - values, trace)


@at_the_door
def standardized(
    values: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
    groups: Int[Array, " batch"] | None = None,
    scale: Float[Array, ""] | float = 0.0,
) -> Float[Array, " batch"]:
    """Return (value - mean) / std, over all examples or over those of each group.

    It is 0 where the values of a group differ by no more than rounding; in float32 at least.

    Args:
        values: rewards or advantages.
        weights: of each example in mean and standard deviation; where it is 0 so is the result.
        groups: id of each example's group; one group by default.
        scale: magnitude of the numbers that the values are differences of, whose rounding they
            bear; that of the values themselves always counts.
    """
    return over_spread(*spread(values, weights=weights, groups=groups, scale=scale))


class Scaled(NamedTuple):
    """Values less the mean of their group, scaled.

    Fields:
        values: shape (batch,).
        zero_spread: how many groups have no spread beyond rounding.
    """

    values: Float[Array, " batch"]
    zero_spread: Float[Array, ""]


@at_the_door
def scaled(
    values: Float[Array, " batch"],
    *,
    by: str = "group",
    weights: Float[Array, " batch"] | None = None,
    groups: Int[Array, " batch"] | None = None,
) -> Scaled:
    """Return values less the mean of their group, over a standard deviation or as they are.

    Those of a group without a spread beyond rounding are 0; in float32 at least.

    Args:
        values: rewards.
        by: "group" divides by the standard deviation of the group (GRPO), "batch" by that of the
            whole batch, "none" by nothing (Dr. GRPO).
        weights: of each example in means and deviations; where it is 0 so is the result.
        groups: id of each example's group; one group by default.

    Returns:
        `Scaled`, with the number of groups without a spread.

    Raises:
        ValueError: `by` has another name, or there is no example.

    Source: Shao et al. 2402.03300; Liu et al. 2503.20783 for "none".
    """
    check_choice("by", by, ("group", "batch", "none"))
    centered, std = spread(values, weights=weights, groups=groups)
    # What is left of constants that are not exactly so is rounding.
    found = jnp.where(std == 0, 0.0, centered)
    if by != "none":
        found = over_spread(found, spread(values, weights=weights)[1] if by == "batch" else std)
    return Scaled(found, count_without_spread(std, weights=weights, groups=groups))


@at_the_door
def count_without_spread(
    std: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
    groups: Int[Array, " batch"] | None = None,
) -> Float[Array, ""]:
    """Return how many groups have no spread.

    Args:
        std: standard deviation of each example's group, from `spread`.
        weights: of each example; a group counts where one is above 0.
        groups: id of each example's group; one group by default.
    """
    present = jnp.ones_like(std, bool) if weights is None else weights > 0
    first = jnp.argmax(present) == jnp.arange(present.size)
    if groups is not None:
        same = (groups[:, None] == groups[None, :]) & present[None, :]
        first = jnp.sum(jnp.tril(same, -1), axis=1) == 0
    return jnp.sum(present & first & (std == 0)).astype(std.dtype)


@at_the_door
def spread(
    values: Float[Array, " batch"],
    *,
    weights: Float[Array, " batch"] | None = None,
    groups: Int[Array, " batch"] | None = None,
    scale: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Return value - mean and the standard deviation of each example's group, 0 for mere rounding.

    Both in float32 at least: squares of half precision may be infinite.

    Args:
        values: rewards or advantages.
        weights: of each example; 1 by default.
        groups: id of each example's group; one group by default.
        scale: magnitude of what the values are differences of, where that is larger.
    """
    if not values.size:
        raise refuse("values", values, "there must be an example", "give one or more")
    own = jax.dtypes.canonicalize_dtype(values.dtype)
    wide = jnp.float64 if own == jnp.float64 else jnp.float32
    # Half precision has so few digits that a spread of several units in the last place is one.
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    half = float(jnp.finfo(values.dtype).eps) if floating else 0.0
    values = values.astype(wide)
    weights = jnp.ones_like(values) if weights is None else weights.astype(wide)
    check_whole("groups", groups)
    # One row where there is one group, so that nothing of the size batch^2 is made.
    ids = jnp.zeros((1,), jnp.int32) if groups is None else groups
    same = (ids[:, None] == (0 if groups is None else ids[None, :])) & (weights > 0)[None, :]
    share = jnp.where(same, weights[None, :], 0.0)
    share = share / jnp.maximum(jnp.sum(share, axis=1, keepdims=True), jnp.finfo(share.dtype).tiny)
    # About one of the values themselves: what is constant has exactly the mean zero.
    about = jnp.max(jnp.where(same, values[None, :], -jnp.inf), axis=1)
    held = jnp.where(weights > 0, values - about, 0.0)
    centered = held - share @ held
    std = jnp.sqrt(share @ jnp.square(centered))
    largest = jnp.max(jnp.where(same, jnp.abs(values)[None, :], 0.0), axis=1)
    std = beyond_rounding(std, jnp.maximum(largest, scale), half=half)
    return jnp.where(weights > 0, centered, 0.0), jnp.broadcast_to(std, values.shape)


@at_the_door
def spread_within(
    values: Float[Array, " batch"],
    seen: Float[Array, "batch seen"],
    present: Bool[Array, "batch seen"],
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Return value - mean and the standard deviation, each example's of numbers of its own.

    Args:
        values: rewards or advantages.
        seen: what each is compared with.
        present: which of these count.
    """
    number = jnp.maximum(jnp.sum(present, axis=1, dtype=values.dtype), 1.0)
    held = jnp.where(present, seen - values[:, None], 0.0)
    mean = jnp.sum(held, axis=1) / number
    squares = jnp.where(present, jnp.square(held - mean[:, None]), 0.0)
    std = jnp.sqrt(jnp.sum(squares, axis=1) / number)
    largest = jnp.maximum(jnp.abs(values), jnp.max(jnp.where(present, jnp.abs(seen), 0.0), axis=1))
    return -mean, beyond_rounding(std, largest)


def beyond_rounding(
    std: Float[Array, "..."], largest: Float[Array, "..."], *, half: float = 0.0
) -> Float[Array, "..."]:
    """Return a standard deviation, 0 where it is no more than rounding of the values.

    Args:
        std: of some values.
        largest: the largest magnitude among these.
        half: the unit of rounding of values that had half precision before.
    """
    unit = max(ROUNDING * float(jnp.finfo(std.dtype).eps), half)
    return jnp.where(std <= unit * largest, 0.0, std)


@at_the_door
def over_spread(centered: Float[Array, "..."], std: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return centered / std, 0 where std is 0; what is not finite stays so.

    Args:
        centered: values less their mean.
        std: their standard deviation, from `spread`.
    """
    none = std == 0
    return jnp.where(none, 0.0, centered / jnp.where(none, 1.0, std))
