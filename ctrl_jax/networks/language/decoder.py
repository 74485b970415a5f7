"""A decoder language model, from its description (`DecoderConfig`), as pure functions.

The last hidden states and the head that turns them into logits are handed out apart: most positions
of a preference pair need no logits. Layers are unrolled.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from ctrl_jax._checks import check_whole, refuse
from ctrl_jax._numerics import soft_cap
from ctrl_jax._typing import Params
from ctrl_jax.networks.language.block import Block, Linears, Norm
from ctrl_jax.networks.language.config import DecoderConfig, Learned
from ctrl_jax.networks.language.mask import causal_mask, positions_of, text_lengths, within
from ctrl_jax.networks.layers.linear import gradient_turned
from ctrl_jax.networks.layers.making import describe, draw, streams
from ctrl_jax.networks.layers.rotary import Rotary, angles
from ctrl_jax.networks.layers.rotary_scaling import Lengths, depends_on_length
from ctrl_jax.networks.lora import LoRA, adapt
from ctrl_jax.networks.sharding import DECODER, gathered, in_turn


class LanguageModel(NamedTuple):
    """A decoder as pure functions.

    Fields:
        init: ``init(key) -> params``, nested dictionaries.
        apply: ``apply(params, tokens, positions=None, mask=None, at=None)`` returns the last hidden
            states (batch, tokens, width). Tokens are integers (batch, tokens); mask is true at
            [row, i, j] where token i sees token j, by default where j <= i; positions are by
            default how many tokens each token sees besides itself; `at`, (batch, places), are the
            tokens whose states are returned, (batch, places, width), by default all: the last block
            computes no others. A token outside the vocabulary or a position outside a learned table
            makes its row NaN, wherever it stands.
        head: ``head(params)`` returns the matrix (width, vocabulary) in the dtype of the hidden
            states; logits are ``hidden @ head(params)``, at the positions that need them, where
            there is no `cap`.
        shapes: the tree of parameters as `jax.ShapeDtypeStruct`.
        cap: where the logits are bounded, c of c tanh(``hidden @ head(params)`` / c) = logits.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Array]
    head: Callable[[Params], Array]
    shapes: Params
    cap: float | None = None

    def logits(self, params: Params, hidden: Array) -> Array:
        """Return the logits of hidden states, in their dtype."""
        return soft_cap(hidden @ self.head(params), self.cap)


class Decoder(nnx.Module):
    """The network; use `language_model`.

    Args:
        config: its description.
        linear: how its linear layers are made.
        remat: whether blocks are computed again in the backward pass.
    """

    def __init__(self, config: DecoderConfig, linear: Linears, *, remat: bool):
        self.dtype, self.remat, self.head_width = linear.dtype, remat, config.head_width
        self.windows, self.rotations = config.windows, config.rotations
        self.factor = math.sqrt(config.width) if config.scaled_tokens else None
        draw = nnx.initializers.normal(config.initial_std)

        def table(rows: int, columns: int) -> nnx.Param:
            return nnx.Param(draw(linear.rngs.params(), (rows, columns), linear.param_dtype))

        width, kind = config.width, config.positions
        self.tokens = table(config.vocabulary, width)
        self.positions = table(kind.length, width) if isinstance(kind, Learned) else None
        self.blocks = nnx.List([Block(config, linear) for _ in range(config.depth)])
        self.norm = Norm(width, config, linear.param_dtype)
        self.head = None if config.tied else table(width, config.vocabulary)

    def __call__(
        self, tokens: Array, positions: Array, mask: Array, lengths: Lengths, at: Array | None
    ) -> Array:
        """Return the last hidden states (batch, tokens, width), or those `at`."""
        h = self.embed(tokens, positions)
        block_of = nnx.remat(_in_turn) if self.remat else _in_turn
        views = self.views(positions, lengths, lambda window: within(mask, positions, window))
        for block, view in zip(self.blocks[:-1], views, strict=False):
            h = block_of(block, h, *view)
        return self.norm(block_of(self.blocks[-1], h, *views[-1], at))

    def embed(self, tokens: Array, positions: Array) -> Array:
        """Return the first hidden states."""
        h = _rows(self.tokens[...], tokens).astype(self.dtype)
        if self.factor is not None:
            h = h * jnp.asarray(self.factor, self.dtype)
        if self.positions is not None:
            h = h + _rows(self.positions[...], positions).astype(self.dtype)
        return h

    def views(
        self, positions: Array, lengths: Lengths, seen: Callable[[int | None], Array]
    ) -> list[tuple[Array, tuple[Array, Array] | None]]:
        """Return what every block sees, a mask, and its angles; each kind is computed once.

        Args:
            positions: of the tokens.
            lengths: of their texts.
            seen: the mask of blocks with such a window.
        """
        masks = {window: seen(window) for window in {*self.windows}}
        turns: dict[Rotary | None, Any] = {
            rotary: angles(rotary, self.head_width, positions, lengths)
            for rotary in {*self.rotations}
            if rotary is not None
        }
        kinds = zip(self.windows, self.rotations, strict=True)
        return [(masks[window], turns.get(rotary)) for window, rotary in kinds]

    def matrix(self) -> Array:
        """Return the head (width, vocabulary)."""
        matrix = gradient_turned(self.tokens[...]).T if self.head is None else self.head[...]
        return matrix.astype(self.dtype)


def language_model(
    config: DecoderConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
    remat: bool = False,
) -> LanguageModel:
    """Return the decoder of a description as pure functions.

    Args:
        config: the description.
        dtype: type of hidden states and products; normalizations, angles and attention weights are
            in float32 at least.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.
        remat: whether the blocks' intermediate values are computed again in the backward pass
            rather than kept.

    Raises:
        ValueError: `lora` names a layer that the decoder does not have.
    """

    def make(key: Array) -> Decoder:
        rngs = streams(params=key, lora=jax.random.fold_in(key, 1))
        dtypes = jnp.dtype(dtype), jnp.dtype(param_dtype)
        decoder = Decoder(config, Linears(config.initial_std, *dtypes, rngs), remat=remat)
        if lora is not None:
            adapt(decoder, lora, rngs)
        return decoder

    varying = any(rotary and depends_on_length(rotary.scaling) for rotary in config.rotations)
    graph, abstract = describe(lambda: make(jax.random.key(0)))

    def init(key: Array) -> Params:
        return draw(lambda: make(key))

    def apply(params: Params, tokens: Array, positions=None, mask=None, at=None) -> Array:
        _check(config, tokens, positions, mask)
        _check_places(tokens, at)
        lengths = tokens.shape[1]
        if mask is None:
            mask = causal_mask(*tokens.shape)
        elif varying:
            lengths = text_lengths(mask, positions_of(mask) if positions is None else positions)
        positions = positions_of(mask) if positions is None else positions
        with in_turn(DECODER):
            network = nnx.merge(graph, gathered(params, later=("blocks",)))
            return network(tokens, positions, mask, lengths, at)

    def head(params: Params) -> Array:
        with in_turn(DECODER):
            return nnx.merge(graph, gathered(params, later=("blocks",))).matrix()

    return LanguageModel(init, apply, head, nnx.to_pure_dict(abstract), config.logit_cap)


def _in_turn(block: Block, *arguments: Any) -> Array:
    """Apply a block, its weights gathered within: no sooner, and once more in a second pass."""
    graph, state = nnx.split(block)
    return nnx.merge(graph, gathered(state))(*arguments)


def _rows(table: Array, indices: Array) -> Array:
    """Rows of a table; NaN, not another row, where there is none."""
    return table.at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _check(config: DecoderConfig, tokens: Array, positions: Array | None, mask: Array | None):
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise refuse("tokens", tokens, "they must be integers (batch, tokens)", "tokenize the text")
    check_whole("tokens", tokens)
    square = (*tokens.shape, tokens.shape[1])
    if mask is not None and (mask.shape != square or mask.dtype != bool):
        raise refuse("mask", mask, f"it must be booleans {square}", "make it by text_mask")
    if positions is not None:
        whole = jnp.issubdtype(positions.dtype, jnp.integer)
        if positions.shape != tokens.shape or not whole:
            raise refuse(
                "positions", positions, f"they must be integers {tokens.shape}", "leave it out"
            )
        return
    longest = config.positions.length if isinstance(config.positions, Learned) else None
    if mask is None and longest is not None and tokens.shape[1] > longest:
        raise refuse("tokens", tokens, f"the model has {longest} positions", "cut the text")


def _check_places(tokens: Array, at: Array | None):
    if at is not None and not (
        at.ndim == 2 and at.shape[0] == tokens.shape[0] and jnp.issubdtype(at.dtype, jnp.integer)
    ):
        raise refuse("at", at, f"they must be integers ({tokens.shape[0]}, places)", "leave it out")
