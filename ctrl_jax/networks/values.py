"""Value networks: one number per example."""

from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax.networks.score.mlp import MLP


class ValueMLP(nnx.Module):
    """V(t, x, *conditions) by an MLP; arguments as in `MLP`."""

    def __init__(self, shape: tuple[int, ...], *, rngs: nnx.Rngs, **options):
        self.network = MLP(shape, out=1, rngs=rngs, **options)

    def __call__(self, t: Array, x: Array, *conditions: Array) -> Float[Array, " batch"]:
        """Return one value per example."""
        return self.network(t, x, *conditions)[:, 0]
