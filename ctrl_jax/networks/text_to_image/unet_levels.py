"""The resolutions of a `UNet2DCondition`: residual blocks, transformers after them, change of size.

On the way down every block's output is kept, and on the way up each block reads the last one kept,
as further channels of its input.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ctrl_jax.networks.layers.blocks import recompute
from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.networks.text_to_image.resnet import Downsample, ResnetBlock, Upsample
from ctrl_jax.networks.text_to_image.spatial_attention import SpatialTransformer
from ctrl_jax.networks.text_to_image.unet_config import UNetConfig


@dataclasses.dataclass(frozen=True)
class Parts:
    """Makes the parts of a network's resolutions.

    Args:
        layers: makes layers.
        config: the description of the network.
        stacked: whether transformer blocks alike are stacked and scanned.
        remat: whether blocks are computed again in the backward pass.
    """

    layers: Layers
    config: UNetConfig
    stacked: bool
    remat: bool

    def resnet(self, inputs: int, outputs: int, scale: float = 1.0) -> ResnetBlock:
        """Return a residual block."""
        return ResnetBlock(
            self.layers,
            inputs,
            outputs,
            time=self.config.embedding,
            groups=self.config.groups,
            epsilon=self.config.epsilon,
            activation=self.config.activation,
            scale=scale,
        )

    def transformer(self, level: int, *, only_cross: bool) -> SpatialTransformer:
        """Return a transformer of one of the resolutions, counted from the finest."""
        return SpatialTransformer(
            self.layers,
            self.config.widths[level],
            heads=self.config.heads[level],
            context=self.config.context,
            depth=self.config.depth[level],
            groups=self.config.groups,
            linear=self.config.linear_projection,
            only_cross=only_cross,
            stacked=self.stacked,
            remat=self.remat,
        )


class Level(nnx.Module):
    """Residual blocks, and transformers or none.

    Args:
        parts: makes them.
        level: which resolution, counted from the finest.
        inputs: channels of the input of each block.
        attention: whether a transformer follows each.
    """

    def __init__(self, parts: Parts, level: int, inputs: Iterable[int], *, attention: bool):
        outputs, self.remat = parts.config.widths[level], parts.remat
        self.resnets = nnx.List([parts.resnet(number, outputs) for number in inputs])
        only = parts.config.only_cross_attention[level]
        self.attentions = (
            nnx.List([parts.transformer(level, only_cross=only) for _ in self.resnets])
            if attention
            else None
        )

    def block(self, number: int, x: Array, embedding: Array, context: Array) -> Array:
        """Apply one residual block, and the transformer that follows it."""
        x = _applied(self.resnets[number], self.remat, x, embedding)
        return x if self.attentions is None else self.attentions[number](x, context)


class DownLevel(Level):
    """A resolution on the way down.

    Args:
        parts: makes its parts.
        level: which resolution, counted from the finest.
        inputs: channels of its input.
    """

    def __init__(self, parts: Parts, level: int, inputs: int):
        config = parts.config
        outputs = config.widths[level]
        several = [inputs, *[outputs] * (config.blocks[level] - 1)]
        super().__init__(parts, level, several, attention=config.down_attention[level])
        last = level == len(config.widths) - 1
        self.downsamplers = (
            None if last else nnx.List([Downsample(parts.layers, outputs, around=True)])
        )

    def __call__(self, x: Array, embedding: Array, context: Array) -> list[Array]:
        """Return the output of every block, and that of half the size where there is one."""
        kept = []
        for number in range(len(self.resnets)):
            x = self.block(number, x, embedding, context)
            kept.append(x)
        return kept if self.downsamplers is None else [*kept, self.downsamplers[0](x)]


class MiddleLevel(nnx.Module):
    """Two residual blocks with a transformer between them, at the coarsest resolution."""

    def __init__(self, parts: Parts):
        config, self.remat = parts.config, parts.remat
        width = config.widths[-1]
        self.resnets = nnx.List([parts.resnet(width, width, config.middle_scale) for _ in range(2)])
        # What only reads the text elsewhere reads the picture too here.
        self.attentions = nnx.List([parts.transformer(-1, only_cross=False)])

    def __call__(self, x: Array, embedding: Array, context: Array) -> Array:
        """Apply the blocks."""
        x = _applied(self.resnets[0], self.remat, x, embedding)
        x = self.attentions[0](x, context)
        return _applied(self.resnets[1], self.remat, x, embedding)


class UpLevel(Level):
    """A resolution on the way up.

    Args:
        parts: makes its parts.
        level: which resolution, counted from the finest.
        inputs: channels of its input.
    """

    def __init__(self, parts: Parts, level: int, inputs: int):
        config = parts.config
        outputs, number = config.widths[level], config.blocks[level]
        # The last of those kept is of the finer resolution, or of the first convolution.
        kept = [*[outputs] * number, config.widths[max(level - 1, 0)]]
        several = [a + b for a, b in zip([inputs, *[outputs] * number], kept, strict=True)]
        super().__init__(parts, level, several, attention=config.up_attention[-1 - level])
        self.upsamplers = nnx.List([Upsample(parts.layers, outputs)]) if level else None

    def __call__(self, x: Array, kept: list[Array], embedding: Array, context: Array) -> Array:
        """Return the output; what is kept is read from the end, and taken from the list."""
        for number in range(len(self.resnets)):
            x = jnp.concatenate([x, kept.pop()], axis=-1)
            x = self.block(number, x, embedding, context)
        return x if self.upsamplers is None else self.upsamplers[0](x, kept[-1].shape[1:3])


def _applied(block: Any, remat: bool, *arguments: Array) -> Array:
    return recompute(block, *arguments) if remat else block(*arguments)
