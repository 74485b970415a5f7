r"""The autoencoder between pictures and the latents of text-to-image models.

A picture x in [-1, 1] has latents that are normal with mean m(x) and variance v(x), and the network
of the model sees those of

    (latents - shift_factor) * scaling_factor,                                            (1)

of about unit variance. Layers have the names that they have in diffusers' files.

Source: Rombach et al. 2112.10752, section 3.1; Kingma & Welling 1312.6114.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from ctrl_jax._checks import check_annotated, check_choice, refuse
from ctrl_jax.networks.functional import Network, as_network
from ctrl_jax.networks.layers.activations import ACTIVATIONS
from ctrl_jax.networks.layers.blocks import recompute
from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.sharding import AUTOENCODER
from ctrl_jax.networks.text_to_image.resnet import Downsample, ResnetBlock, Upsample
from ctrl_jax.networks.text_to_image.spatial_attention import EPSILON, PictureAttention

LOG_VARIANCES = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The description of an `AutoencoderKL`; by default that of Stable Diffusion 1.

    The network of a model sees (latents - shift_factor) * scaling_factor, of about unit variance.

    Args:
        in_channels: of the pictures that are encoded.
        out_channels: of those that are decoded.
        latent_channels: of the latents.
        widths: channels inside, from the finest resolution on.
        blocks: residual blocks of each resolution of the encoder; the decoder has one more.
        groups: of channels that are normalized together.
        activation: silu, swish, mish, gelu or relu.
        attention: whether pixels read each other at the coarsest resolution.
        quantized: whether a convolution of 1 x 1 ends the encoder.
        post_quantized: whether one begins the decoder.
        scaling_factor: what the latents are multiplied by.
        shift_factor: what is subtracted from them before.
        upcast: whether float16 is too narrow for it, so that float32 stands in for it.
        sample_size: height and width of the pictures that it was made for.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    activation: str = "silu"
    attention: bool = True
    quantized: bool = True
    post_quantized: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    upcast: bool = True
    sample_size: int = 512

    def __post_init__(self):
        check_annotated(self, "AutoencoderConfig", signed=("shift_factor",))
        check_choice("AutoencoderConfig.activation", self.activation, tuple(ACTIVATIONS))
        for number in self.widths:
            if number % self.groups:
                rule = f"they must divide the widths, here {number}"
                raise refuse("AutoencoderConfig.groups", self.groups, rule, "give a divisor")

    @property
    def factor(self) -> int:
        """How many pixels of a picture's side are one of its latents'."""
        return 2 ** (len(self.widths) - 1)


def autoencoder(
    config: AutoencoderConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
    remat: bool = False,
) -> Network:
    """Return an autoencoder as pure functions.

    ``apply(params, pictures, method="encode")`` and ``apply(params, latents, method="decode")`` are
    those of `AutoencoderKL`; latents are as the autoencoder knows them, before `scaled`.

    Args:
        config: its description.
        dtype: type of the arithmetic; normalizations and softmaxes are in float32 at least.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.
        remat: whether blocks are computed again in the backward pass.

    Raises:
        ValueError: `lora` names a layer that the network does not have.
    """
    wide = jnp.float32 if config.upcast and jnp.dtype(dtype) == jnp.float16 else dtype
    return as_network(
        lambda layers: AutoencoderKL(layers, config, remat=remat),
        rules=AUTOENCODER,
        dtype=wide,
        param_dtype=param_dtype,
        lora=lora,
    )


def scaled(config: AutoencoderConfig, latents: Array) -> Array:
    """Return (latents - shift_factor) * scaling_factor, what the network of a model sees.

    Args:
        config: of the model's autoencoder, which gives both factors.
        latents: as the autoencoder knows them.
    """
    return (latents - config.shift_factor) * config.scaling_factor


def unscaled(config: AutoencoderConfig, latents: Array) -> Array:
    """Return latents / scaling_factor + shift_factor, latents as the autoencoder knows them.

    Args:
        config: of the model's autoencoder, which gives both factors.
        latents: as the network of the model sees them.
    """
    return latents / config.scaling_factor + config.shift_factor


class AutoencoderKL(nnx.Module):
    """An autoencoder of pictures.

    Args:
        layers: makes its layers.
        config: its description.
        remat: whether blocks are computed again in the backward pass.
    """

    def __init__(self, layers: Layers, config: AutoencoderConfig, *, remat: bool = False):
        self.config, self.dtype = config, layers.dtype
        self.encoder = Encoder(layers, config, remat)
        self.decoder = Decoder(layers, config, remat)
        width = config.latent_channels
        self.quant_conv = (
            layers.convolution(2 * width, 2 * width, size=1) if config.quantized else None
        )
        self.post_quant_conv = (
            layers.convolution(width, width, size=1) if config.post_quantized else None
        )

    def encode(self, pictures: Array) -> tuple[Array, Array]:
        """Return mean and log-variance of the latents, (batch, h / f, w / f, channels) each.

        Args:
            pictures: (batch, h, w, channels) in [-1, 1]; the config's `factor`, f, divides h and w.
        """
        self._check("pictures", pictures, self.config.in_channels)
        if any(side % self.config.factor for side in pictures.shape[1:3]):
            rule = f"height and width must be multiples of {self.config.factor}"
            raise refuse("pictures", pictures, rule, "crop or pad them")
        both = self.encoder(pictures.astype(self.dtype))
        both = both if self.quant_conv is None else self.quant_conv(both)
        mean, log_variance = jnp.split(both, 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCES)

    def decode(self, latents: Array) -> Array:
        """Return pictures, in [-1, 1] about, of f times the height and width of their latents.

        Args:
            latents: (batch, h, w, channels) as the autoencoder knows them.
        """
        self._check("latents", latents, self.config.latent_channels)
        x = latents.astype(self.dtype)
        return self.decoder(x if self.post_quant_conv is None else self.post_quant_conv(x))

    def _check(self, name: str, x: Array, channels: int) -> None:
        if x.ndim != 4 or x.shape[-1] != channels:
            rule = f"they must be (batch, h, w, {channels})"
            raise refuse(name, x, rule, "give them with their channels last")


class Row(nnx.Module):
    """Residual blocks in a row."""

    def __init__(self, resnet: partial, inputs: int, outputs: int, number: int, remat: bool):
        self.remat = remat
        several = [inputs, *[outputs] * (number - 1)]
        self.resnets = nnx.List([resnet(width, outputs) for width in several])

    def __call__(self, x: Array) -> Array:
        """Apply the blocks."""
        for block in self.resnets:
            x = recompute(block, x) if self.remat else block(x)
        return x


class DownRow(Row):
    """Residual blocks, then half the size or the same."""

    def __init__(self, *arguments, resize: Downsample | None):
        super().__init__(*arguments)
        self.downsamplers = None if resize is None else nnx.List([resize])

    def __call__(self, x: Array) -> Array:
        """Apply the blocks, and change the size."""
        x = super().__call__(x)
        return x if self.downsamplers is None else self.downsamplers[0](x)


class UpRow(Row):
    """Residual blocks, then twice the size or the same."""

    def __init__(self, *arguments, resize: Upsample | None):
        super().__init__(*arguments)
        self.upsamplers = None if resize is None else nnx.List([resize])

    def __call__(self, x: Array) -> Array:
        """Apply the blocks, and change the size."""
        x = super().__call__(x)
        return x if self.upsamplers is None else self.upsamplers[0](x)


class Middle(nnx.Module):
    """Two residual blocks at the coarsest resolution, and attention between them or none."""

    def __init__(self, layers: Layers, config: AutoencoderConfig, resnet: partial):
        width = config.widths[-1]
        self.resnets = nnx.List([resnet(width, width) for _ in range(2)])
        self.attentions = (
            nnx.List([PictureAttention(layers, width, groups=config.groups)])
            if config.attention
            else None
        )

    def __call__(self, x: Array) -> Array:
        """Apply the blocks."""
        x = self.resnets[0](x)
        for attention in self.attentions or ():
            x = attention(x)
        return self.resnets[1](x)


class Encoder(nnx.Module):
    """From pictures to mean and log-variance."""

    def __init__(self, layers: Layers, config: AutoencoderConfig, remat: bool):
        resnet, channels = _resnets(layers, config), config.widths
        self.conv_in = layers.convolution(config.in_channels, channels[0])
        resizes = [*(Downsample(layers, width, around=False) for width in channels[:-1]), None]
        rows = zip((channels[0], *channels[:-1]), channels, resizes, strict=True)
        self.down_blocks = nnx.List(
            [
                DownRow(resnet, *sizes, config.blocks, remat, resize=resize)
                for *sizes, resize in rows
            ]
        )
        self.mid_block = Middle(layers, config, resnet)
        self.conv_norm_out = layers.group_norm(channels[-1], groups=config.groups, epsilon=EPSILON)
        self.conv_out = layers.convolution(channels[-1], 2 * config.latent_channels)

    def __call__(self, x: Array) -> Array:
        """Return both, one after the other along the channels."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return _ended(self, self.mid_block(x))


class Decoder(nnx.Module):
    """From latents to pictures."""

    def __init__(self, layers: Layers, config: AutoencoderConfig, remat: bool):
        resnet, channels = _resnets(layers, config), config.widths[::-1]
        self.conv_in = layers.convolution(config.latent_channels, channels[0])
        self.mid_block = Middle(layers, config, resnet)
        resizes = [*(Upsample(layers, width) for width in channels[:-1]), None]
        rows = zip((channels[0], *channels[:-1]), channels, resizes, strict=True)
        self.up_blocks = nnx.List(
            [
                UpRow(resnet, *sizes, config.blocks + 1, remat, resize=resize)
                for *sizes, resize in rows
            ]
        )
        self.conv_norm_out = layers.group_norm(channels[-1], groups=config.groups, epsilon=EPSILON)
        self.conv_out = layers.convolution(channels[-1], config.out_channels)

    def __call__(self, x: Array) -> Array:
        """Return pictures."""
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return _ended(self, x)


def _resnets(layers: Layers, config: AutoencoderConfig) -> partial:
    options = {"groups": config.groups, "epsilon": EPSILON, "activation": config.activation}
    return partial(ResnetBlock, layers, **options)


def _ended(half: Encoder | Decoder, x: Array) -> Array:
    # SiLU here whatever the activation elsewhere, as in diffusers.
    return half.conv_out(ACTIVATIONS["silu"](half.conv_norm_out(x)))
