"""What makes the layers of networks: random streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ctrl_jax.networks.functional import as_network
from ctrl_jax.networks.layers.making import streams


def test_streams_give_the_keys_of_flax():
    """So that what was drawn under one is drawn under the other, here and within a trace."""
    names = ("params", "lora", "params", "dropout", "lora")

    def drawn(rngs):
        return [jax.random.key_data(getattr(rngs, name)()) for name in names]

    ours = jax.jit(lambda a, b: drawn(streams(default=a, lora=b)))
    theirs = drawn(nnx.Rngs(3, lora=4))
    np.testing.assert_array_equal(ours(jax.random.key(3), jax.random.key(4)), theirs)
    np.testing.assert_array_equal(drawn(streams(default=3, lora=4)), theirs)
    assert len({tuple(np.asarray(key)) for key in theirs}) == 5


def stacked(rngs: nnx.Rngs) -> jax.Array:
    """Kernels of layers that are made together, each from a part of the streams."""

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs):
        return nnx.Linear(2, 2, rngs=rngs)

    return make(rngs).kernel[...]


def scanned(rngs: nnx.Rngs) -> jax.Array:
    """Keys drawn one after another in a loop that carries the streams."""

    @nnx.scan(length=4, in_axes=(nnx.Carry,), out_axes=(nnx.Carry, 0))
    def draw(rngs):
        return rngs, jax.random.key_data(rngs.params())

    return draw(rngs)[1]


@pytest.mark.parametrize("use", [stacked, scanned])
def test_streams_go_through_the_transforms_of_flax(use):
    ours, theirs = use(streams(default=3)), use(nnx.Rngs(3))
    np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(ours[0], ours[1])


def test_a_network_drawn_while_another_is_described_is_drawn_later_too():
    """JAX keeps what it traced within the constructor, and gives it again."""

    def network():
        return as_network(lambda layers: layers.linear(3, 2))

    inner = network()

    def outer(layers):
        jax.eval_shape(inner.init, jax.random.key(0))
        return layers.linear(2, 2)

    as_network(outer)
    found, expected = (jax.jit(n.init)(jax.random.key(0))["kernel"] for n in (inner, network()))
    np.testing.assert_array_equal(found, expected)
    assert jnp.abs(found).min() > 0


def test_what_is_described_has_the_shapes_and_types_of_what_is_drawn():
    def block(layers):
        return nnx.Sequential(layers.linear(3, 2), layers.convolution(2, 4), layers.rms_norm(4))

    network = as_network(block, param_dtype=jnp.bfloat16)
    drawn = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), network.shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), drawn
    )
