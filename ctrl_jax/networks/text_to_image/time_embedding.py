"""What the networks are told about the time: two linear layers on features of one number.

The features are those of `noise_embedding`, equation (1), computed in float32 at least.
"""

from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax.networks.layers.activations import ACTIVATIONS
from ctrl_jax.networks.layers.making import Layers


class TimestepEmbedding(nnx.Module):
    """Two linear layers with an activation between.

    Args:
        layers: makes them.
        inputs: number of features.
        outputs: width of the embedding.
        activation: its name.
    """

    def __init__(self, layers: Layers, inputs: int, outputs: int, activation: str = "silu"):
        self.activation = activation
        self.linear_1 = layers.linear(inputs, outputs)
        self.linear_2 = layers.linear(outputs, outputs)

    def __call__(self, features: Float[Array, "rows inputs"]) -> Float[Array, "rows outputs"]:
        """Return the embedding of features."""
        return self.linear_2(ACTIVATIONS[self.activation](self.linear_1(features)))
