"""Adapters: nothing at first, the same as a merged kernel later, and alone in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.language.decoder import language_model
from ctrl_jax.networks.lora import LoRA, combine, merge, split
from tests.networks.language.decoders import GPT2, moved

LORA = LoRA(rank=2, alpha=6.0, targets=("query", "value", "down"))
TOKENS = jax.random.randint(jax.random.key(1), (2, 7), 0, 23)
PLAIN, ADAPTED = language_model(GPT2), language_model(GPT2, lora=LORA)


def logits_of(model):
    return jax.jit(lambda p: model.apply(p, TOKENS) @ model.head(p))


@pytest.fixture(scope="module")
def params():
    """Of the adapted model, every leaf moved."""
    return moved(ADAPTED)


def describe(leaf):
    return leaf.shape, leaf.dtype


def test_fresh_adapters_change_nothing():
    plain, adapted = (jax.jit(model.init)(jax.random.key(0)) for model in (PLAIN, ADAPTED))
    adapters, base = split(adapted)
    assert jax.tree.map(describe, adapted) == jax.tree.map(describe, ADAPTED.shapes)
    jax.tree.map(np.testing.assert_array_equal, base, plain)
    np.testing.assert_array_equal(logits_of(ADAPTED)(adapted), logits_of(PLAIN)(plain))
    factors = jax.tree_util.tree_leaves_with_path(adapters)
    assert len(factors) == 2 * 3 * 2  # layers, targets, factors
    for path, leaf in factors:
        b = jax.tree_util.keystr(path).endswith("['lora_b']")
        assert bool(jnp.any(leaf != 0)) is not b, path


def test_merged_kernels_are_the_adapted_network(params):
    expected = logits_of(ADAPTED)(params)
    merged = merge(params, LORA)
    assert jax.tree.structure(merged) == jax.tree.structure(split(params)[1])
    np.testing.assert_allclose(logits_of(PLAIN)(merged), expected, rtol=0, atol=2e-5)
    assert float(jnp.abs(logits_of(PLAIN)(split(params)[1]) - expected).max()) > 0.1


def test_narrow_kernels_stay_narrow(params):
    adapters, base = split(params)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)
    merged = merge(combine(adapters, half), LORA)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    exact = merge(params, LORA)["blocks"][0]["attention"]["query"]["kernel"]
    found = merged["blocks"][0]["attention"]["query"]["kernel"].astype(jnp.float32)
    # Twice a rounding to 8 bits.
    np.testing.assert_allclose(found, exact, rtol=0, atol=2**-8 * float(jnp.abs(exact).max()))


def test_split_and_combine_are_inverse(params):
    adapters, base = split(params)
    again = combine(adapters, base)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (adapters, params)]
    # Two blocks: query and value 16 -> 16, down 20 -> 16, rank 2.
    assert sizes[0] == 2 * 2 * (32 + 32 + 36) < 0.2 * sizes[1]
    assert split(base) == ({}, base) and split(adapters)[0] == adapters


def test_gradients_of_adapters_are_those_of_the_kernel(params):
    """With U = A B alpha / r added to W: dL/dA = alpha/r (dL/dW) B^T, dL/dB = alpha/r A^T dL/dW."""

    def loss(model):
        return lambda p: jnp.mean(jnp.sin(model.apply(p, TOKENS) @ model.head(p)))

    adapters, base = split(params)
    found = jax.jit(jax.grad(lambda a: loss(ADAPTED)(combine(a, base))))(adapters)
    kernels = jax.jit(jax.grad(loss(PLAIN)))(merge(params, LORA))
    for part, name in (("attention", "query"), ("feed_forward", "down")):
        ours, given = (tree["blocks"][1][part][name] for tree in (found, adapters))
        kernel = kernels["blocks"][1][part][name]["kernel"]
        np.testing.assert_allclose(
            ours["lora_a"], 3.0 * kernel @ given["lora_b"].T, rtol=0, atol=1e-6
        )
        np.testing.assert_allclose(
            ours["lora_b"], 3.0 * given["lora_a"].T @ kernel, rtol=0, atol=1e-6
        )
        assert float(jnp.abs(ours["lora_a"]).max()) > 1e-4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "LoRA.rank: received 0; it must be a whole number of at least 1"),
        ({"alpha": 0.0}, "LoRA.alpha: received 0.0; it must be above zero"),
        ({"targets": ("query", "")}, r"targets: received \('query', ''\); .* names of layers"),
        ({"targets": ()}, r"targets: received \(\)"),
    ],
)
def test_wrong_descriptions_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**fields)


def test_a_layer_that_the_network_lacks_is_refused(params):
    with pytest.raises(
        ValueError,
        match=r"targets: received 'gate'; the network has no such layer; give some of down",
    ):
        language_model(GPT2, lora=LoRA(targets=("gate",)))
    adapters, base = split(params)
    with pytest.raises(ValueError, match=r"lora.rank: received 3; the adapters have rank 2"):
        merge(params, LoRA(rank=3))
    with pytest.raises(
        ValueError, match="adapters: received 'blocks'; the parameters have no such layer"
    ):
        combine(adapters, {"tokens": base["tokens"]})
