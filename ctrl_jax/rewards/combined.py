r"""Values of several rewards as one, each scaled by its own spread.

    R = \sum_i w_i s_i(R_i),   s_i(R) = R,  or (R - mean of its group) / std of its group or batch.

Rewards whose spreads differ by orders of magnitude count alike when each is scaled; scaled only as
a sum, combinations of them that differ become the same advantage.
Source: GDPO, 2601.05242.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ctrl_jax._checks import check_choice, check_finite, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._typing import Rewards
from ctrl_jax.losses import advantage


class Combined(NamedTuple):
    """Several rewards as one.

    Fields:
        rewards: the sum R, and the parts as they were.
        zero_spread: by name of each part that is scaled, how many groups had no spread in it.
    """

    rewards: Rewards
    zero_spread: dict[str, Float[Array, ""]]


@at_the_door
def combined(
    parts: Mapping[str, ArrayLike],
    weights: Mapping[str, float],
    *,
    scale: str | Mapping[str, str] = "none",
    groups: Int[Array, " batch"] | None = None,
    present: Float[Array, " batch"] | None = None,
) -> Combined:
    r"""Return R = \sum_i w_i s_i(R_i) of values that are known, wherever they were computed.

    Args:
        parts: values of each reward by name, shape (batch,).
        weights: w_i of each.
        scale: of all rewards, or of each by name: "none" (as they are), "group" (less the mean of
            the group, over its standard deviation) or "batch" (less the mean of the group, over the
            standard deviation of the batch). A group without a spread gives zero.
        groups: id of each example's group, such as its prompt; one group by default.
        present: weight of each example in means and deviations, 0 of padding; 1 by default.

    Returns:
        `Combined`, whose `rewards` are what `learn` takes.

    Raises:
        ValueError: there is none, names or shapes do not agree, a weight is no finite number, or a
            scale has another name.

    Source: Liu et al. 2026 (arXiv 2601.05242), equations 4 to 6.
    """
    if not parts or parts.keys() != weights.keys():
        rule = (
            f"it must have the names of the parts, {', '.join(parts) or 'of which there are none'}"
        )
        raise refuse("weights", dict(weights), rule, "give a weight for each")
    scales = dict(scale) if isinstance(scale, Mapping) else dict.fromkeys(parts, scale)
    if scales.keys() != parts.keys():
        rule = f"it must have the names of the parts, {', '.join(parts)}"
        raise refuse("scale", scales, rule, 'give each "none", "group" or "batch"')
    found = {name: jnp.asarray(values, float) for name, values in parts.items()}
    total, zero_spread = jnp.zeros(next(iter(found.values())).shape), {}
    for name, values in found.items():
        check_finite(f"weights: {name}", weights[name])
        check_choice(f"scale: {name}", scales[name], ("none", "group", "batch"))
        if values.ndim != 1 or values.shape != total.shape:
            rule = "all must have one shape, (batch,)"
            raise refuse(f"parts: {name}", values, rule, "give one value per example")
        if scales[name] != "none":
            values, zero_spread[name] = advantage.scaled(
                values, by=scales[name], weights=present, groups=groups
            )
        total = total + float(weights[name]) * values
    return Combined(Rewards(total, found), zero_spread)
