"""From a Flax NNX module to the two pure callables that algorithms see."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ctrl_jax._typing import Model, Params
from ctrl_jax.networks.layers.making import Layers, describe, draw, streams
from ctrl_jax.networks.lora import LoRA, adapt
from ctrl_jax.networks.sharding import SCORE, Rules, gathered, in_turn


class Network(NamedTuple):
    """A network as pure functions.

    Fields:
        init: ``init(key) -> params``, nested dictionaries.
        apply: ``apply(params, *arguments, method="__call__", **options)``.
        shapes: the tree of parameters as `jax.ShapeDtypeStruct`.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., Any]
    shapes: Params


def as_network(
    make_module: Callable[[Layers], nnx.Module],
    *,
    rules: Rules = SCORE,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
) -> Network:
    """Return a module as pure functions.

    Args:
        make_module: builds it from what makes its layers.
        rules: how its parameters are divided over a mesh.
        dtype: type of the arithmetic; normalizations and softmaxes are in float32 at least.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.

    Raises:
        ValueError: `lora` names a layer that the network does not have.
    """

    def make(key: jax.Array) -> nnx.Module:
        rngs = streams(params=key, lora=jax.random.fold_in(key, 1))
        module = make_module(Layers(jnp.dtype(dtype), jnp.dtype(param_dtype), rngs))
        if lora is not None:
            adapt(module, lora, rngs)
        return module

    graph, abstract = describe(lambda: make(jax.random.key(0)))

    def init(key: jax.Array) -> Params:
        return draw(lambda: make(key))

    def apply(params: Params, *arguments: Any, method: str = "__call__", **options: Any) -> Any:
        with in_turn(rules):
            return getattr(nnx.merge(graph, gathered(params)), method)(*arguments, **options)

    return Network(init, apply, nnx.to_pure_dict(abstract))


def as_model(make_module: Callable[[nnx.Rngs], nnx.Module], *, has_dropout: bool = False) -> Model:
    """Return the `Model` of a module whose ``__call__(t, x, *conditions)`` is pure.

    The graph is found once without allocating anything; parameters are a plain nested dictionary
    of arrays. Splitting and merging cost nothing at run time.

    Args:
        make_module: builds the module from its random streams.
        has_dropout: whether the module takes the keyword ``key``, the randomness of its dropout;
            the model then has `train`, which hands it one.
    """
    graph, _ = describe(lambda: make_module(streams(default=0)))

    def init(key: jax.Array) -> Params:
        return draw(lambda: make_module(streams(default=key)))

    def apply(params: Params, t, x, *conditions) -> jax.Array:
        with in_turn(SCORE):
            return nnx.merge(graph, gathered(params))(t, x, *conditions)

    def train(key: jax.Array, params: Params, t, x, *conditions) -> jax.Array:
        with in_turn(SCORE):
            return nnx.merge(graph, gathered(params))(t, x, *conditions, key=key)

    return Model(init, apply, train=train if has_dropout else None)


def count_parameters(params: Params) -> int:
    """Return the number of scalars in a tree of parameters.

    Args:
        params: any pytree of arrays.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))
