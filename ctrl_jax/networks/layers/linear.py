"""Layers shared by the networks: a linear layer fast on CPU, and embeddings of time and class."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, check_positive, check_shape, refuse

ZERO = nnx.initializers.zeros_init()


class Linear(nnx.Linear):
    """A linear layer that flattens leading axes before the product.

    The gradient of a three-dimensional ``x @ w`` is 2.7 times slower on CPU than that of the same
    product on two axes. With an adapter (`networks.lora`) its output is added.
    """

    lora_a: nnx.Param | None = None
    lora_b: nnx.Param | None = None

    def __call__(self, inputs: Array) -> Array:
        """Apply the layer to the last axis."""
        x = inputs.reshape(-1, inputs.shape[-1])
        flat = super().__call__(x)
        if self.lora_a is not None and self.lora_b is not None:
            a, b = (factor[...].astype(flat.dtype) for factor in (self.lora_a, self.lora_b))
            flat = flat + self.lora_scale * (x.astype(flat.dtype) @ a @ b)
        return flat.reshape(*inputs.shape[:-1], flat.shape[-1])

    def add_adapter(self, rank: int, scale: float, rngs: Any) -> None:
        """Put an adapter beside the kernel; where kernels are stacked, one beside each."""
        *stacked, inputs, outputs = self.kernel.shape
        draw = nnx.initializers.normal(inputs**-0.5)
        self.lora_scale = scale
        self.lora_a = nnx.Param(draw(rngs.lora(), (*stacked, inputs, rank), self.param_dtype))
        self.lora_b = nnx.Param(jnp.zeros((*stacked, rank, outputs), self.param_dtype))


def check_sizes(
    owner: str,
    shape: Any,
    axes: int | None = None,
    *,
    horizon: float,
    classes: int,
    **sizes: int,
) -> None:
    """Raise ValueError, about "owner.name", unless a network can be made in these sizes.

    Args:
        owner: the network.
        shape: of one example.
        axes: how many it must have; any number by default.
        horizon: of the process, above zero.
        classes: number of labels, zero or more.
        **sizes: counts of one or more.
    """
    if not isinstance(shape, tuple | list) or len(shape) != (axes or len(shape)):
        what = "a tuple" if axes is None else "(height, width, channels)"
        raise refuse(f"{owner}.shape", shape, f"it must be {what}", "give one such as (8, 8, 1)")
    check_shape(tuple(shape), name=f"{owner}.shape")
    check_positive(f"{owner}.horizon", horizon)
    check_count(f"{owner}.classes", classes, least=0)
    for name, size in sizes.items():
        check_count(f"{owner}.{name}", size)


class Conditioning(nnx.Module):
    """Embeds the time, and a class label where there are classes.

    Args:
        width: size of the embedding.
        horizon: T of the process, so that the network sees t / T.
        classes: number of class labels; 0 for none.
        frequencies: number of Fourier frequencies, from 1 to 1000 per horizon.
        dtype: type of the arithmetic; that of parameters and inputs by default.
        rngs: random streams.
    """

    def __init__(
        self,
        width: int,
        *,
        horizon: float,
        classes: int,
        frequencies: int = 32,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        self.horizon, self.frequencies = horizon, frequencies
        self.hidden = Linear(2 * frequencies, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)
        self.classes = nnx.Embed(classes, width, rngs=rngs) if classes else None

    def __call__(self, t: Array, *conditions: Array) -> Float[Array, "rows width"]:
        """Return the embedding of t and of the label, if any.

        There is one row where t is a scalar and there is no label: it is the same for the batch.
        """
        relative = jnp.reshape(jnp.asarray(t, jnp.float32) / self.horizon, (-1,))
        rates = jnp.exp(jnp.linspace(0.0, math.log(1000.0), self.frequencies))
        angles = relative[:, None] * rates[None]
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        embedding = self.out(jax.nn.silu(self.hidden(features)))
        if self.classes is not None:
            embedding = embedding + self.classes(conditions[0])
        return jax.nn.silu(embedding)


@jax.custom_jvp
def gradient_turned(matrix: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Return the matrix itself; its gradient is computed transposed, and turned then.

    For a matrix of more rows than columns on the right of a product: on CPU XLA computes the
    gradient of one with 8192 rows and 256 columns 1.6 times faster as one of 256 rows.
    """
    return matrix


@gradient_turned.defjvp
def _(primals, tangents):
    # Without the barrier XLA would swap the factors back.
    return primals[0], jax.lax.optimization_barrier(tangents[0].T).T


def at_least_single(dtype: jnp.dtype) -> jnp.dtype:
    """Return float32 in place of a narrower type, for what loses too much in it."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def normalize(x: Array, epsilon: float = 1e-6) -> Array:
    """Return x with zero mean and unit variance over its last axis (layer norm without weights)."""
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(
        jnp.mean(jnp.square(centered), axis=-1, keepdims=True) + epsilon
    )
