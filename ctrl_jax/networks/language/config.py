"""What a decoder language model is made of.

One description covers the families in use. They differ in

====================  ==================  ==========================  ==========================
                      GPT-2               GPT-NeoX (Pythia)           Llama and later ones
====================  ==================  ==========================  ==========================
normalization         layer               layer                       root mean square
positions             learned table       rotation of part of a head  rotation of the whole head
residual              after each part     parallel or after each      after each
feed-forward          gelu                gelu                        gated silu or gelu
key and value heads   as queries          as queries                  fewer, shared by queries
====================  ==================  ==========================  ==========================

and in their biases; Qwen 3 and Gemma 3 also normalize queries and keys of every head, OLMo 2 those
of all heads together. Mistral looks back a limited distance, Gemma in most blocks and with another
rotation there, and SmolLM3 does not rotate in every fourth block. Gemma also normalizes what a part
adds, OLMo 2 only that, and Gemma 2 bounds scores and logits.

Sources: Radford et al. 2019 (GPT-2); Black et al. 2022 (2204.06745); Touvron et al. 2023
(2302.13971); Jiang et al. 2023 (2310.06825); Yang et al. 2024, 2025 (2407.10671, 2505.09388); Gemma
Team 2024, 2025 (2408.00118, 2503.19786); Abdin et al. 2024 (2404.14219, Phi-3); OLMo Team 2025
(2501.00656).
"""

import dataclasses
from typing import Literal, get_args

from ctrl_jax._checks import (
    check_annotated,
    check_choice,
    check_count,
    check_positive,
    refuse,
)
from ctrl_jax.networks.layers.rotary import Rotary, rotated_entries
from ctrl_jax.networks.layers.rotary_scaling import YarnScaling, check_scaling

Norm = Literal["layer", "rms", "rms_from_one"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
NormPlaces = Literal["before", "after", "around"]


@dataclasses.dataclass(frozen=True)
class Learned:
    """A table with one vector per position, added to the token's.

    Args:
        length: number of positions.
    """

    length: int

    def __post_init__(self):
        check_annotated(self, "Learned")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder and which variant of each part it has.

    Args:
        vocabulary: number of tokens.
        width: size of a hidden state.
        depth: number of blocks.
        heads: query heads.
        key_heads: key and value heads, a divisor of `heads`.
        head_width: size of a head.
        hidden: size inside the feed-forward network.
        positions: how a token knows its place.
        norm: layer or root-mean-square normalization, the latter's scales counted from zero or from
            one.
        norm_places: whether a block normalizes what attention and feed-forward network read, what
            they return, or both.
        epsilon: added to the variance in every normalization.
        activation: of the feed-forward network.
        gated: whether the feed-forward network multiplies its activation by a second projection.
        parallel: whether attention and feed-forward network of a block see the same input.
        query_key_norm: whether every query and key is normalized before its rotation.
        joint_query_key_norm: whether that normalization is of all heads together, not of each.
        query_bias: whether queries, keys and values have biases.
        out_bias: whether the attention's output has a bias.
        feed_forward_bias: whether the feed-forward network has biases.
        tied: whether the head is the transposed table of tokens.
        scaled_tokens: whether hidden states begin as sqrt(width) times the table's rows.
        score_scale: multiplies the products of queries and keys; None for 1 / sqrt(head_width).
        score_cap: c of c tanh(s / c), which bounds these scores s; None for no bound.
        logit_cap: the same of the logits.
        window: how many tokens a token sees, itself included; None for all before it.
        unwindowed: numbers of the blocks, from 0, where it sees all before it nevertheless.
        unrotated: numbers of the blocks without rotation.
        window_positions: the rotation in blocks with a window; None for that of all.
        longest_text: most tokens of a text in training, as far as known; nothing is refused for it.
        initial_std: standard deviation of fresh weights.

    Raises:
        ValueError: a size is below one, or sizes or options do not fit each other.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    key_heads: int
    head_width: int
    hidden: int
    positions: Learned | Rotary
    norm: Norm = "rms"
    norm_places: NormPlaces = "before"
    epsilon: float = 1e-5
    activation: Activation = "silu"
    gated: bool = True
    parallel: bool = False
    query_key_norm: bool = False
    joint_query_key_norm: bool = False
    query_bias: bool = False
    out_bias: bool = False
    feed_forward_bias: bool = False
    tied: bool = False
    scaled_tokens: bool = False
    score_scale: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    window: int | None = None
    unwindowed: tuple[int, ...] = ()
    unrotated: tuple[int, ...] = ()
    window_positions: Rotary | None = None
    longest_text: int | None = None
    initial_std: float = 0.02

    def __post_init__(self):
        sizes = ("vocabulary", "width", "depth", "heads", "key_heads", "head_width", "hidden")
        for name in (*sizes, "window", "longest_text"):
            if getattr(self, name) is not None or name in sizes:
                check_count(f"DecoderConfig.{name}", getattr(self, name))
        for name, choices in (
            ("norm", Norm),
            ("norm_places", NormPlaces),
            ("activation", Activation),
        ):
            check_choice(f"DecoderConfig.{name}", getattr(self, name), get_args(choices))
        for name in ("epsilon", "score_scale", "score_cap", "logit_cap"):
            if getattr(self, name) is not None or name == "epsilon":
                check_positive(f"DecoderConfig.{name}", getattr(self, name))
        if self.heads % self.key_heads:
            rule = f"it must divide the {self.heads} heads"
            raise refuse("DecoderConfig.key_heads", self.key_heads, rule, "give a divisor")
        if isinstance(self.positions, Rotary):
            check_rotary("DecoderConfig.positions", self.positions, self.head_width)
        if self.window_positions is not None:
            name = "DecoderConfig.window_positions"
            check_rotary(name, self.window_positions, self.head_width)
        self._check_options()

    def _check_options(self) -> None:
        rotated = isinstance(self.positions, Rotary)
        for name, needed, rule in (
            ("joint_query_key_norm", self.query_key_norm, "it needs query_key_norm"),
            ("unwindowed", self.window is not None, "it needs a window"),
            ("window_positions", self.window is not None and rotated, "it needs a window"),
            ("unrotated", rotated, "it needs positions that rotate"),
        ):
            if getattr(self, name) and not needed:
                raise refuse(f"DecoderConfig.{name}", getattr(self, name), rule, "leave it out")
        for name in ("unwindowed", "unrotated"):
            blocks = getattr(self, name)
            if not {*blocks} <= {*range(self.depth)}:
                rule = f"they must be numbers of the {self.depth} blocks, from 0"
                raise refuse(f"DecoderConfig.{name}", blocks, rule, "leave the others out")
        if self.parallel and self.norm_places != "before":
            rule = "parallel parts normalize what they read"
            raise refuse("DecoderConfig.norm_places", self.norm_places, rule, "leave it out")

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of every block."""
        return tuple(None if i in self.unwindowed else self.window for i in range(self.depth))

    @property
    def rotations(self) -> tuple[Rotary | None, ...]:
        """The rotation of every block; None where it has none."""
        general = self.positions if isinstance(self.positions, Rotary) else None
        local = self.window_positions or general
        return tuple(
            None if i in self.unrotated else general if window is None else local
            for i, window in enumerate(self.windows)
        )


def check_rotary(name: str, rotary: Rotary, head_width: int) -> None:
    """Raise ValueError, about `name`, unless a rotation fits heads of this width."""
    scaling, rotated = rotary.scaling, rotated_entries(rotary, head_width)
    if rotated < 2 or rotated % 2:
        rule = f"it must rotate an even part, at least 2, of a head of {head_width}"
        raise refuse(f"{name}.fraction", rotary.fraction, rule, "give e.g. 1")
    if scaling is not None:
        check_scaling(f"{name}.scaling", scaling, rotated // 2)
    if isinstance(scaling, YarnScaling) and not rotary.base > 1:
        raise refuse(f"{name}.base", rotary.base, "it must be above 1 for YaRN", "give e.g. 10000")
