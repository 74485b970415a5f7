"""Networks whose parameters NumPy draws: the program of an `init` costs more than a step's."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model


def drawn(model: Model, bias: float = 0.1) -> Model:
    """The model with an `init` of noise: of a kernel's spread in every kernel, away from the zero
    start, and of spread `bias` in vectors. The key is not read."""

    def init(key):
        del key
        generator = np.random.default_rng(0)

        def draw(leaf):
            spread = leaf.shape[0] ** -0.5 if leaf.ndim > 1 else bias
            return jnp.asarray(spread * generator.standard_normal(leaf.shape), leaf.dtype)

        return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0)))

    return model._replace(init=init)
