"""What a decoder language model is made of.

One description covers the families in use. They differ in

====================  ==================  ==========================  ==========================
                      GPT-2               GPT-NeoX (Pythia)           Llama, Mistral, Qwen
====================  ==================  ==========================  ==========================
normalization         layer               layer                       root mean square
positions             learned table       rotation of part of a head  rotation of the whole head
residual              after each part     parallel or after each      after each
feed-forward          gelu                gelu                        gated silu
key and value heads   as queries          as queries                  fewer, shared by queries
====================  ==================  ==========================  ==========================

and in their biases; Qwen 3 also normalizes queries and keys, Mistral looks back a limited distance.

Sources: Radford et al. 2019 (GPT-2); Black et al. 2022 (2204.06745); Touvron et al. 2023
(2302.13971); Jiang et al. 2023 (2310.06825); Yang et al. 2024, 2025 (2407.10671, 2505.09388).
"""

import dataclasses
from typing import Literal

from ctrl_jax._checks import check_count, check_positive, refuse

Norm = Literal["layer", "rms"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclasses.dataclass(frozen=True)
class Learned:
    """A table with one vector per position, added to the token's.

    Args:
        length: number of positions.
    """

    length: int


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All rotations slower by one factor.

    Args:
        factor: by which every rotation is slowed.
    """

    factor: float


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Slow rotations slower by a factor, fast ones as they are, smoothly in between.

    Args:
        factor: by which slow rotations are slowed.
        low: a rotation that turns fewer times than this over the original length is slowed.
        high: one that turns more often than this stays.
        length: the original length in tokens.
    """

    factor: float
    low: float
    high: float
    length: int


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Queries and keys rotated by angles proportional to their positions.

    Args:
        base: of the powers that are the rotations' rates.
        fraction: share of a head that is rotated.
        scaling: for texts longer than those of training; None for none.
    """

    base: float = 10_000.0
    fraction: float = 1.0
    scaling: LinearScaling | Llama3Scaling | None = None


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
        norm: layer or root-mean-square normalization.
        epsilon: added to the variance in every normalization.
        activation: of the feed-forward network.
        gated: whether the feed-forward network multiplies its activation by a second projection.
        parallel: whether attention and feed-forward network of a block see the same input.
        query_key_norm: whether every query and key is normalized before its rotation.
        query_bias: whether queries, keys and values have biases.
        out_bias: whether the attention's output has a bias.
        feed_forward_bias: whether the feed-forward network has biases.
        tied: whether the head is the transposed table of tokens.
        window: how many tokens a token sees, itself included; None for all before it.
        initial_std: standard deviation of fresh weights.

    Raises:
        ValueError: a size is below one, or sizes do not fit each other.
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
    epsilon: float = 1e-5
    activation: Activation = "silu"
    gated: bool = True
    parallel: bool = False
    query_key_norm: bool = False
    query_bias: bool = False
    out_bias: bool = False
    feed_forward_bias: bool = False
    tied: bool = False
    window: int | None = None
    initial_std: float = 0.02

    def __post_init__(self):
        sizes = ("vocabulary", "width", "depth", "heads", "key_heads", "head_width", "hidden")
        for name in (*sizes, *(["window"] if self.window is not None else [])):
            check_count(f"DecoderConfig.{name}", getattr(self, name))
        check_positive("DecoderConfig.epsilon", self.epsilon)
        if self.heads % self.key_heads:
            rule = f"it must divide the {self.heads} heads"
            raise refuse("DecoderConfig.key_heads", self.key_heads, rule, "give a divisor")
        if isinstance(self.positions, Learned):
            check_count("DecoderConfig.positions.length", self.positions.length)
        else:
            self._check_rotary(self.positions)

    def _check_rotary(self, rotary: Rotary) -> None:
        scaling, name = rotary.scaling, "DecoderConfig.positions"
        check_positive(f"{name}.base", rotary.base)
        if scaling is not None:
            check_positive(f"{name}.scaling.factor", scaling.factor)
        if isinstance(scaling, Llama3Scaling) and not scaling.low < scaling.high:
            bounds = (scaling.low, scaling.high)
            raise refuse(f"{name}.scaling", bounds, "low must be below high", "swap them")
        if self.rotated < 2 or self.rotated % 2 or self.rotated > self.head_width:
            rule = f"it must rotate an even part, at least 2, of a head of {self.head_width}"
            raise refuse(f"{name}.fraction", rotary.fraction, rule, "give e.g. 1")

    @property
    def rotated(self) -> int:
        """Size of the rotated part of a head; 0 where positions are learned."""
        if isinstance(self.positions, Learned):
            return 0
        return int(self.head_width * self.positions.fraction)
