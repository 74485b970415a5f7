r"""Residual blocks of pictures, and the change of their size by two.

With n_1, n_2 group normalizations, f an activation, c_1, c_2 convolutions of 3 x 3 and e the
embedding of the time,

    y = (s(x) + c_2 f n_2 (c_1 f n_1 x + W f(e))) / scale,                                   (1)

s being a convolution of 1 x 1 where the number of channels changes, and else the identity.
Source: Ho et al. 2006.11239; Rombach et al. 2112.10752.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax.networks.layers.activations import ACTIVATIONS
from ctrl_jax.networks.layers.making import Layers


class ResnetBlock(nnx.Module):
    """One block (1).

    Args:
        layers: makes its layers.
        inputs: channels of the input.
        outputs: channels of the output.
        time: width of the time's embedding; None for a block that is not told the time.
        groups: of channels that are normalized together.
        epsilon: added to the variance there.
        activation: name of f.
        scale: divides the sum.
    """

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        *,
        time: int | None = None,
        groups: int,
        epsilon: float,
        activation: str,
        scale: float = 1.0,
    ):
        self.activation, self.scale = activation, scale
        self.norm1 = layers.group_norm(inputs, groups=groups, epsilon=epsilon)
        self.conv1 = layers.convolution(inputs, outputs)
        self.time_emb_proj = None if time is None else layers.linear(time, outputs)
        self.norm2 = layers.group_norm(outputs, groups=groups, epsilon=epsilon)
        self.conv2 = layers.convolution(outputs, outputs)
        self.conv_shortcut = (
            layers.convolution(inputs, outputs, size=1) if inputs != outputs else None
        )

    def __call__(
        self, x: Float[Array, "batch h w inputs"], embedding: Float[Array, "rows e"] | None = None
    ) -> Float[Array, "batch h w outputs"]:
        """Return (1) of pictures; the embedding has a row for each, or one for all."""
        activate = ACTIVATIONS[self.activation]
        h = self.conv1(activate(self.norm1(x)))
        if self.time_emb_proj is not None and embedding is not None:
            h = h + self.time_emb_proj(activate(embedding))[:, None, None]
        h = self.conv2(activate(self.norm2(h)))
        same = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return same + h if self.scale == 1 else (same + h) / self.scale


class Downsample(nnx.Module):
    """A convolution of stride 2.

    Args:
        layers: makes it.
        channels: of input and output.
        around: whether zeros are put on every side, or at the end of rows and columns alone.
    """

    def __init__(self, layers: Layers, channels: int, *, around: bool):
        ends = (1, 1) if around else (0, 1)
        self.conv = layers.convolution(channels, channels, stride=2, padding=(ends, ends))

    def __call__(self, x: Float[Array, "batch h w c"]) -> Array:
        """Return pictures of half the height and width."""
        return self.conv(x)


class Upsample(nnx.Module):
    """Every pixel four times, then a convolution.

    Args:
        layers: makes it.
        channels: of input and output.
    """

    def __init__(self, layers: Layers, channels: int):
        self.conv = layers.convolution(channels, channels)

    def __call__(
        self, x: Float[Array, "batch h w c"], size: tuple[int, ...] | None = None
    ) -> Array:
        """Return pictures of twice the height and width, or of `size`, each at most one less."""
        batch, height, width, channels = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
        x = x.reshape(batch, 2 * height, 2 * width, channels)
        return self.conv(x if size is None else x[:, : size[0], : size[1]])
