r"""Log-probabilities of tokens under a language model's head.

With the hidden state h that predicts a token y, and the head's columns w_j,

    log p(y) = w_y . h - logsumexp_j(w_j . h).                                             (1)

or the same of c tanh(w_j . h / c), where a model bounds its logits by c. The gradient with respect
to the logits is written out, (1[j = y] - p_j): automatic differentiation would keep a second array
of the logits' size. In chunks, logits are computed again in the backward pass and never held for
all tokens at once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import as_float, check_count, check_positive, check_whole, refuse
from ctrl_jax._numerics import soft_cap
from ctrl_jax.losses.preference.pair import require_floating, working_dtype


def token_log_probs(
    hidden: Float[Array, "tokens width"],
    head: Float[Array, "width vocabulary"],
    targets: Int[Array, " tokens"],
    *,
    chunk: int | None = None,
    parts: int = 1,
    cap: float | None = None,
) -> Float[Array, " tokens"]:
    """Return log p(y) = w_y . h - logsumexp_j(w_j . h) of every target y and state h.

    The gradient is written out, so that no second array of the logits' size is kept; in chunks,
    logits are computed again in the backward pass.

    Args:
        hidden: the states that predict the tokens.
        head: the matrix w from states to logits, in the states' dtype.
        targets: the tokens; one outside the vocabulary has NaN.
        chunk: tokens whose logits are held together; None for all.
        parts: into which the tokens are cut; every chunk holds some of each. Where tokens are
            divided over devices give the number of those: a chunk of neighbors would be on one
            device, and all would compute it.
        cap: c, where logits are c tanh(w_j . h / c); None where they are w_j . h.

    Returns:
        Log-probabilities in float32 at least.

    Raises:
        ValueError: a shape or dtype is wrong, chunk is below 1, cap not positive, or the tokens are
            not a multiple of parts.
    """
    _check(hidden, head, targets, chunk, parts)
    if cap is not None:
        check_positive("cap", cap)
        cap = as_float(cap)
    if chunk is None or chunk >= hidden.shape[0]:
        return _log_probs(hidden, head, targets, cap)
    size = hidden.shape[0] // parts
    each = -(-size // -(-hidden.shape[0] // chunk))  # tokens of a part in a chunk, one at least
    number = -(-size // each)
    missing = number * each - size

    def chunks(x):
        rest = x.shape[1:]
        padding = ((0, 0), (0, missing), *((0, 0) for _ in rest))
        padded = jnp.pad(x.reshape(parts, size, *rest), padding)
        return padded.reshape(parts, number, each, *rest).swapaxes(0, 1)

    # Each part has a head of its own, so that the gradient is summed over parts when all chunks
    # are done, not after each.
    heads = jnp.broadcast_to(head, (parts, *head.shape))

    @jax.checkpoint
    def some(one):
        return jax.vmap(_log_probs, in_axes=(0, 0, 0, None))(one[0], heads, one[1], cap)

    found = jax.lax.map(some, (chunks(hidden), chunks(targets)))
    return found.swapaxes(0, 1).reshape(parts, -1)[:, :size].reshape(-1)


def _log_probs(hidden: Array, head: Array, targets: Array, cap: float | None) -> Array:
    return _of_logits(soft_cap(_logits(hidden, head), cap), targets)


@jax.custom_vjp
def _logits(hidden: Array, head: Array) -> Array:
    """Logits in float32 at least: rounded to bfloat16 they would lose two decimals."""
    return jnp.matmul(hidden, head, preferred_element_type=working_dtype(hidden))


def _logits_backward(kept, gradient: Array):
    hidden, head = kept
    narrow = gradient.astype(hidden.dtype)  # both products in the type of the arithmetic
    return narrow @ head.T, hidden.T @ narrow


_logits.defvjp(lambda hidden, head: (_logits(hidden, head), (hidden, head)), _logits_backward)


@jax.custom_vjp
def _of_logits(logits: Array, targets: Array) -> Array:
    return _forward(logits, targets)[0]


def _forward(logits: Array, targets: Array):
    total = jax.nn.logsumexp(logits, axis=1)

    # Row by row: of rows divided over devices each then picks its own. Negative indices would count
    # from the end.
    def pick(row, i):
        return row.at[i].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    picked = jax.vmap(pick)(logits, targets)
    return picked - total, (logits, total, targets)


def _backward(kept, gradient: Array):
    logits, total, targets = kept
    is_target = jnp.arange(logits.shape[1])[None] == targets[:, None]
    slope = jnp.where(is_target, 1.0, 0.0).astype(logits.dtype) - jnp.exp(logits - total[:, None])
    return gradient[:, None] * slope, None


_of_logits.defvjp(_forward, _backward)


def _check(hidden: Array, head: Array, targets: Array, chunk: int | None, parts: int) -> None:
    require_floating(hidden=hidden, head=head)
    if hidden.ndim != 2:
        raise refuse("hidden", hidden, "it must have shape (tokens, width)", "ravel the batch")
    if head.ndim != 2 or head.shape[0] != hidden.shape[1] or head.dtype != hidden.dtype:
        rule = f"it must have shape ({hidden.shape[1]}, vocabulary) and dtype {hidden.dtype}"
        raise refuse("head", head, rule, "transpose it, or convert it")
    dtype = getattr(targets, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or targets.shape != hidden.shape[:1]:
        rule = f"they must be integers of shape {list(hidden.shape[:1])}"
        raise refuse("targets", targets, rule, "give one for each state")
    check_whole("targets", targets)
    if chunk is not None:
        check_count("chunk", chunk)
    check_count("parts", parts)
    if len(hidden) % parts:
        rule = f"it must divide the {len(hidden)} tokens"
        raise refuse("parts", parts, rule, "give 1, or pad the tokens")
