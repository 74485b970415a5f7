"""Stacked blocks compute what unrolled ones do, with adapters and derivatives too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ctrl_jax.networks.functional import as_network
from ctrl_jax.networks.layers.blocks import Blocks
from ctrl_jax.networks.lora import LoRA, merge
from ctrl_jax.pretrained.key_table import Source, fill, named_leaves, unfill

KINDS = ("wide", "wide", "wide", "plain", "wide")


class Block(nnx.Module):
    def __init__(self, layers, kind):
        self.conv = layers.convolution(4, 4)
        self.wide = layers.linear(4, 4) if kind == "wide" else None

    def __call__(self, x):
        x = x + jnp.tanh(self.conv(x))
        return x if self.wide is None else x + jnp.sin(self.wide(x))


class Row(nnx.Module):
    def __init__(self, layers, **options):
        self.blocks = Blocks(lambda i: Block(layers, KINDS[i]), KINDS, **options)

    def __call__(self, x):
        return self.blocks.apply(lambda block, x: block(x), x)


def network(**options):
    lora = LoRA(rank=2, alpha=3.0, targets=("conv", "wide"))
    return as_network(lambda layers: Row(layers, **options), lora=lora)


def table(shapes):
    """Numbered keys of every leaf, stacked or not."""
    found = {}
    for path in named_leaves(shapes):
        _, numbers, rest = path.split(".", 2)
        first, _, last = numbers.partition("-")
        inside = tuple(range(int(first), int(last) + 1)) if last else None
        found[path] = Source(f"{{}}.{rest}" if last else f"{first}.{rest}", numbers=inside)
    return found


@pytest.fixture(scope="module")
def arrays():
    shapes = network(stacked=False).shapes
    rng = np.random.default_rng(0)
    leaves = named_leaves(shapes)
    draw = {source.key: rng.normal(size=leaves[p].shape) for p, source in table(shapes).items()}
    return {key: array.astype(np.float32) / 4 for key, array in draw.items()}


def test_stacked_blocks_compute_what_unrolled_ones_do(arrays):
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))

    def values(**options):
        net = network(**options)
        params = fill(net.shapes, table(net.shapes), arrays)

        @jax.jit
        def both(params):
            def loss(params):
                found = net.apply(params, x)
                return jnp.sum(jnp.sin(found)), found

            return jax.grad(loss, has_aux=True)(params)

        slope, found = both(params)
        return found, unfill(slope, table(net.shapes))

    assert {*network().shapes["blocks"]} == {"0-2", "3", "4"}
    unrolled, slopes = values(stacked=False)
    for options in ({}, {"remat": True}):
        stacked, others = values(**options)
        np.testing.assert_allclose(stacked, unrolled, rtol=0, atol=1e-5)
        for key, slope in slopes.items():
            close = 4e-6 * np.abs(slope).max()  # 60 terms in float32, in another order
            np.testing.assert_allclose(others[key], slope, rtol=0, atol=close, err_msg=key)


def test_merged_adapters_compute_the_same(arrays):
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))
    adapted, plain = network(), as_network(Row)
    params = fill(adapted.shapes, table(adapted.shapes), arrays)
    merged = merge(params, LoRA(rank=2, alpha=3.0, targets=("conv",)))
    np.testing.assert_allclose(plain.apply(merged, x), adapted.apply(params, x), rtol=0, atol=1e-5)


def test_a_stack_is_written_and_read_key_by_key(arrays):
    shapes = network().shapes
    params = fill(shapes, table(shapes), arrays)
    back = unfill(params, table(shapes))
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[key], arrays[key]) for key in arrays)
    with pytest.raises(ValueError, match=r"1\.conv\.kernel is missing"):
        fill(shapes, table(shapes), {k: v for k, v in arrays.items() if k != "1.conv.kernel"})
