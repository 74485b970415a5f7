"""Log-probabilities of tokens: values and gradients against the textbook, whole and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses.token_log_prob import token_log_probs

HIDDEN = jax.random.normal(jax.random.key(0), (10, 6))
HEAD = 2.0 * jax.random.normal(jax.random.key(1), (6, 17))
TARGETS = jax.random.randint(jax.random.key(2), (10,), 0, 17)
WEIGHTS = jax.random.normal(jax.random.key(3), (10,))


def plain(hidden, head, cap=None):
    logits = hidden @ head if cap is None else cap * jnp.tanh(hidden @ head / cap)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), TARGETS[:, None], axis=1)[:, 0]


@pytest.mark.parametrize(
    ("chunk", "parts", "cap"),
    [
        (None, 1, None),
        (None, 2, 2.0),
        (1, 1, None),
        (1, 2, None),
        (3, 1, 1.5),
        (3, 2, 1.5),
        (4, 5, None),
        (5, 1, None),
        (10, 1, 3.0),
        (64, 1, None),
    ],
)
def test_values_and_gradients(chunk, parts, cap):
    def value(fn):
        return jax.value_and_grad(lambda h, w: jnp.sum(WEIGHTS * fn(h, w)), argnums=(0, 1))

    def ours(hidden, head):
        return token_log_probs(hidden, head, TARGETS, chunk=chunk, parts=parts, cap=cap)

    def textbook(hidden, head):
        return plain(hidden, head, cap)

    @jax.jit
    def both(hidden, head):
        return [(fn(hidden, head), value(fn)(hidden, head)) for fn in (ours, textbook)]

    (log_probs, by_us), (exact, by_hand) = both(HIDDEN, HEAD)
    np.testing.assert_allclose(log_probs, exact, rtol=1e-6, atol=1e-6)
    for found, expected in zip(jax.tree.leaves(by_us), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=5e-6)


def test_extreme_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e30, 0.0, -1e30]])
    targets = jnp.array([1, 1])
    head = jnp.eye(3)

    def both(hidden):
        return tuple(token_log_probs(hidden, head, targets))

    (found, other), slope = jax.jit(jax.value_and_grad(both, has_aux=True))(logits)
    np.testing.assert_allclose(found, -2e4)
    assert np.isfinite(slope).all() and other == 0


def test_half_precision_sums_in_single():
    half = [x.astype(jnp.bfloat16) for x in (HIDDEN, HEAD)]
    exact = [x.astype(jnp.float32) for x in half]

    def total(hidden, head):
        return jnp.sum(WEIGHTS * token_log_probs(hidden, head, TARGETS))

    found = token_log_probs(half[0], half[1], TARGETS)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, plain(*exact), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        *(jax.grad(total, argnums=(0, 1))(*x) for x in (half, exact)), strict=True
    ):
        assert ours.dtype == jnp.bfloat16
        ours = ours.astype(jnp.float32)
        # Of terms and sums rounded to 8 bits.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2**-7 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("outside", [17, -1])
def test_a_token_outside_the_vocabulary_is_not_another(outside):
    found = token_log_probs(HIDDEN, HEAD, TARGETS.at[3].set(outside))
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((HIDDEN[None], HEAD, TARGETS), "hidden: .* it must have shape"),
        ((HIDDEN, HEAD[:5], TARGETS), "head: .* it must have shape"),
        (
            (HIDDEN, HEAD.astype(jnp.bfloat16), TARGETS),
            "head: received bfloat16.* and dtype float32",
        ),
        ((HIDDEN, HEAD, TARGETS[:4]), r"targets: .* integers of shape \[10\]"),
        ((HIDDEN, HEAD, WEIGHTS), r"targets: received float32.* integers of"),
    ],
)
def test_wrong_arrays_are_refused(unchecked, arguments, message):
    with pytest.raises(ValueError, match=message):
        token_log_probs(*arguments)
    with pytest.raises(ValueError, match=r"chunk: received 0; .* at least 1"):
        token_log_probs(HIDDEN, HEAD, TARGETS, chunk=0)
    with pytest.raises(ValueError, match=r"cap: received 0.0; it must be above zero"):
        token_log_probs(HIDDEN, HEAD, TARGETS, cap=0.0)


def test_parts_divide_the_tokens():
    with pytest.raises(ValueError, match="parts: received 3; it must divide the 10 tokens; give 1"):
        token_log_probs(HIDDEN, HEAD, TARGETS, chunk=4, parts=3)
