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

Norm = Literal["layer", "rms"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclasses.dataclass(frozen=True)
class Learned:
    """A table with one vector per position, added to the token's."""

    length: int
    """Number of positions."""


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All rotations slower by one factor."""

    factor: float


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Slow rotations slower by a factor, fast ones as they are, smoothly in between."""

    factor: float
    low: float
    """A rotation that turns fewer times than this over the original length is slowed."""
    high: float
    """One that turns more often than this stays."""
    length: int
    """The original length in tokens."""


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Queries and keys rotated by angles proportional to their positions."""

    base: float = 10_000.0
    fraction: float = 1.0
    """Share of a head that is rotated."""
    scaling: LinearScaling | Llama3Scaling | None = None


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder and which variant of each part it has.

    Raises:
        ValueError: a size is below one, or sizes do not fit each other.
    """

    vocabulary: int
    """Number of tokens."""
    width: int
    """Size of a hidden state."""
    depth: int
    """Number of blocks."""
    heads: int
    """Query heads."""
    key_heads: int
    """Key and value heads, a divisor of `heads`."""
    head_width: int
    """Size of a head."""
    hidden: int
    """Size inside the feed-forward network."""
    positions: Learned | Rotary
    norm: Norm = "rms"
    epsilon: float = 1e-5
    """Added to the variance in every normalization."""
    activation: Activation = "silu"
    gated: bool = True
    """Whether the feed-forward network multiplies its activation by a second projection."""
    parallel: bool = False
    """Whether attention and feed-forward network of a block see the same input."""
    query_key_norm: bool = False
    """Whether every query and key is normalized before its rotation."""
    query_bias: bool = False
    """Whether queries, keys and values have biases."""
    out_bias: bool = False
    """Whether the attention's output has a bias."""
    feed_forward_bias: bool = False
    tied: bool = False
    """Whether the head is the transposed table of tokens."""
    window: int | None = None
    """How many tokens a token sees, itself included; None for all before it."""
    initial_std: float = 0.02
    """Standard deviation of fresh weights."""

    def __post_init__(self):
        sizes = ("vocabulary", "width", "depth", "heads", "key_heads", "head_width", "hidden")
        for name in (*sizes, *(["window"] if self.window is not None else [])):
            if getattr(self, name) < 1:
                raise _refuse(name, getattr(self, name), "it must be at least 1")
        if self.heads % self.key_heads:
            raise _refuse("key_heads", self.key_heads, f"it must divide the {self.heads} heads")
        if not self.epsilon > 0:
            raise _refuse("epsilon", self.epsilon, "it must be positive")
        if isinstance(self.positions, Learned):
            if self.positions.length < 1:
                raise _refuse("positions.length", self.positions.length, "it must be at least 1")
            return
        scaling = self.positions.scaling
        if not (self.positions.base > 0 and (scaling is None or scaling.factor > 0)):
            raise _refuse("positions", self.positions, "base and factor must be positive")
        if isinstance(scaling, Llama3Scaling) and not scaling.low < scaling.high:
            raise _refuse("positions", self.positions, "low must be below high")
        if self.rotated < 2 or self.rotated % 2 or self.rotated > self.head_width:
            rule = f"it must rotate an even part, at least 2, of a head of {self.head_width}"
            raise _refuse("positions.fraction", self.positions.fraction, rule)

    @property
    def rotated(self) -> int:
        """Size of the rotated part of a head; 0 where positions are learned."""
        if isinstance(self.positions, Learned):
            return 0
        return int(self.head_width * self.positions.fraction)


def _refuse(name: str, value: object, rule: str) -> ValueError:
    return ValueError(f"DecoderConfig: {name} received {value!r}; {rule}; change it")
