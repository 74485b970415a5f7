"""The dispersion index: entropies by NumPy, its guards, and what it holds at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import preference
from tests.oracles.preference import entropy_index

BATCH, LENGTH, WIDTH, VOCABULARY = 3, 7, 4, 50
HIDDEN = 2 * jax.random.normal(jax.random.key(0), (BATCH, LENGTH, WIDTH))
HEAD = jax.random.normal(jax.random.key(1), (WIDTH, VOCABULARY))
HALF = jnp.full(3, 0.5)
MASK = jnp.asarray([[0, 0, 1, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0, 0], [1] * 7], bool)
INDEX = jax.jit(lambda hidden, head: preference.dispersion_index(hidden, head, MASK, chunk=4))


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_against_numpy(chunk):
    found = jax.jit(preference.dispersion_index, static_argnames="chunk")(
        HIDDEN, HEAD, MASK, chunk=chunk
    )
    expected = entropy_index(np.asarray(HIDDEN) @ np.asarray(HEAD), np.asarray(MASK))
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert found.min() > 0.1 and found.max() < 0.9  # the case is not degenerate


def test_what_is_not_marked_does_not_count():
    moved = jnp.where(MASK[..., None], HIDDEN, 1e3)
    np.testing.assert_allclose(INDEX(moved, HEAD), INDEX(HIDDEN, HEAD), rtol=1e-6)


def test_a_function_as_the_head():
    bias = jnp.linspace(-1, 1, VOCABULARY)
    found = preference.dispersion_index(
        HIDDEN, lambda h: h @ HEAD + bias[None, None], MASK, chunk=5
    )
    logits = np.asarray(HIDDEN) @ np.asarray(HEAD) + np.asarray(bias)
    np.testing.assert_allclose(found, entropy_index(logits, np.asarray(MASK)), rtol=2e-6)


def test_the_ends_of_the_index():
    # Equal logits are the uniform law; one logit far above the rest leaves no entropy.
    uniform = INDEX(0 * HIDDEN, HEAD)
    np.testing.assert_allclose(uniform, 1.0, rtol=1e-6)
    assert (uniform <= 1).all()
    sure = INDEX(1e4 * HIDDEN, HEAD)
    np.testing.assert_allclose(sure, 1e-6, rtol=1e-6)
    banned = preference.dispersion_index(
        HIDDEN,
        lambda h: (0 * h @ HEAD).at[..., 1:].set(-jnp.inf).at[..., 1].set(0.0),
        MASK,
        chunk=4,
    )
    np.testing.assert_allclose(banned, np.log(2) / np.log(VOCABULARY), rtol=1e-6)


def test_the_logits_are_never_held_at_once():
    """In the program, and in what it is compiled to."""
    batch, length, width, vocabulary, chunk = 8, 64, 16, 4096, 4
    shapes = (
        jax.ShapeDtypeStruct((batch, length, width), jnp.float32),
        jax.ShapeDtypeStruct((width, vocabulary), jnp.float32),
        jax.ShapeDtypeStruct((batch, length), bool),
    )
    lowered = jax.jit(preference.dispersion_index, static_argnames="chunk").trace(
        *shapes, chunk=chunk
    )
    sizes = [
        int(np.prod(variable.aval.shape))
        for jaxpr in _inner(lowered.jaxpr.jaxpr)
        for equation in jaxpr.eqns
        for variable in equation.outvars
    ]
    assert max(sizes) == batch * chunk * vocabulary
    memory = lowered.lower().compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < batch * length * vocabulary  # a quarter of float32 logits


def _inner(jaxpr):
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            closed = getattr(value, "jaxpr", None)
            if closed is not None:
                yield from _inner(getattr(closed, "jaxpr", closed))


def test_it_has_no_gradient():
    def total(hidden, head):
        return jnp.sum(preference.dispersion_index(hidden, head, MASK, chunk=4))

    for slope in jax.grad(total, argnums=(0, 1))(HIDDEN, HEAD):
        np.testing.assert_array_equal(slope, 0.0)


def test_bfloat16_states_are_summed_in_float32():
    hidden, head = HIDDEN.astype(jnp.bfloat16), HEAD.astype(jnp.bfloat16)
    found = INDEX(hidden, head)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, INDEX(HIDDEN, HEAD), rtol=0.03)


def test_an_empty_response():
    empty = MASK.at[1].set(False)
    with pytest.raises(ValueError, match=r"mask: .* its rows \[1\] hold no response token"):
        preference.dispersion_index(HIDDEN, HEAD, empty, chunk=4)
    traced = jax.jit(lambda m: preference.dispersion_index(HIDDEN, HEAD, m, chunk=4))
    index = traced(empty)
    np.testing.assert_allclose(index[jnp.asarray([0, 2])], traced(MASK)[jnp.asarray([0, 2])])
    # phi = 1: the pair weighs nothing.
    assert index[1] == 1.0
    assert preference.dispersion_from_index(index, 0.3)[1] == 1.0


def test_phi_from_the_index():
    # .25^.5 = .5;  1^.5 = 1.
    found = preference.dispersion_from_index(jnp.asarray([0.25, 1.0]), 0.5)
    np.testing.assert_allclose(found, [0.5, 1.0], rtol=1e-6)
    # The smallest index under any scale is a positive phi, so that the losses take it.
    least = preference.dispersion_from_index(jnp.asarray([1e-30]), 100.0)
    assert least[0] > 0
    loss = preference.mallows_phi(jnp.ones(1), jnp.zeros(1), beta=1.0, dispersion=least)
    assert np.isfinite(loss).all()


def test_the_scale_makes_the_mean_weight_one():
    index = jax.random.uniform(jax.random.key(2), (200,), minval=0.02, maxval=0.6)
    scale = preference.dispersion_scale(index)
    phi = preference.dispersion_from_index(index, scale)
    np.testing.assert_allclose(jnp.mean(-2 * jnp.log(phi)), 1.0, rtol=1e-5)
    weights = jnp.where(jnp.arange(200) < 50, 3.0, 0.0)
    scale = preference.dispersion_scale(index, weights=weights)
    phi = preference.dispersion_from_index(index[:50], scale)
    np.testing.assert_allclose(jnp.mean(-2 * jnp.log(phi)), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: preference.dispersion_index(HIDDEN[0], HEAD, MASK, chunk=4),
            "hidden: .* it must have",
        ),
        (
            lambda: preference.dispersion_index(HIDDEN, HEAD.T, MASK, chunk=4),
            "head: .* it must have",
        ),
        (
            lambda: preference.dispersion_index(HIDDEN, HEAD[:, :1], MASK, chunk=4),
            "vocabulary: received 1; it must have two tokens",
        ),
        (
            lambda: preference.dispersion_index(HIDDEN, HEAD, MASK[:2], chunk=4),
            "mask: .* booleans of",
        ),
        (
            lambda: preference.dispersion_index(HIDDEN, HEAD, MASK.astype(float), chunk=4),
            "mask: .* booleans of",
        ),
        (lambda: preference.dispersion_index(HIDDEN, HEAD, MASK, chunk=0), "chunk: received 0; it"),
        (lambda: preference.dispersion_index(HIDDEN[:, :0], HEAD, MASK[:, :0], chunk=1), "none of"),
        (lambda: preference.dispersion_from_index(jnp.asarray([0.0]), 0.3), r"lie in \(0, 1\]"),
        (
            lambda: preference.dispersion_from_index(jnp.asarray([0.5]), -0.3),
            "scale: received -0.3",
        ),
        (lambda: preference.dispersion_from_index(jnp.asarray([1]), 0.3), "array of floating"),
        (lambda: preference.dispersion_index(HIDDEN, HEAD, MASK, chunk=2.0), "chunk: received 2.0"),  # type: ignore
        (lambda: preference.dispersion_scale(jnp.ones(3)), "every index that counts is 1"),
        (lambda: preference.dispersion_scale(jnp.full(3, 1 - 1e-7)), "counts is 1 up to rounding"),
        (lambda: preference.dispersion_scale(HALF, weights=jnp.ones(2)), "weights: .* one per"),
        (lambda: preference.dispersion_scale(HALF, weights=HALF - 1), "weights: received -0.5"),
        (lambda: preference.dispersion_scale(HALF, weights=0 * HALF), "one of them positive"),
        (lambda: preference.dispersion_scale(jnp.ones(0)), "index: .* it is empty"),
    ],
)
def test_what_is_refused(call, said, unchecked):
    with pytest.raises(ValueError, match=said):
        call()
