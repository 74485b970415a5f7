"""Convolutions whose windows do not overlap, which are products of patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ctrl_jax.networks.layers.convolution import UNPADDED, Convolution, convolve


@pytest.mark.parametrize("shape", [(2, 6, 9, 3), (1, 7, 5, 3)])
def test_windows_side_by_side_are_a_product_of_patches(shape):
    """What is left at the border is seen by none, as in any convolution."""
    layer = Convolution(
        3, 4, size=3, stride=3, padding=UNPADDED, use_bias=False, rngs=nnx.Rngs(0, lora=1)
    )
    layer.add_adapter(2, 1.5, nnx.Rngs(lora=1))
    layer.lora_b = nnx.Param(jnp.ones((1, 1, 2, 4)))
    x = jax.random.normal(jax.random.key(0), shape)
    assert layer.lora_a is not None
    kernel, inner = (
        convolve(x, parameter[...], 3, UNPADDED) for parameter in (layer.kernel, layer.lora_a)
    )
    expected = kernel + 1.5 * inner.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert layer.bias is None
