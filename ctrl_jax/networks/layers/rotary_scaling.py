"""Rotations for texts longer than those of training.

With w_i the plain rates of the r/2 rotations, from fast to slow, L the original length and n that
of a text, the rates are w_i / factor (linear), or

    (1 - s_i) w_i / factor + s_i w_i                                       (Llama 3, YaRN),   (1)
    w_i g^(-2i/(r - 2)),   g = factor n / L - (factor - 1) for n > L, else 1     (dynamic),   (2)
    w_i / short_i for n <= L,   w_i / long_i for n > L                          (LongRoPE).   (3)

In (1) s_i goes from 0 for slow rotations to 1 for fast ones: for Llama 3 linearly in the turns
n_i = L w_i / 2 pi over the original length, from `low` to `high`; for YaRN linearly in i, between
the places where the turns are `fast` and `slow`. YaRN and LongRoPE also multiply queries and keys
by a factor.

Sources: dynamic and linear: 2309.00071, section 3; YaRN: the same, equations 20 to 23; LongRoPE:
2402.13753.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ctrl_jax._checks import check_annotated, check_count, check_positive, refuse

Lengths = Array | int
"""How many tokens the text of a token has: one number, or one for each, (batch, tokens)."""


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All rotations slower by one factor.

    Args:
        factor: by which every rotation is slowed.
    """

    factor: float

    def __post_init__(self):
        check_annotated(self, "LinearScaling")

    def rates(self, plain: np.ndarray, base: float, lengths: Lengths) -> np.ndarray:
        """Return w_i / factor."""
        del base, lengths
        return plain / self.factor


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

    def __post_init__(self):
        check_annotated(self, "Llama3Scaling")

    def rates(self, plain: np.ndarray, base: float, lengths: Lengths) -> np.ndarray:
        """Return (1 - s_i) w_i / factor + s_i w_i, s linear in the turns n_i = length w_i / 2 pi.

        Args:
            plain: w_i, the rates without scaling, in radians per position, (half,).
            base: not read.
            lengths: not read.

        Returns:
            Rates of plain's shape; s is 0 up to `low` turns and 1 from `high` turns on.
        """
        del base, lengths
        turns = self.length * plain / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1 - kept) * plain / self.factor + kept * plain


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """Slow rotations slower by a factor, fast ones as they are, linearly in their number between.

    Args:
        factor: by which slow rotations are slowed.
        length: the original length in tokens.
        fast: rotations that turn more often than this over the original length stay.
        slow: those that turn fewer times are slowed.
        attention: multiplies rotated queries and keys; None for 1 + log(factor) / 10, and for 1
            where the factor is below 1.
        whole: whether the places where rotations turn so often are rounded outwards.
    """

    factor: float
    length: int
    fast: float = 32.0
    slow: float = 1.0
    attention: float | None = None
    whole: bool = True

    def __post_init__(self):
        check_annotated(self, "YarnScaling")

    def rates(self, plain: np.ndarray, base: float, lengths: Lengths) -> np.ndarray:
        """Return (1 - s_i) w_i / factor + s_i w_i, s linear in the number i of the rotation.

        Args:
            plain: w_i, the rates without scaling, in radians per position, (half,).
            base: of the powers that the plain rates are.
            lengths: not read.

        Returns:
            Rates of plain's shape; s is 1 where rotations turn more than `fast` times over the
            original length, 0 where they turn fewer than `slow` times.
        """
        del lengths
        half = len(plain)

        def place(turns: float) -> float:
            return half * math.log(self.length / (2 * math.pi * turns)) / math.log(base)

        first, last = place(self.fast), place(self.slow)
        if self.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * half - 1)
        width = last - first or 1e-3  # one place for both: a step
        slowed = np.clip((np.arange(half) - first) / width, 0.0, 1.0)
        return slowed * plain / self.factor + (1 - slowed) * plain


@dataclasses.dataclass(frozen=True)
class DynamicScaling:
    """The slower the longer the text is, once it is longer than those of training.

    In a row of several answers to one prompt, the longest counts for all of it.

    Args:
        factor: how much slower.
        length: the original length in tokens.
    """

    factor: float
    length: int

    def __post_init__(self):
        check_annotated(self, "DynamicScaling")

    def rates(self, plain: np.ndarray, base: float, lengths: Lengths) -> np.ndarray | Array:
        """Return w_i g^(-i/(half - 1)), g = factor max(n / length, 1) - (factor - 1).

        Args:
            plain: w_i, the rates without scaling, in radians per position, (half,).
            base: not read.
            lengths: n, tokens of the text, one number or one for each token (batch, tokens).

        Returns:
            Rates (half,), or one row for each length.
        """
        del base
        number, xp = _numbers(lengths)
        growth = self.factor * xp.maximum(number / self.length, 1.0) - (self.factor - 1)
        powers = -np.arange(len(plain)) / (len(plain) - 1)
        plain, powers = (
            np.expand_dims(row, tuple(range(number.ndim - 1))) for row in (plain, powers)
        )
        return plain * growth**powers


@dataclasses.dataclass(frozen=True)
class LongScaling:
    """Every rotation slower by its own factor, by another in texts longer than those of training.

    In a row of several answers to one prompt, the longest counts for all of it.

    Args:
        short: factors of the rotations, from fast to slow, in texts of up to `length` tokens.
        long: those in longer ones.
        length: the original length in tokens.
        attention: multiplies rotated queries and keys.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    length: int
    attention: float = 1.0

    def __post_init__(self):
        check_annotated(self, "LongScaling")

    def rates(self, plain: np.ndarray, base: float, lengths: Lengths) -> np.ndarray | Array:
        """Return w_i / short_i in texts of up to `length` tokens, w_i / long_i in longer ones.

        Args:
            plain: w_i, the rates without scaling, in radians per position, (half,).
            base: not read.
            lengths: tokens of the text, one number or one for each token (batch, tokens).

        Returns:
            Rates (half,), or one row for each length.
        """
        del base
        number, xp = _numbers(lengths)
        short, long = (
            np.expand_dims(plain / np.asarray(factors), tuple(range(number.ndim - 1)))
            for factors in (self.short, self.long)
        )
        return xp.where(number > self.length, long, short)


Scaling = LinearScaling | Llama3Scaling | YarnScaling | DynamicScaling | LongScaling


def depends_on_length(scaling: Scaling | None) -> bool:
    """Return whether the rates are those of a text's length."""
    return isinstance(scaling, DynamicScaling | LongScaling)


def attention_factor(scaling: Scaling | None) -> float:
    """Return what rotated queries and keys are multiplied by."""
    if isinstance(scaling, YarnScaling) and scaling.attention is None:
        return 0.1 * math.log(max(scaling.factor, 1.0)) + 1.0
    given = scaling.attention if isinstance(scaling, YarnScaling | LongScaling) else 1.0
    return 1.0 if given is None else given


def check_scaling(name: str, scaling: Scaling, half: int) -> None:
    """Raise ValueError, about `name`, unless a scaling fits so many rotations."""
    for field in dataclasses.fields(scaling):
        value, path = getattr(scaling, field.name), f"{name}.{field.name}"
        if field.name in ("short", "long"):
            if len(value) != half:
                rule = f"there must be one factor for each of {half} rotations"
                raise refuse(path, value, rule, "give as many")
            for number in value:
                check_positive(path, number)
        elif field.name == "length":
            check_count(path, value)
        elif value is not None and field.name not in ("low", "whole"):
            check_positive(path, value)
    if isinstance(scaling, Llama3Scaling) and not scaling.low < scaling.high:
        bounds = (scaling.low, scaling.high)
        raise refuse(name, bounds, "low must be below high", "swap them")
    if isinstance(scaling, YarnScaling) and not scaling.slow <= scaling.fast:
        bounds = (scaling.fast, scaling.slow)
        raise refuse(name, bounds, "fast must not be below slow", "swap them")
    if isinstance(scaling, DynamicScaling) and (half < 2 or scaling.factor < 1):
        rule = f"it needs a factor of at least 1 and two rotations, here {half}"
        raise refuse(f"{name}.factor", scaling.factor, rule, "give e.g. 2, or wider heads")


def _numbers(lengths: Lengths):
    """The lengths with an axis for rotations: of one number by NumPy, in float64."""
    if isinstance(lengths, jax.Array):
        return lengths.astype(jnp.float32)[..., None], jnp
    return np.asarray([lengths], np.float64), np
