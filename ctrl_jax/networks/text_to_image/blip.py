r"""BLIP (2201.12086) with a reward's head: a text that looks at a picture.

The picture's tower maps the states h of its patches and a class token, block by block, to

    g = h + attention(n_1 h),   g + W_2 f(W_1 n_2 g),                                       (1)

the text's maps the states of its tokens, of which all see all, to

    g = n_1 (h + attention h),   k = n_2 (g + attention(g, picture)),   n_3 (k + W_2 f(W_1 k)),  (2)

f the exact GELU. The last state of the first token goes through five linear layers in a row to the
reward. Layers bear the names of the published files.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._checks import check_annotated, refuse
from ctrl_jax.networks import sharding
from ctrl_jax.networks.functional import Network, as_network
from ctrl_jax.networks.layers.activations import ACTIVATIONS
from ctrl_jax.networks.layers.blocks import Blocks
from ctrl_jax.networks.layers.fused_attention import attend_heads
from ctrl_jax.networks.layers.linear import at_least_single
from ctrl_jax.networks.layers.making import Layers

HEAD = {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1}
"""Widths of the head by the numbers of its layers; between them was dropout."""
PICTURE_EPSILON = 1e-6
gelu = ACTIVATIONS["gelu"]


@dataclasses.dataclass(frozen=True)
class BLIPConfig:
    """The towers of BLIP.

    Args:
        image: height and width of a picture.
        patch: height and width of a patch; it divides them.
        picture_width: size of a state of the picture.
        picture_depth: its blocks.
        picture_heads: of its attention; they divide its width.
        vocabulary: number of tokens.
        positions: most tokens of a text.
        width: size of a state of the text.
        depth: its blocks.
        heads: of its attention; they divide its width.
        hidden: size inside its feed-forward network.
        epsilon: added to the variance in its normalizations.

    Raises:
        ValueError: a size is below one, or something does not divide.
    """

    image: int = 224
    patch: int = 16
    picture_width: int = 1024
    picture_depth: int = 24
    picture_heads: int = 16
    vocabulary: int = 30524
    positions: int = 512
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    epsilon: float = 1e-12

    def __post_init__(self):
        check_annotated(self, "BLIPConfig")
        for part, whole in (
            ("patch", "image"),
            ("picture_heads", "picture_width"),
            ("heads", "width"),
        ):
            if getattr(self, whole) % getattr(self, part):
                rule = f"it must divide {whole} = {getattr(self, whole)}"
                raise refuse(f"BLIPConfig.{part}", getattr(self, part), rule, "give a divisor")


def image_reward_network(
    config: BLIPConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    remat: bool = False,
    stacked: bool = True,
) -> Network:
    """Return BLIP with the head of ImageReward as pure functions.

    ``apply(params, pictures, tokens, mask)`` returns one number per example: pictures are (batch,
    image, image, 3), with mean and deviation taken off; tokens integers (batch, tokens), the mask
    booleans of that shape, false where a token is seen by none.

    Args:
        config: its description.
        dtype: type of hidden states and products.
        param_dtype: type of fresh parameters.
        remat: whether blocks are computed again in the backward pass rather than kept.
        stacked: whether blocks are scanned, and so compiled once.

    Source: Li et al. 2022 (2201.12086); Xu et al. 2023 (2304.05977), section 3.
    """
    make = partial(ImageReward, config, remat=remat, stacked=stacked)
    return as_network(make, rules=sharding.BLIP, dtype=dtype, param_dtype=param_dtype)


class ImageReward(nnx.Module):
    """The whole; use `image_reward_network`."""

    def __init__(self, config: BLIPConfig, make: Layers, **how: bool):
        self.blip = BLIP(config, make, **how)
        self.mlp = Head(config.width, make)

    def __call__(
        self,
        pictures: Float[Array, "batch h w 3"],
        tokens: Int[Array, "batch tokens"],
        mask: Bool[Array, "batch tokens"],
    ) -> Float[Array, " batch"]:
        """Return one number per example, in float32 at least."""
        states = self.blip.text_encoder(tokens, mask, self.blip.visual_encoder(pictures))
        return self.mlp(states[:, 0])


class BLIP(nnx.Module):
    """Both towers."""

    def __init__(self, config: BLIPConfig, make: Layers, **how: bool):
        self.visual_encoder = PictureTower(config, make, **how)
        self.text_encoder = TextTower(config, make, **how)


class PatchEmbedding(nnx.Module):
    """Patches as vectors."""

    def __init__(self, config: BLIPConfig, make: Layers):
        self.proj = make.convolution(
            3,
            config.picture_width,
            size=config.patch,
            stride=config.patch,
            padding=((0, 0), (0, 0)),
        )

    def __call__(self, pictures: Array) -> Array:
        """Return (batch, patches, width)."""
        patches = self.proj(pictures)
        return patches.reshape(patches.shape[0], -1, patches.shape[-1])


class PictureTower(nnx.Module):
    """The tower of pictures."""

    def __init__(self, config: BLIPConfig, make: Layers, **how: bool):
        width, places = config.picture_width, (config.image // config.patch) ** 2 + 1
        self.cls_token = nnx.Param(jnp.zeros((1, 1, width), make.param_dtype))
        self.pos_embed = nnx.Param(jnp.zeros((1, places, width), make.param_dtype))
        self.patch_embed = PatchEmbedding(config, make)
        alike = [0] * config.picture_depth
        self.blocks = Blocks(lambda _: PictureBlock(config, make), alike, **how)
        self.norm = make.layer_norm(width, epsilon=PICTURE_EPSILON)

    def __call__(self, pictures: Array) -> Array:
        """Return the states of the class token and of all patches."""
        patches = self.patch_embed(pictures)
        batch, _, width = patches.shape
        token = jnp.broadcast_to(self.cls_token[...].astype(patches.dtype), (batch, 1, width))
        states = jnp.concatenate([token, patches], axis=1)
        states += self.pos_embed[...].astype(states.dtype)
        return self.norm(self.blocks.apply(lambda block, x: block(x), states))


class PictureBlock(nnx.Module):
    """A block (1)."""

    def __init__(self, config: BLIPConfig, make: Layers):
        width = config.picture_width
        self.norm1, self.norm2 = (make.layer_norm(width, epsilon=PICTURE_EPSILON) for _ in range(2))
        self.attn = PictureAttention(config, make)
        self.mlp = PictureFeedForward(width, make)

    def __call__(self, x: Array) -> Array:
        """Return the next states."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PictureAttention(nnx.Module):
    """Attention whose first three layers lie in one."""

    def __init__(self, config: BLIPConfig, make: Layers):
        self.heads = config.picture_heads
        self.qkv = make.linear(config.picture_width, 3 * config.picture_width)
        self.proj = make.linear(config.picture_width, config.picture_width)

    def __call__(self, x: Array) -> Array:
        """Mix the states."""
        query, key, value = jnp.split(self.qkv(x), 3, axis=-1)
        return self.proj(attend_heads(query, key, value, self.heads))


class PictureFeedForward(nnx.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, width: int, make: Layers):
        self.fc1, self.fc2 = make.linear(width, 4 * width), make.linear(4 * width, width)

    def __call__(self, x: Array) -> Array:
        """Apply the layers to the last axis."""
        return self.fc2(gelu(self.fc1(x)))


class TextTower(nnx.Module):
    """The tower of texts, which looks at a picture in every block."""

    def __init__(self, config: BLIPConfig, make: Layers, **how: bool):
        self.embeddings = TextEmbeddings(config, make)
        self.encoder = TextEncoder(config, make, **how)

    def __call__(self, tokens: Array, mask: Array, picture: Array) -> Array:
        """Return the last states."""
        return self.encoder(self.embeddings(tokens), mask[:, None, None, :], picture)


class TextEmbeddings(nnx.Module):
    """Tokens and their places as vectors."""

    def __init__(self, config: BLIPConfig, make: Layers):
        self.word_embeddings = make.embedding(config.vocabulary, config.width)
        self.position_embeddings = make.embedding(config.positions, config.width)
        self.LayerNorm = make.layer_norm(config.width, epsilon=config.epsilon)

    def __call__(self, tokens: Array) -> Array:
        """Return the first states."""
        places = self.position_embeddings(jnp.arange(tokens.shape[1]))
        return self.LayerNorm(self.word_embeddings(tokens) + places[None])


class TextEncoder(nnx.Module):
    """The blocks."""

    def __init__(self, config: BLIPConfig, make: Layers, **how: bool):
        self.layer = Blocks(lambda _: TextBlock(config, make), [0] * config.depth, **how)

    def __call__(self, x: Array, mask: Array, picture: Array) -> Array:
        """Return the last states."""
        return self.layer.apply(lambda block, x: block(x, mask, picture), x)


class TextBlock(nnx.Module):
    """A block (2)."""

    def __init__(self, config: BLIPConfig, make: Layers):
        self.attention = TextAttention(config, config.width, make)
        self.crossattention = TextAttention(config, config.picture_width, make)
        self.intermediate = Intermediate(config, make)
        self.output = Residual(config, config.hidden, make)

    def __call__(self, x: Array, mask: Array, picture: Array) -> Array:
        """Return the next states."""
        x = self.attention(x, x, mask)
        x = self.crossattention(x, picture, None)
        return self.output(self.intermediate(x), x)


class TextAttention(nnx.Module):
    """Attention with what follows it."""

    def __init__(self, config: BLIPConfig, seen_width: int, make: Layers):
        self.self = Mixing(config, seen_width, make)
        self.output = Residual(config, config.width, make)

    def __call__(self, x: Array, seen: Array, mask: Array | None) -> Array:
        """Return the states after it."""
        return self.output(self.self(x, seen, mask), x)


class Mixing(nnx.Module):
    """Attention alone."""

    def __init__(self, config: BLIPConfig, seen_width: int, make: Layers):
        self.heads = config.heads
        self.query = make.linear(config.width, config.width)
        self.key, self.value = (make.linear(seen_width, config.width) for _ in range(2))

    def __call__(self, x: Array, seen: Array, mask: Array | None) -> Array:
        """Mix what is seen."""
        query, key, value = self.query(x), self.key(seen), self.value(seen)
        return attend_heads(query, key, value, self.heads, mask=mask)


class Intermediate(nnx.Module):
    """The first layer of the feed-forward network."""

    def __init__(self, config: BLIPConfig, make: Layers):
        self.dense = make.linear(config.width, config.hidden)

    def __call__(self, x: Array) -> Array:
        """Apply it."""
        return gelu(self.dense(x))


class Residual(nnx.Module):
    """A layer that is added to what was before, normalized."""

    def __init__(self, config: BLIPConfig, inputs: int, make: Layers):
        self.dense = make.linear(inputs, config.width)
        self.LayerNorm = make.layer_norm(config.width, epsilon=config.epsilon)

    def __call__(self, x: Array, before: Array) -> Array:
        """Return the sum, normalized."""
        return self.LayerNorm(self.dense(x) + before)


class Head(nnx.Module):
    """Linear layers in a row."""

    def __init__(self, width: int, make: Layers):
        self.layers = Row(width, make)

    def __call__(self, x: Array) -> Array:
        """Return one number per example."""
        return self.layers(x)


class Row(nnx.Module):
    """The layers, by their numbers."""

    def __init__(self, width: int, make: Layers):
        single = dataclasses.replace(make, dtype=at_least_single(make.dtype))
        for number, outputs in HEAD.items():
            setattr(self, str(number), single.linear(width, outputs))
            width = outputs

    def __call__(self, x: Array) -> Array:
        """Apply them, in float32 at least."""
        for number in HEAD:
            x = getattr(self, str(number))(x)
        return x[:, 0]
