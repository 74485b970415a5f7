"""How the layers of a network are made: one place for types and random streams."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ctrl_jax.networks.layers.convolution import Convolution
from ctrl_jax.networks.layers.linear import Linear
from ctrl_jax.networks.layers.normalization import GroupNorm, LayerNorm, RMSNorm


class Streams:
    """Random streams as those of `nnx.Rngs`, counted in Python.

    Theirs count in arrays: where a large network is traced, every draw takes longer than the last,
    a minute in all for that of Stable Diffusion XL.

    Args:
        params: key of the parameters.
        lora: key of the adapters.
    """

    def __init__(self, params: Any, lora: Any):
        self._keys, self._counts = {"params": params, "lora": lora}, {"params": 0, "lora": 0}

    def params(self) -> Any:
        """Return the next key of the parameters."""
        return self._next("params")

    def lora(self) -> Any:
        """Return the next key of the adapters."""
        return self._next("lora")

    def _next(self, name: str) -> Any:
        self._counts[name] += 1
        return jax.random.fold_in(self._keys[name], self._counts[name] - 1)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes layers of one type of arithmetic and one type of weights.

    Args:
        dtype: of the arithmetic.
        param_dtype: of fresh weights.
        rngs: random streams.
    """

    dtype: jnp.dtype
    param_dtype: jnp.dtype
    rngs: nnx.Rngs | Streams

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> Linear:
        """Return a linear layer."""
        return Linear(inputs, outputs, use_bias=bias, **self._types())

    def convolution(self, inputs: int, outputs: int, **options: Any) -> Convolution:
        """Return a convolution; options are those of `Convolution`."""
        return Convolution(inputs, outputs, **options, **self._types())

    def embedding(self, rows: int, width: int) -> nnx.Embed:
        """Return a table of vectors."""
        return nnx.Embed(rows, width, **self._types())

    def layer_norm(self, width: int, **options: Any) -> LayerNorm:
        """Return a layer normalization; options are those of `LayerNorm`."""
        return LayerNorm(width, param_dtype=self.param_dtype, **options)

    def rms_norm(self, width: int, **options: Any) -> RMSNorm:
        """Return a root-mean-square normalization; options are those of `RMSNorm`."""
        return RMSNorm(width, param_dtype=self.param_dtype, **options)

    def group_norm(self, channels: int, **options: Any) -> GroupNorm:
        """Return a normalization of groups of channels; options are those of `GroupNorm`."""
        return GroupNorm(channels, param_dtype=self.param_dtype, **options)

    def _types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype, "rngs": self.rngs}
