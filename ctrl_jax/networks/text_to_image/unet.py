r"""The convolutional network of Stable Diffusion 1, 2 and XL.

Latents go down through resolutions of half the size each, and up again. Every block on the way up
also reads what one on the way down computed; residual blocks are told the time, and transformers
read the text. Layers have the names that they have in diffusers' files, so that
`pretrained.diffusers.unet_table` is a rule, and adapters are put where users name them: ``to_q``,
``to_k``, ``to_v``, ``to_out.0``, ``proj_in``, ``conv1`` ...

Source: Rombach et al. 2112.10752; Podell et al. 2307.01952 (XL).
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse
from ctrl_jax.networks.functional import Network, as_network
from ctrl_jax.networks.layers.activations import ACTIVATIONS
from ctrl_jax.networks.layers.linear import at_least_single
from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.networks.layers.noise_embedding import positional_features
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.sharding import UNET
from ctrl_jax.networks.text_to_image.time_embedding import TimestepEmbedding
from ctrl_jax.networks.text_to_image.unet_config import UNetConfig
from ctrl_jax.networks.text_to_image.unet_levels import DownLevel, MiddleLevel, Parts, UpLevel


def unet(
    config: UNetConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
    remat: bool = False,
    stacked: bool = True,
) -> Network:
    """Return a UNet as pure functions.

    ``apply(params, sample, timestep, encoder_hidden_states)`` is `UNet2DCondition.__call__`.

    Args:
        config: its description.
        dtype: type of the arithmetic; normalizations and softmaxes are in float32 at least.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.
        remat: whether blocks are computed again in the backward pass, which then keeps their inputs
            alone.
        stacked: whether transformer blocks that are alike are stacked and scanned.

    Raises:
        ValueError: `lora` names a layer that the network does not have.
    """
    return as_network(
        lambda layers: UNet2DCondition(layers, config, remat=remat, stacked=stacked),
        rules=UNET,
        dtype=dtype,
        param_dtype=param_dtype,
        lora=lora,
    )


class UNet2DCondition(nnx.Module):
    """A UNet whose transformers read a text.

    Args:
        layers: makes its layers.
        config: its description.
        remat: whether blocks are computed again in the backward pass.
        stacked: whether transformer blocks that are alike are stacked and scanned.
    """

    def __init__(
        self, layers: Layers, config: UNetConfig, *, remat: bool = False, stacked: bool = True
    ):
        parts = Parts(layers, config, stacked, remat)
        widths, added = config.widths, config.added
        self.config, self.dtype = config, layers.dtype
        self.conv_in = layers.convolution(config.in_channels, widths[0], size=config.in_size)
        self.time_embedding = TimestepEmbedding(
            layers, widths[0], config.embedding, config.activation
        )
        self.add_embedding: Any = (
            None if added is None else TimestepEmbedding(layers, added.width, config.embedding)
        )
        levels = range(len(widths))
        self.down_blocks = nnx.List([DownLevel(parts, i, widths[max(i - 1, 0)]) for i in levels])
        self.mid_block = MiddleLevel(parts) if config.middle else None
        self.up_blocks = nnx.List(
            [UpLevel(parts, i, widths[min(i + 1, levels[-1])]) for i in reversed(levels)]
        )
        self.conv_norm_out = layers.group_norm(
            widths[0], groups=config.groups, epsilon=config.epsilon
        )
        self.conv_out = layers.convolution(widths[0], config.out_channels, size=config.out_size)

    def __call__(
        self,
        sample: Array,
        timestep: Any,
        encoder_hidden_states: Array,
        text_embeds: Array | None = None,
        time_ids: Array | None = None,
    ) -> Float[Array, "batch h w outputs"]:
        """Return the prediction, in the dtype of the arithmetic.

        Args:
            sample: noisy latents (batch, h, w, channels).
            timestep: the time, as the model counts it, () or (batch,).
            encoder_hidden_states: the text's tokens (batch, tokens, context).
            text_embeds: a vector of the text (batch, width), where the config has `added`.
            time_ids: numbers about the picture (batch, numbers), there too: for XL its height and
                width in pixels, those cut away above and at the left, and the height and width it
                should have.

        Raises:
            ValueError: a shape that does not fit, or an argument missing or given in vain.
        """
        self._check(sample, encoder_hidden_states)
        self._check_added(text_embeds, time_ids)
        embedding = self._embed(timestep, text_embeds, time_ids)
        text = encoder_hidden_states.astype(self.dtype)
        x = sample.astype(self.dtype)
        x = self.conv_in(2 * x - 1 if self.config.centered else x)
        kept = [x]
        for level in self.down_blocks:
            kept += level(kept[-1], embedding, text)
        x = kept[-1]
        if self.mid_block is not None:
            x = self.mid_block(x, embedding, text)
        for level in self.up_blocks:
            x = level(x, kept, embedding, text)
        return self.conv_out(ACTIVATIONS[self.config.activation](self.conv_norm_out(x)))

    def _embed(self, timestep: Any, vector: Array | None, numbers: Array | None) -> Array:
        """A row for each picture, or one for all."""
        embedding = self.time_embedding(self._features(timestep, self.config.widths[0]))
        if self.config.added is None or vector is None or numbers is None:
            return embedding
        features = self._features(numbers, self.config.added.number_width)
        features = features.reshape(vector.shape[0], -1)
        both = jnp.concatenate([vector.astype(self.dtype), features], axis=-1)
        return embedding + self.add_embedding(both)

    def _features(self, numbers: Any, size: int) -> Array:
        numbers = jnp.reshape(jnp.asarray(numbers), (-1,))
        shift, first = self.config.frequency_shift, self.config.cosines_first
        exact = numbers.astype(at_least_single(numbers.dtype))  # angles need their digits
        features = positional_features(exact, size, shift=shift, cosines_first=first)
        return features.astype(self.dtype)

    def _check(self, sample: Array, text: Array) -> None:
        inputs, context = self.config.in_channels, self.config.context
        if sample.ndim != 4 or sample.shape[-1] != inputs:
            rule = f"it must be (batch, h, w, {inputs})"
            raise refuse("sample", sample, rule, "give latents with their channels last")
        if text.ndim != 3 or text.shape[::2] != (sample.shape[0], context):
            rule = f"it must be ({sample.shape[0]}, tokens, {context})"
            raise refuse("encoder_hidden_states", text, rule, "encode the prompts for this model")

    def _check_added(self, vector: Array | None, numbers: Array | None) -> None:
        added = self.config.added
        for name, given in (("text_embeds", vector), ("time_ids", numbers)):
            if (given is None) != (added is None):
                rule = "this model embeds no such thing" if added is None else "it must be given"
                repair = "leave it out" if added is None else "encode the prompts for this model"
                raise refuse(name, given, rule, repair)
        if added is not None and vector is not None and numbers is not None:
            width = vector.shape[-1] + added.number_width * numbers.shape[-1]
            if vector.ndim != 2 or numbers.ndim != 2 or width != added.width:
                rule = f"with {added.number_width} features of each of time_ids it has {width} "
                rule += f"entries, and the model embeds {added.width}"
                raise refuse("text_embeds", vector, rule, "encode the prompts for this model")
