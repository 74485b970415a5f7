"""What makes the layers of networks: random streams."""

import jax
import numpy as np
from flax import nnx

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
