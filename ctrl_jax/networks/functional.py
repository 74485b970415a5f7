"""From a Flax NNX module to the two pure callables that algorithms see."""

from collections.abc import Callable

import jax
from flax import nnx

from ctrl_jax._typing import Model, Params


def as_model(make_module: Callable[[nnx.Rngs], nnx.Module], *, has_dropout: bool = False) -> Model:
    """Return the `Model` of a module whose ``__call__(t, x, *conditions)`` is pure.

    The graph is found once without allocating anything; parameters are a plain nested dictionary
    of arrays. Splitting and merging cost nothing at run time.

    Args:
        make_module: builds the module from its random streams.
        has_dropout: whether the module takes the keyword ``key``, the randomness of its dropout;
            the model then has `train`, which hands it one.
    """
    graph, _ = nnx.split(nnx.eval_shape(lambda: make_module(nnx.Rngs(0))))

    def init(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(make_module(nnx.Rngs(key))))

    def apply(params: Params, t, x, *conditions) -> jax.Array:
        return nnx.merge(graph, params)(t, x, *conditions)

    def train(key: jax.Array, params: Params, t, x, *conditions) -> jax.Array:
        return nnx.merge(graph, params)(t, x, *conditions, key=key)

    return Model(init, apply, train=train if has_dropout else None)


def count_parameters(params: Params) -> int:
    """Return the number of scalars in a tree of parameters.

    Args:
        params: any pytree of arrays.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))
