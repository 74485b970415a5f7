r"""How far a policy's answers are from the reference model's, by its own answers.

    KL(pi || pi_ref) = E_{y ~ pi} \sum_t KL(pi(.|x, y_{<t}) || pi_ref(.|x, y_{<t}))          (1)

by the chain rule, up to the end token or the given length. Every term is summed over the whole
vocabulary: the estimate is unbiased and never negative. Prompts may differ in length; every token
is drawn by reading its whole row again, which is what a few answers need, and no more code.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ctrl_jax._numerics import soft_cap
from ctrl_jax._typing import Params
from ctrl_jax.algorithms.language.sampling import divergence_at
from ctrl_jax.networks import LanguageModel


def pad_prompts(prompts: Sequence[Sequence[int]], room: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts in rows with `room` tokens after the longest, and their lengths."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    rows = np.zeros((len(prompts), int(lengths.max()) + room), np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    return rows, lengths


def make_divergence(
    model: LanguageModel, *, length: int, end: int | None
) -> Callable[[Array, Params, Params, Array, Array], tuple[Array, Array]]:
    """Return ``divergence(key, params, reference, rows, lengths)``.

    Args:
        model: the policy and the reference model, which differ in their parameters.
        length: most tokens of an answer.
        end: the end token; None where there is none.

    Returns:
        A pure function; it returns the terms of (1) summed, (rows,) in nats, and the rows with
        their answers.
    """

    def divergence(key, params, reference, rows, lengths):
        rows = _answer(key, model, params, rows, lengths, length)
        places = lengths[:, None] + jnp.arange(length)[None]
        answers = jnp.take_along_axis(rows, places, axis=1)
        ended = jnp.zeros_like(answers, bool) if end is None else answers == end
        alive = jnp.cumsum(ended, axis=1) - ended == 0
        terms = divergence_at(model, params, reference, rows, places - 1)
        return jnp.sum(jnp.where(alive, terms, 0.0), axis=1), rows

    return divergence


def _answer(
    key: Array,
    model: LanguageModel,
    params: Params,
    rows: Int[Array, "batch tokens"],
    lengths: Int[Array, " batch"],
    number: int,
) -> Int[Array, "batch tokens"]:
    """Draw the tokens that follow, each of its row's own key."""
    head = model.head(params)
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(rows.shape[0]))

    def step(rows, t):
        hidden = model.apply(params, rows)  # what follows is not seen
        last = jnp.take_along_axis(hidden, (lengths + t - 1)[:, None, None], axis=1)[:, 0]
        logits = soft_cap(last @ head, model.cap)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        drawn = jax.vmap(lambda k, z: jax.random.categorical(jax.random.fold_in(k, t), z))(
            keys, logits
        )
        return rows.at[jnp.arange(rows.shape[0]), lengths + t].set(drawn.astype(rows.dtype)), None

    return jax.lax.scan(step, rows, jnp.arange(number))[0]
