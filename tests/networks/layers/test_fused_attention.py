"""Attention in pieces is attention, with its gradient, and holds one piece at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.layers import fused_attention
from ctrl_jax.networks.layers.fused_attention import attend_heads, dot_product


@pytest.mark.parametrize("seen", [12, 31])
@pytest.mark.parametrize("largest", [100, 50])  # of 23 x 12 pairs: 3 and 6 pieces, the last padded
def test_pieces_are_the_whole(monkeypatch, largest, seen):
    keys = jax.random.split(jax.random.key(0), 4)
    query, target = (jax.random.normal(k, (2, 23, 3, 8)) for k in keys[:2])
    key, value = (jax.random.normal(k, (2, seen, 3, 8)) for k in keys[2:])

    def loss(query, key, value):
        found = dot_product(query, key, value)
        return jnp.sum(found * target), found

    def found():
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    (_, whole), gradients = found()
    monkeypatch.setattr(fused_attention, "LARGEST", largest)
    (_, pieces), cut = found()
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-6)
    for one, other in zip(cut, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_only_one_piece_is_held_at_a_time():
    shape = jax.ShapeDtypeStruct((1, 2**12, 8), jnp.bfloat16)
    gradient = jax.grad(lambda x: attend_heads(x, x, x, 1).astype(jnp.float32).sum())
    compiled = jax.jit(gradient).lower(shape).compile()
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 4 * 2**24  # of all pairs in float32
