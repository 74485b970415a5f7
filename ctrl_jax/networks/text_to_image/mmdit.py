r"""MMDiT (2403.03206): the network of Stable Diffusion 3 and 3.5.

A latent is cut into patches, each a linear map of its pixels plus a table's entry for its place:
the sines and cosines of row and column, each of the two a quarter of the width,

    sin(p w_k), cos(p w_k),  w_k = 10000^{-4 k / width}, k < width / 4,                      (1)

p = 0 at the border of the largest latent; a smaller one lies in its middle. Blocks (`mmdit_block`)
let patches and the tokens of the text attend to each other, and are told the time and a vector of
the whole text by an embedding of both. A last linear map gives the patches of the prediction, for
Stable Diffusion 3 the flow dx/dt. Layers bear the names of the published files.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import refuse
from ctrl_jax.networks.functional import Network, as_network
from ctrl_jax.networks.layers.blocks import Blocks
from ctrl_jax.networks.layers.convolution import UNPADDED
from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.networks.layers.noise_embedding import positional_features
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.sharding import MMDIT
from ctrl_jax.networks.text_to_image.mmdit_block import Block, ScaledNorm
from ctrl_jax.networks.text_to_image.mmdit_config import MMDiTConfig
from ctrl_jax.networks.text_to_image.time_embedding import TimestepEmbedding

TIME_FEATURES = 256


class PatchEmbedding(nnx.Module):
    """Patches and their places as tokens."""

    def __init__(self, config: MMDiTConfig, make: Layers):
        self.patch, self.places = config.patch, config.places
        self.proj = make.convolution(
            config.channels,
            config.width,
            size=config.patch,
            stride=config.patch,
            padding=UNPADDED,
        )
        # Kept among the parameters, for files hold it; no gradient reaches it.
        table = place_table(config.places, config.base, config.width)
        self.pos_embed = nnx.Param(table[None].astype(make.param_dtype))

    def __call__(self, latents: Float[Array, "batch h w channels"]) -> Array:
        """Return tokens (batch, patches, width), row by row."""
        patches = self.proj(latents)
        rows, columns, width = patches.shape[1:]
        table = self.pos_embed[...].reshape(self.places, self.places, width)
        top, left = (self.places - rows) // 2, (self.places - columns) // 2
        table = jax.lax.stop_gradient(table[top : top + rows, left : left + columns])
        tokens = patches + table[None].astype(patches.dtype)
        return tokens.reshape(tokens.shape[0], -1, width)


class TimeTextEmbedding(nnx.Module):
    """The sum of an embedding of the time and one of the whole text."""

    def __init__(self, config: MMDiTConfig, make: Layers):
        self.dtype = make.dtype
        self.timestep_embedder = TimestepEmbedding(make, TIME_FEATURES, config.width)
        self.text_embedder = TimestepEmbedding(make, config.pooled_width, config.width)

    def __call__(self, timestep: Array, pooled: Array) -> Array:
        """Return one row per example."""
        times = jnp.broadcast_to(timestep, pooled.shape[:1])
        times = times.astype(jnp.promote_types(times.dtype, jnp.float32))  # angles need digits
        features = positional_features(times, TIME_FEATURES, shift=0.0, cosines_first=True)
        return self.timestep_embedder(features.astype(self.dtype)) + self.text_embedder(pooled)


class MMDiT(nnx.Module):
    """The network; use `mmdit`.

    Args:
        config: its description.
        make: makes its layers.
        stacked: whether blocks alike are scanned.
        remat: whether blocks are computed again in the backward pass.
    """

    def __init__(self, config: MMDiTConfig, make: Layers, *, stacked: bool, remat: bool):
        self.config, last = config, config.depth - 1
        kinds = [(number in config.dual, number == last) for number in range(config.depth)]
        self.pos_embed = PatchEmbedding(config, make)
        self.time_text_embed = TimeTextEmbedding(config, make)
        self.context_embedder = make.linear(config.text_width, config.width)
        self.transformer_blocks = Blocks(
            lambda number: Block(config, make, dual=kinds[number][0], last=kinds[number][1]),
            kinds,
            stacked=stacked,
            remat=remat,
        )
        self.norm_out = ScaledNorm(config, make)
        self.proj_out = make.linear(config.width, config.patch**2 * config.out_channels)

    def __call__(
        self,
        hidden: Float[Array, "batch h w channels"],
        timestep: Float[Array, "..."] | Int[Array, "..."] | float,
        encoder_hidden_states: Float[Array, "batch tokens text_width"],
        pooled_projections: Float[Array, "batch pooled_width"],
    ) -> Float[Array, "batch h w out_channels"]:
        """Return the prediction of latents."""
        timestep = jnp.asarray(timestep)
        _check(self.config, hidden, timestep, encoder_hidden_states, pooled_projections)
        embedding = self.time_text_embed(timestep, pooled_projections)
        tokens = self.pos_embed(hidden), self.context_embedder(encoder_hidden_states)
        x, _ = self.transformer_blocks.apply(lambda block, both: block(*both, embedding), tokens)
        return self._as_picture(self.proj_out(self.norm_out(x, embedding)), hidden.shape)

    def _as_picture(self, x: Array, shape: tuple[int, ...]) -> Array:
        """Patches side by side again."""
        batch, height, width, _ = shape
        patch = self.config.patch
        x = x.reshape(batch, height // patch, width // patch, patch, patch, -1)
        return x.swapaxes(2, 3).reshape(batch, height, width, -1)


def mmdit(
    config: MMDiTConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
    remat: bool = False,
    stacked: bool = True,
) -> Network:
    """Return the transformer of Stable Diffusion 3 and 3.5 as pure functions.

    ``apply(params, hidden, timestep, encoder_hidden_states, pooled_projections)`` returns the
    prediction (batch, h, w, out_channels) of latents (batch, h, w, channels), of which h and w are
    multiples of the patch. The timestep, () or (batch,), runs from 0 to 1000, for a flow 1000 times
    its time; the text is its tokens (batch, tokens, text_width) and a vector of it (batch,
    pooled_width).

    Args:
        config: its description.
        dtype: type of hidden states and products; normalizations and the softmax are in float32.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.
        remat: whether blocks are computed again in the backward pass rather than kept.
        stacked: whether blocks alike in a row are scanned, and so compiled once.

    Raises:
        ValueError: `lora` names a layer that the network does not have.

    Source: Esser et al. 2024 (2403.03206), section 4; the dual blocks are of Stable Diffusion 3.5.
    """
    make = partial(MMDiT, config, remat=remat, stacked=stacked)
    return as_network(make, rules=MMDIT, dtype=dtype, param_dtype=param_dtype, lora=lora)


def place_table(places: int, base: int, width: int) -> Float[Array, "places_squared width"]:
    """Return the table of sines and cosines of the places in a square, row by row.

    The entry of the place in row i and column j is [sin(q w_k), cos(q w_k), sin(p w_k), cos(p w_k)]
    with p = i base / places, q = j base / places and w_k = 10000^{-4 k / width}, k < width / 4.

    Args:
        places: in a row.
        base: what a whole row is counted as.
        width: of an entry, a multiple of 4.
    """
    rates = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    # Divided in float32, as the published code does.
    counted = np.arange(places, dtype=np.float32) / np.float32(places / base)
    angles = counted[:, None].astype(float) * rates[None]
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    line = jnp.asarray(line, jnp.float32)
    shape = (places, places, width // 2)
    columns, rows = jnp.broadcast_to(line[None], shape), jnp.broadcast_to(line[:, None], shape)
    return jnp.concatenate([columns, rows], axis=-1).reshape(-1, width)


def _check(config: MMDiTConfig, hidden: Array, timestep: Array, text: Array, pooled: Array) -> None:
    batch, *sides, channels = hidden.shape
    if channels != config.channels or any(side % config.patch for side in sides):
        rule = f"they must be (batch, h, w, {config.channels}), h and w multiples of {config.patch}"
        raise refuse("hidden", hidden, rule, "give latents of these sizes")
    if max(sides) > config.places * config.patch:
        rule = f"the model has places for {config.places * config.patch} pixels in a row"
        raise refuse("hidden", hidden, rule, "give smaller latents")
    for name, array, shape in (
        ("encoder_hidden_states", text, (batch, text.shape[1], config.text_width)),
        ("pooled_projections", pooled, (batch, config.pooled_width)),
    ):
        if array.shape != shape:
            raise refuse(name, array, f"it must be {shape}", "encode one prompt per latent")
    if timestep.shape not in ((), (batch,)):
        raise refuse("timestep", timestep, f"it must be () or ({batch},)", "give one per latent")
