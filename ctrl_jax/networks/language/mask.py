"""Which token sees which, in rows that hold one text, several, or a prompt with several answers.

A mask is true at [row, i, j] where token i sees token j. Rows are described by two numbers per
token: the text it belongs to, and its branch there, 0 for the trunk. A token's position is the
number of tokens it sees besides itself, in any of these rows.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ctrl_jax._checks import check_count, check_shape
from ctrl_jax._door import at_the_door


def causal_mask(batch: int, tokens: int) -> Bool[Array, "batch tokens tokens"]:
    """Return the mask of rows that hold one text each.

    Args:
        batch: number of rows.
        tokens: length of a row.
    """
    for name, size in (("batch", batch), ("tokens", tokens)):
        check_count(name, size)
    check_shape((batch, tokens, tokens), name="tokens")
    order = jnp.arange(tokens)
    return jnp.broadcast_to((order[None] <= order[:, None])[None], (batch, tokens, tokens))


@at_the_door
def text_mask(
    texts: Int[Array, "batch tokens"], branches: Int[Array, "batch tokens"] | None = None
) -> Bool[Array, "batch tokens tokens"]:
    """Return the mask of rows that hold one text or several, with branches or without.

    It is true at [row, i, j] where token i sees token j,

        j <= i,   text_i = text_j,   branch_j = 0 or branch_j = branch_i,

    so that every branch reads the trunk and itself, as if it were alone. ``[prompt | chosen |
    rejected]`` is one text with branches 0, 1, 2: the prompt is computed once.

    Args:
        texts: the number of each token's text; padding is a text of its own, such as -1.
        branches: the number of each token's branch within its text, 0 for what all branches
            share; None for texts without branches.
    """
    mask = causal_mask(*texts.shape) & (texts[:, :, None] == texts[:, None])
    if branches is None:
        return mask
    same = branches[:, :, None] == branches[:, None]
    return mask & (same | (branches == 0)[:, None])


def positions_of(mask: Bool[Array, "batch tokens tokens"]) -> Int[Array, "batch tokens"]:
    """Return how many tokens each token sees besides itself: its position in its own text.

    Args:
        mask: true at [row, i, j] where token i sees token j.
    """
    return jnp.sum(mask, axis=2, dtype=jnp.int32) - 1


def text_lengths(
    mask: Bool[Array, "batch tokens tokens"], positions: Int[Array, "batch tokens"]
) -> Int[Array, "batch tokens"]:
    """Return how many tokens the text of each token has, in the longest of its branches.

    Args:
        mask: true at [row, i, j] where token i sees token j.
        positions: of every token in its own text.
    """
    near = mask | mask.mT

    def longest(values: Array) -> Array:
        return jnp.max(jnp.where(near, values[:, None], 0), axis=2)

    # A branch and its siblings are two steps apart, by way of the trunk.
    return longest(longest(positions)) + 1


def within(
    mask: Bool[Array, "batch tokens tokens"],
    positions: Int[Array, "batch tokens"],
    window: int | None,
) -> Bool[Array, "batch tokens tokens"]:
    """Return the mask without what lies too far back.

    Args:
        mask: true at [row, i, j] where token i sees token j.
        positions: of every token in its own text.
        window: positions that a token looks back, itself included; None for all.
    """
    if window is None:
        return mask
    return mask & (positions[:, :, None] - positions[:, None] < window)
