"""How the layers of a network are made: one place for types and random streams."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from ctrl_jax.networks.layers.convolution import Convolution
from ctrl_jax.networks.layers.linear import Linear
from ctrl_jax.networks.layers.normalization import GroupNorm, LayerNorm, RMSNorm

_describing = contextvars.ContextVar("describing", default=False)


@contextlib.contextmanager
def _described(so: bool) -> Iterator[None]:
    token = _describing.set(so)
    try:
        yield
    finally:
        _describing.reset(token)


def describe(make_module: Callable[[], nnx.Module]) -> tuple[Any, Any]:
    """Return the graph of a module and the shapes and types of its parameters, drawing nothing.

    To trace how weights are drawn would be most of the work. So every draw gives the same key
    meanwhile, and kernels are zeros: a constructor must not depend on values that it drew.

    Args:
        make_module: builds it; its random streams are those of `streams`.
    """
    with _described(True):
        return nnx.split(nnx.eval_shape(make_module))


def draw(make_module: Callable[[], nnx.Module]) -> Any:
    """Return the parameters of a module, drawn, as nested dictionaries.

    Also within `describe` of another: JAX keeps what it traced there, and would give it later too.

    Args:
        make_module: builds it.
    """
    with _described(False):
        return nnx.to_pure_dict(nnx.state(make_module()))


def undrawn() -> dict[str, Any]:
    """Return ``{"kernel_init": zeros}`` while a network is described, else nothing."""
    return {"kernel_init": nnx.initializers.zeros_init()} if _describing.get() else {}


class Stream(nnx.RngStream):
    """A random stream that gives the same keys as flax's, and counts in NumPy.

    So a draw adds nothing to a trace but its key; flax's adds its count, and every draw takes
    longer than the last. Where the count is an argument of a trace (`nnx.scan`, `nnx.vmap` of
    split streams) this one is flax's.

    Args:
        key: of the stream.
        tag: its name.
    """

    def __init__(self, key: Any, *, tag: str):
        super().__init__(key, tag=tag)
        self._count_to(np.zeros(self.key.get_raw_value().shape, np.uint32))

    def __call__(self) -> jax.Array:
        """Return the next key."""
        if _describing.get():
            return self.key[...]
        count = self.count.get_raw_value()
        if isinstance(count, Tracer):
            return super().__call__()
        count = np.asarray(count)
        self._count_to(count + np.uint32(1))
        return jax.random.fold_in(self.key[...], count)

    def _count_to(self, count: Any) -> None:
        self.count.set_raw_value(np.asarray(count))  # pyright: ignore[reportArgumentType]


def streams(**keys: Any) -> nnx.Rngs:
    """Return random streams whose counts are not traced.

    Args:
        **keys: of each stream; of ``default`` are all that have no key of their own.
    """
    rngs = nnx.Rngs(**keys)
    for name, key in keys.items():
        setattr(rngs, name, Stream(key, tag=name))
    return rngs


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
    rngs: nnx.Rngs

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> Linear:
        """Return a linear layer."""
        return Linear(inputs, outputs, use_bias=bias, **self._types(), **undrawn())

    def convolution(self, inputs: int, outputs: int, **options: Any) -> Convolution:
        """Return a convolution; options are those of `Convolution`."""
        return Convolution(inputs, outputs, **(options | undrawn()), **self._types())

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
