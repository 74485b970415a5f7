r"""Convolutions whose gradients stay fast inside a `lax.scan`.

On a CPU the gradient of a convolution is up to fifty times slower inside a `lax.scan` than outside
(XLA's own loses its fast path there), and every training step of fine-tuning is inside one.
`convolve` therefore takes its derivatives there through the same map as matrix products, one for
each place (i, j) of the window,

    y = \sum_{i,j} shift_{ij}(x) W_{ij},                                                 (1)

which also beat the convolution's gradient outside a scan. Other devices keep their own convolution.
Pictures are (batch, height, width, channels), the layout of a TPU, and of a GPU's tensor cores.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

KERNEL_INIT = nnx.initializers.lecun_normal()
Padding = tuple[tuple[int, int], tuple[int, int]]
UNPADDED: Padding = ((0, 0), (0, 0))


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "batch h w inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    stride: int = 1,
    padding: Padding = ((1, 1), (1, 1)),
) -> Float[Array, "batch out_h out_w outputs"]:
    """Return the convolution of x, padded with zeros: by default to the same size for a 3 x 3."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@convolve.defjvp
def _convolve_jvp(stride, padding, primals, tangents):
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    by_products = partial(convolve_by_products, stride=stride, padding=padding)
    as_usual = partial(convolve, stride=stride, padding=padding)

    @jax.checkpoint  # keeps x for the backward pass, rather than nine shifted copies of it
    def linear(x, kernel):
        return jax.lax.platform_dependent(x, kernel, cpu=by_products, default=as_usual)

    y = convolve(x, kernel, stride, padding)
    return y, linear(x_dot, kernel) + linear(x, kernel_dot)


def convolve_by_products(
    x: Float[Array, "batch h w inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    stride: int = 1,
    padding: Padding = ((1, 1), (1, 1)),
) -> Float[Array, "batch out_h out_w outputs"]:
    """Return the same as `convolve`, by the products (1)."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    batch, height, width, channels = padded.shape
    rows, columns = kernel.shape[:2]
    down, right = ((n - k) // stride for n, k in ((height, rows), (width, columns)))
    total = sum(
        padded[:, i : i + down * stride + 1 : stride, j : j + right * stride + 1 : stride].reshape(
            -1, channels
        )
        @ kernel[i, j]
        for i in range(rows)
        for j in range(columns)
    )
    return jnp.asarray(total).reshape(batch, down + 1, right + 1, -1)


class Convolution(nnx.Module):
    """A convolution; with an adapter (`networks.lora`) its output is added.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        size: side of the window.
        stride: between windows.
        padding: zeros before and after the rows and the columns; by default as many as keep the
            size at stride 1.
        use_bias: whether a bias is added.
        kernel_init: draws the kernel (size, size, inputs, outputs).
        dtype: of the arithmetic; that of input and kernel by default.
        param_dtype: of fresh parameters.
        rngs: random streams.
    """

    lora_a: nnx.Param | None = None
    lora_b: nnx.Param | None = None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 3,
        stride: int = 1,
        padding: Padding | None = None,
        use_bias: bool = True,
        kernel_init=KERNEL_INIT,
        dtype=None,
        param_dtype=jnp.float32,
        rngs: Any,
    ):
        self.dtype, self.param_dtype, self.stride = dtype, param_dtype, stride
        self.padding = padding or (((size - 1) // 2, size // 2),) * 2
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), (size, size, inputs, outputs), param_dtype)
        )
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype)) if use_bias else None

    def __call__(self, x: Array) -> Array:
        """Apply the convolution to (batch, h, w, inputs)."""
        kernel = self.kernel[...]
        dtype = self.dtype or jnp.promote_types(x.dtype, kernel.dtype)
        x = x.astype(dtype)
        y = self._convolve(x, kernel.astype(dtype))
        if self.lora_a is not None and self.lora_b is not None:
            inner = self._convolve(x, self.lora_a[...].astype(dtype))
            y = y + self.lora_scale * _matmul(inner, self.lora_b[...].astype(dtype))
        return y if self.bias is None else y + self.bias[...].astype(dtype)[None, None, None]

    def add_adapter(self, rank: int, scale: float, rngs: Any) -> None:
        """Put an adapter beside the kernel; where kernels are stacked, one beside each."""
        *window, inputs, outputs = self.kernel.shape
        draw = nnx.initializers.normal((window[-1] * window[-2] * inputs) ** -0.5)
        self.lora_scale = scale
        self.lora_a = nnx.Param(draw(rngs.lora(), (*window, inputs, rank), self.param_dtype))
        narrow = (*window[:-2], 1, 1, rank, outputs)
        self.lora_b = nnx.Param(jnp.zeros(narrow, self.param_dtype))

    def _convolve(self, x: Array, kernel: Array) -> Array:
        if kernel.shape[:2] == (1, 1) and self.stride == 1:
            return _matmul(x, kernel)
        if kernel.shape[:2] == (self.stride, self.stride) and self.padding == UNPADDED:
            return _matmul_of_patches(x, kernel)
        return convolve(x, kernel, self.stride, self.padding)


def _matmul_of_patches(x: Array, kernel: Array) -> Array:
    """A convolution whose windows do not overlap: one product of patches, fast everywhere."""
    batch, height, width, channels = x.shape
    rows, columns = kernel.shape[:2]
    down, right = height // rows, width // columns
    patches = x[:, : down * rows, : right * columns]
    patches = patches.reshape(batch, down, rows, right, columns, channels).swapaxes(2, 3)
    return (
        patches.reshape(batch * down * right, -1) @ kernel.reshape(-1, kernel.shape[-1])
    ).reshape(batch, down, right, -1)


def _matmul(x: Array, kernel: Array) -> Array:
    """A convolution of one pixel: one product of matrices, whose gradient is fast on CPU."""
    batch, height, width, channels = x.shape
    return (x.reshape(-1, channels) @ kernel[0, 0]).reshape(batch, height, width, -1)
