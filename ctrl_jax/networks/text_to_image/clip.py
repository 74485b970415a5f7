r"""The towers of CLIP (2103.00020): transformers of texts and of pictures with one embedding each.

A block with the normalizations n_1 and n_2 maps the hidden states h to

    g = h + attention(n_1 h),   g + W_2 f(W_1 n_2 g),                                       (1)

where a token of a text sees those before it, and a patch of a picture sees all. A text's embedding
is the projected last state of its end token, a picture's that of a class token before its patches.
With both of length one, a text and a picture match by

    exp(s) <text, picture>,   s trained.                                                     (2)

Layers bear the names of the published files.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._checks import refuse
from ctrl_jax.networks import sharding
from ctrl_jax.networks.functional import Network, as_network
from ctrl_jax.networks.layers.activations import ACTIVATIONS
from ctrl_jax.networks.layers.blocks import Blocks
from ctrl_jax.networks.layers.fused_attention import attend_heads
from ctrl_jax.networks.layers.linear import Linear, at_least_single
from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.text_to_image.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from ctrl_jax.networks.text_to_image.text_tokens import check_tokens

TowerConfig = CLIPTextConfig | CLIPVisionConfig


class TextOutput(NamedTuple):
    """What the tower of texts returns.

    Fields:
        hidden: last states, normalized.
        penultimate: states before the last block, as they are.
        pooled: normalized last state of the end token.
        embedding: its projection; None without one.
    """

    hidden: Float[Array, "batch tokens width"]
    penultimate: Float[Array, "batch tokens width"]
    pooled: Float[Array, "batch width"]
    embedding: Float[Array, "batch projection"] | None


class VisionOutput(NamedTuple):
    """What the tower of pictures returns.

    Fields:
        hidden: last states, as they are; the class token is the first.
        penultimate: states before the last block, as they are.
        pooled: normalized last state of the class token.
        embedding: its projection; None without one.
    """

    hidden: Float[Array, "batch places width"]
    penultimate: Float[Array, "batch places width"]
    pooled: Float[Array, "batch width"]
    embedding: Float[Array, "batch projection"] | None


class Attention(nnx.Module):
    """Attention with its linear layers."""

    def __init__(self, config: TowerConfig, make: Layers):
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            make.linear(config.width, config.width) for _ in range(4)
        )

    def __call__(self, x: Array, mask: Array | None, *, causal: bool) -> Array:
        """Mix tokens (batch, tokens, width); mask (batch, 1, 1, tokens) is true where one is."""
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        mixed = attend_heads(query, key, value, self.heads, mask=mask, is_causal=causal)
        return self.out_proj(mixed)


class FeedForward(nnx.Module):
    """Two layers, W_2 f(W_1 x)."""

    def __init__(self, config: TowerConfig, make: Layers):
        self.activation = config.activation
        self.fc1 = make.linear(config.width, config.hidden)
        self.fc2 = make.linear(config.hidden, config.width)

    def __call__(self, x: Array) -> Array:
        """Apply the layers to the last axis."""
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class Block(nnx.Module):
    """A block (1)."""

    def __init__(self, config: TowerConfig, make: Layers):
        self.layer_norm1, self.layer_norm2 = (
            make.layer_norm(config.width, epsilon=config.epsilon) for _ in range(2)
        )
        self.self_attn = Attention(config, make)
        self.mlp = FeedForward(config, make)

    def __call__(self, x: Array, mask: Array | None, *, causal: bool) -> Array:
        """Return the next hidden states."""
        x = x + self.self_attn(self.layer_norm1(x), mask, causal=causal)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nnx.Module):
    """The blocks, of which the last stands apart, so that the states before it can be had."""

    def __init__(self, config: TowerConfig, make: Layers, *, stacked: bool, remat: bool):
        self.causal = isinstance(config, CLIPTextConfig)
        kinds = [number == config.depth - 1 for number in range(config.depth)]
        self.layers = Blocks(lambda _: Block(config, make), kinds, stacked=stacked, remat=remat)

    def __call__(self, x: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Return the last hidden states, and those before the last block."""

        def call(block: Block, x: Array) -> Array:
            return block(x, mask, causal=self.causal)

        *first, last = self.layers.names
        penultimate = self.layers.apply(call, x, names=first)
        return self.layers.apply(call, penultimate, names=[last]), penultimate


class TextEmbeddings(nnx.Module):
    """Tokens and their places as vectors."""

    def __init__(self, config: CLIPTextConfig, make: Layers):
        self.token_embedding = make.embedding(config.vocabulary, config.width)
        self.position_embedding = make.embedding(config.positions, config.width)

    def __call__(self, tokens: Array) -> Array:
        """Return the first hidden states."""
        places = jnp.arange(tokens.shape[1])
        return self.token_embedding(tokens) + self.position_embedding(places)[None]


class TextTower(nnx.Module):
    """The tower of texts without its projection."""

    def __init__(self, config: CLIPTextConfig, make: Layers, **how: bool):
        self.end, self.longest = config.end, config.positions
        self.embeddings = TextEmbeddings(config, make)
        self.encoder = Encoder(config, make, **how)
        self.final_layer_norm = make.layer_norm(config.width, epsilon=config.epsilon)

    def __call__(self, tokens: Array, mask: Array | None) -> tuple[Array, Array, Array]:
        """Return last states, those before the last block, and the pooled ones."""
        check_tokens(tokens, mask, self.longest)
        seen = None if mask is None else mask[:, None, None, :]
        last, penultimate = self.encoder(self.embeddings(tokens), seen)
        hidden = self.final_layer_norm(last)
        ends = jnp.argmax(tokens if self.end is None else tokens == self.end, axis=1)
        pooled = jnp.take_along_axis(hidden, ends[:, None, None], axis=1)[:, 0]
        return hidden, penultimate, pooled


class VisionEmbeddings(nnx.Module):
    """A class token and patches, and their places, as vectors."""

    def __init__(self, config: CLIPVisionConfig, make: Layers):
        draw = nnx.initializers.normal(config.width**-0.5)
        self.class_embedding = nnx.Param(
            draw(make.rngs.params(), (config.width,), make.param_dtype)
        )
        self.patch_embedding = make.convolution(
            config.channels,
            config.width,
            size=config.patch,
            stride=config.patch,
            padding=((0, 0), (0, 0)),
            use_bias=False,
        )
        self.position_embedding = make.embedding(config.places, config.width)

    def __call__(self, pictures: Array) -> Array:
        """Return the first hidden states."""
        patches = self.patch_embedding(pictures)
        batch, *_, width = patches.shape
        token = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (batch, 1, width))
        tokens = jnp.concatenate([token, patches.reshape(batch, -1, width)], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))[None]


class VisionTower(nnx.Module):
    """The tower of pictures without its projection."""

    def __init__(self, config: CLIPVisionConfig, make: Layers, **how: bool):
        self.shape = (config.image, config.image, config.channels)
        self.embeddings = VisionEmbeddings(config, make)
        self.pre_layrnorm = make.layer_norm(config.width, epsilon=config.epsilon)
        self.encoder = Encoder(config, make, **how)
        self.post_layernorm = make.layer_norm(config.width, epsilon=config.epsilon)

    def __call__(self, pictures: Array) -> tuple[Array, Array, Array]:
        """Return last states, those before the last block, and the pooled ones."""
        if pictures.ndim != 4 or pictures.shape[1:] != self.shape:
            rule = f"they must be (batch, {', '.join(map(str, self.shape))})"
            raise refuse("pictures", pictures, rule, "resize them")
        last, penultimate = self.encoder(self.pre_layrnorm(self.embeddings(pictures)))
        return last, penultimate, self.post_layernorm(last[:, 0])


class CLIPText(nnx.Module):
    """The tower of texts; use `clip_text`."""

    def __init__(self, config: CLIPTextConfig, make: Layers, **how: bool):
        self.text_model = TextTower(config, make, **how)
        self.text_projection = _projection(config, make)

    def __call__(
        self, tokens: Int[Array, "batch tokens"], mask: Bool[Array, "batch _"] | None = None
    ) -> TextOutput:
        """Return the states and the embedding of texts."""
        return TextOutput(*_projected(self.text_model(tokens, mask), self.text_projection))


class CLIPVision(nnx.Module):
    """The tower of pictures; use `clip_vision`."""

    def __init__(self, config: CLIPVisionConfig, make: Layers, **how: bool):
        self.vision_model = VisionTower(config, make, **how)
        self.visual_projection = _projection(config, make)

    def __call__(self, pictures: Float[Array, "batch h w channels"]) -> VisionOutput:
        """Return the states and the embedding of pictures."""
        return VisionOutput(*_projected(self.vision_model(pictures), self.visual_projection))


class CLIP(nnx.Module):
    """Both towers; use `clip`."""

    def __init__(self, config: CLIPConfig, make: Layers, **how: bool):
        self.text_model = TextTower(config.text, make, **how)
        self.text_projection = _projection(config.text, make)
        self.vision_model = VisionTower(config.vision, make, **how)
        self.visual_projection = _projection(config.vision, make)
        self.logit_scale = nnx.Param(jnp.asarray(config.log_scale, make.param_dtype))

    def text(self, tokens: Array, mask: Array | None = None) -> TextOutput:
        """Return the states and the embedding of texts."""
        return TextOutput(*_projected(self.text_model(tokens, mask), self.text_projection))

    def vision(self, pictures: Array) -> VisionOutput:
        """Return the states and the embedding of pictures."""
        return VisionOutput(*_projected(self.vision_model(pictures), self.visual_projection))

    def __call__(
        self,
        tokens: Int[Array, "texts tokens"],
        pictures: Float[Array, "pictures h w channels"],
        mask: Bool[Array, "texts _"] | None = None,
    ) -> Float[Array, "texts pictures"]:
        """Return (2) of every text and every picture."""
        texts, images = self.text(tokens, mask).embedding, self.vision(pictures).embedding
        assert texts is not None and images is not None  # `CLIPConfig` says so
        texts, images = _of_length_one(texts), _of_length_one(images)
        return jnp.exp(self.logit_scale[...].astype(texts.dtype)) * (texts @ images.T)


def clip_text(
    config: CLIPTextConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
    remat: bool = False,
    stacked: bool = True,
) -> Network:
    """Return CLIP's tower of texts as pure functions.

    ``apply(params, tokens, mask=None)`` returns a `TextOutput`: tokens are integers (batch,
    tokens), the mask booleans of that shape, false where a token is seen by none.

    Args:
        config: its description.
        dtype: type of hidden states and products.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.
        remat: whether blocks are computed again in the backward pass rather than kept.
        stacked: whether all blocks but the last are scanned, and so compiled once.

    Raises:
        ValueError: `lora` names a layer that the tower does not have.

    Source: Radford et al. 2021 (2103.00020), section 2.4.
    """
    make = partial(CLIPText, config, remat=remat, stacked=stacked)
    return as_network(make, rules=sharding.CLIP, dtype=dtype, param_dtype=param_dtype, lora=lora)


def clip_vision(
    config: CLIPVisionConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
    remat: bool = False,
    stacked: bool = True,
) -> Network:
    """Return CLIP's tower of pictures as pure functions.

    ``apply(params, pictures)`` returns a `VisionOutput`: pictures are (batch, image, image,
    channels), with the mean and the deviation of CLIP's training taken off already.

    Args:
        config: its description.
        dtype: type of hidden states and products.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.
        remat: whether blocks are computed again in the backward pass rather than kept.
        stacked: whether all blocks but the last are scanned, and so compiled once.

    Raises:
        ValueError: `lora` names a layer that the tower does not have.

    Source: Radford et al. 2021 (2103.00020), section 2.4.
    """
    make = partial(CLIPVision, config, remat=remat, stacked=stacked)
    return as_network(make, rules=sharding.CLIP, dtype=dtype, param_dtype=param_dtype, lora=lora)


def clip(
    config: CLIPConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
    remat: bool = False,
    stacked: bool = True,
) -> Network:
    """Return both towers of CLIP as pure functions.

    ``apply(params, tokens, pictures, mask=None)`` returns how well every text matches every
    picture, exp(s) times the cosine of their embeddings, (texts, pictures). With ``method="text"``
    it takes ``(tokens, mask=None)`` and returns a `TextOutput`, with ``method="vision"`` pictures
    and returns a `VisionOutput`.

    Args:
        config: their description.
        dtype: type of hidden states and products.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.
        remat: whether blocks are computed again in the backward pass rather than kept.
        stacked: whether all blocks of a tower but the last are scanned, and so compiled once.

    Raises:
        ValueError: `lora` names a layer that the towers do not have.

    Source: Radford et al. 2021 (2103.00020), figure 3.
    """
    make = partial(CLIP, config, remat=remat, stacked=stacked)
    return as_network(make, rules=sharding.CLIP, dtype=dtype, param_dtype=param_dtype, lora=lora)


def _projection(config: TowerConfig, make: Layers) -> Linear | None:
    if config.projection is None:
        return None
    return make.linear(config.width, config.projection, bias=False)


def _projected(states: tuple[Array, Array, Array], projection: Linear | None):
    return *states, projection(states[-1]) if projection is not None else None


def _of_length_one(x: Array) -> Array:
    exact = x.astype(at_least_single(x.dtype))
    return exact / jnp.linalg.norm(exact, axis=-1, keepdims=True)
