"""Value networks: one number per example."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax.networks.score.mlp import MLP


class ValueMLP(nnx.Module):
    """V(t, x, *conditions), one number per example, by an `MLP`.

    Args:
        shape: shape of one example.
        rngs: random streams.
        **options: keyword arguments of `MLP`, such as its width, but for its output.
    """

    def __init__(self, shape: tuple[int, ...], *, rngs: nnx.Rngs, **options: Any):
        self.network = MLP(shape, out=1, rngs=rngs, **options)

    def __call__(self, t: Array, x: Array, *conditions: Array) -> Float[Array, " batch"]:
        """Return one value per example."""
        return self.network(t, x, *conditions)[:, 0]
