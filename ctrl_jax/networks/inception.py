r"""Inception-v3 (1512.00567) as the Frechet Inception distance uses it.

The published network of 2015 with 1008 classes differs from the later reimplementations in its
pooling: an average counts no padding, and the last block takes a maximum in place of it. Layers
carry their published names, so that weights are found by name. Each convolution has no bias and is
followed by a normalization with stored moments and a rectifier,

    y = max((w * x - m) / sqrt(v + 1e-3) g + b, 0).                                       (1)

Preprocessing: images in [-1, 1] are resized to 299 x 299 by bilinear interpolation between pixel
centers (half-pixel, no anti-aliasing), and enter as they are.
The 2048 features are the last feature map, averaged over pixels (pool3); class probabilities are
softmax(logits). Source: Szegedy et al. 2015; Heusel et al. 2017 (features); Salimans et al. 2016.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

SIZE = 299
CLASSES = 1008
Pool = Literal["average", "maximum", "maximum of stride 2"]


class InceptionOutput(NamedTuple):
    """Features (batch, 2048) and logits (batch, 1008)."""

    features: Float[Array, "batch 2048"]
    logits: Float[Array, "batch 1008"]


class Layer(NamedTuple):
    """A convolution: name, channels, kernel, stride; padded to keep the size unless `valid`."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False


class Branches(NamedTuple):
    """Chains of layers side by side, then a pooled branch; a tuple in a chain is a fork."""

    chains: tuple[tuple[Layer | tuple[Layer, Layer], ...], ...]
    pool: Pool
    pool_channels: int | None


STEM = (
    Layer("Conv2d_1a_3x3", 32, (3, 3), 2, valid=True),
    Layer("Conv2d_2a_3x3", 32, (3, 3), valid=True),
    Layer("Conv2d_2b_3x3", 64, (3, 3)),
    None,  # a maximum over 3 x 3 pixels with stride 2
    Layer("Conv2d_3b_1x1", 80),
    Layer("Conv2d_4a_3x3", 192, (3, 3), valid=True),
    None,
)


def _block_a(pool_channels: int) -> Branches:
    return Branches(
        (
            (Layer("branch1x1", 64),),
            (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
            (
                Layer("branch3x3dbl_1", 64),
                Layer("branch3x3dbl_2", 96, (3, 3)),
                Layer("branch3x3dbl_3", 96, (3, 3)),
            ),
        ),
        "average",
        pool_channels,
    )


def _block_c(inner: int) -> Branches:
    return Branches(
        (
            (Layer("branch1x1", 192),),
            (
                Layer("branch7x7_1", inner),
                Layer("branch7x7_2", inner, (1, 7)),
                Layer("branch7x7_3", 192, (7, 1)),
            ),
            (
                Layer("branch7x7dbl_1", inner),
                Layer("branch7x7dbl_2", inner, (7, 1)),
                Layer("branch7x7dbl_3", inner, (1, 7)),
                Layer("branch7x7dbl_4", inner, (7, 1)),
                Layer("branch7x7dbl_5", 192, (1, 7)),
            ),
        ),
        "average",
        192,
    )


def _block_e(pool: Pool) -> Branches:
    def fork(name: str) -> tuple[Layer, Layer]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    return Branches(
        (
            (Layer("branch1x1", 320),),
            (Layer("branch3x3_1", 384), fork("branch3x3_2")),
            (
                Layer("branch3x3dbl_1", 448),
                Layer("branch3x3dbl_2", 384, (3, 3)),
                fork("branch3x3dbl_3"),
            ),
        ),
        pool,
        192,
    )


BLOCK_B = Branches(
    (
        (Layer("branch3x3", 384, (3, 3), 2, valid=True),),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, (3, 3)),
            Layer("branch3x3dbl_3", 96, (3, 3), 2, valid=True),
        ),
    ),
    "maximum of stride 2",
    None,
)
BLOCK_D = Branches(
    (
        (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), 2, valid=True)),
        (
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, (3, 3), 2, valid=True),
        ),
    ),
    "maximum of stride 2",
    None,
)
BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": BLOCK_B,
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": BLOCK_D,
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("maximum"),
}


class NormalisedConvolution(nnx.Module):
    """The map (1)."""

    def __init__(self, inputs: int, layer: Layer, *, rngs: nnx.Rngs):
        shape = (*layer.kernel, inputs, layer.channels)
        self.stride, self.padding = layer.stride, "VALID" if layer.valid else "SAME"
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))
        self.scale = nnx.Param(jnp.ones(layer.channels))
        self.bias = nnx.Param(jnp.zeros(layer.channels))
        self.mean = nnx.Param(jnp.zeros(layer.channels))
        self.variance = nnx.Param(jnp.ones(layer.channels))

    def __call__(self, x: Array) -> Array:
        """Apply it to (batch, h, w, inputs)."""
        strides, dimensions = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...], strides, self.padding, dimension_numbers=dimensions
        )
        factor = self.scale[...] * jax.lax.rsqrt(self.variance[...] + 1e-3)
        shift = self.bias[...] - self.mean[...] * factor
        return jax.nn.relu(y * factor[None, None, None] + shift[None, None, None])


class InceptionBlock(nnx.Module):
    """The branches side by side, joined along the channels."""

    def __init__(self, inputs: int, branches: Branches, *, rngs: nnx.Rngs):
        self.branches, layers, self.channels = branches, {}, 0
        for chain in branches.chains:
            channels = inputs
            for step in chain:
                fork = (step,) if isinstance(step, Layer) else step
                for layer in fork:
                    layers[layer.name] = NormalisedConvolution(channels, layer, rngs=rngs)
                channels = sum(layer.channels for layer in fork)
            self.channels += channels
        if branches.pool_channels is not None:
            pooled = Layer("branch_pool", branches.pool_channels)
            layers["branch_pool"] = NormalisedConvolution(inputs, pooled, rngs=rngs)
        self.channels += branches.pool_channels or inputs
        self.layers = nnx.Dict(layers)

    def __call__(self, x: Array) -> Array:
        """Apply it to (batch, h, w, inputs)."""
        found = []
        for chain in self.branches.chains:
            h = x
            for step in chain:
                fork = (step,) if isinstance(step, Layer) else step
                h = jnp.concatenate([self.layers[layer.name](h) for layer in fork], axis=-1)
            found.append(h)
        pooled = pool(x, self.branches.pool)
        if self.branches.pool_channels is not None:
            pooled = self.layers["branch_pool"](pooled)
        return jnp.concatenate([*found, pooled], axis=-1)


class InceptionV3(nnx.Module):
    """Images to 2048 features and 1008 logits.

    Args:
        rngs: random streams; weights that mean anything come from `ctrl_jax.pretrained`.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        layers, channels = {}, 3
        for layer in filter(None, STEM):
            layers[layer.name] = NormalisedConvolution(channels, layer, rngs=rngs)
            channels = layer.channels
        self.stem = nnx.Dict(layers)
        blocks = {}
        for name, branches in BLOCKS.items():
            blocks[name] = InceptionBlock(channels, branches, rngs=rngs)
            channels = blocks[name].channels
        self.blocks = nnx.Dict(blocks)
        self.classes = nnx.Linear(channels, CLASSES, rngs=rngs)

    def __call__(self, images: Float[Array, "batch h w 3"]) -> InceptionOutput:
        """Return features and logits of images in [-1, 1], resized here."""
        batch = images.shape[0]
        return self.forward(
            jax.image.resize(images, (batch, SIZE, SIZE, 3), "bilinear", antialias=False)
        )

    def forward(self, x: Float[Array, "batch h w 3"]) -> InceptionOutput:
        """Return features and logits of images that have their size already, 75 at least."""
        for layer in STEM:
            x = pool(x, "maximum of stride 2") if layer is None else self.stem[layer.name](x)
        for name in BLOCKS:
            x = self.blocks[name](x)
        features = jnp.mean(x, axis=(1, 2))
        return InceptionOutput(features, self.classes(features))


def pool(x: Array, kind: Pool) -> Array:
    """Return a maximum or an average over 3 x 3 pixels; an average counts no padding."""
    window = (1, 3, 3, 1)
    if kind == "maximum of stride 2":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
    if kind == "maximum":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 1, 1, 1), "SAME")
    total, count = (
        jax.lax.reduce_window(y, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
        for y in (x, jnp.ones((1, *x.shape[1:3], 1), x.dtype))
    )
    return total / count
