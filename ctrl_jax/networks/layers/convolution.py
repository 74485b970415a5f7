r"""3 x 3 convolutions whose gradients stay fast inside a `lax.scan`.

On a CPU the gradient of a convolution is up to fifty times slower inside a `lax.scan` than outside
(XLA's own loses its fast path there), and every training step of fine-tuning is inside one.
`convolve` therefore takes its derivatives there through the same map as nine matrix products,

    y = \sum_{i,j} shift_{ij}(x) W_{ij},                                                 (1)

which also beat the convolution's gradient outside a scan. Other devices keep their own convolution.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

KERNEL_INIT = nnx.initializers.lecun_normal()


@jax.custom_jvp
def convolve(
    x: Float[Array, "batch h w inputs"], kernel: Float[Array, "3 3 inputs outputs"]
) -> Float[Array, "batch h w outputs"]:
    """Return the 3 x 3 convolution of x, padded with zeros to the same size."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@convolve.defjvp
def _convolve_jvp(primals, tangents):
    (x, kernel), (x_dot, kernel_dot) = primals, tangents

    @jax.checkpoint  # keeps x for the backward pass, rather than nine shifted copies of it
    def linear(x, kernel):
        return jax.lax.platform_dependent(x, kernel, cpu=convolve_by_products, default=convolve)

    return convolve(x, kernel), linear(x_dot, kernel) + linear(x, kernel_dot)


def convolve_by_products(
    x: Float[Array, "batch h w inputs"], kernel: Float[Array, "3 3 inputs outputs"]
) -> Float[Array, "batch h w outputs"]:
    """Return the same as `convolve`, by the products (1)."""
    batch, rows, columns, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = sum(
        padded[:, i : i + rows, j : j + columns].reshape(-1, channels) @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    return jnp.asarray(total).reshape(batch, rows, columns, -1)


class Convolution(nnx.Module):
    """A 3 x 3 convolution with bias."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel_init=KERNEL_INIT, dtype=None, rngs: nnx.Rngs
    ):
        self.dtype = dtype
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Array) -> Array:
        """Apply the convolution to (batch, h, w, inputs)."""
        kernel, bias = self.kernel[...], self.bias[...]
        dtype = self.dtype or jnp.promote_types(x.dtype, kernel.dtype)
        y = convolve(x.astype(dtype), kernel.astype(dtype))
        return y + bias.astype(dtype)[None, None, None]
