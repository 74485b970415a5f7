r"""What is trained: an image for each class and time, added to the pretrained score.

The optimal deviation from the pretrained score is, with V = lambda log E[e^{R/lambda} | x_t],

    a(t, x) = (1/lambda) \nabla V = (1/lambda) (d E[x_0 | x_t] / d x_t)' w                  (1)

for a reward R(x_0) = w'x_0 where the images of a class are Gaussian: it does not depend on x. So

    score(t, x, c) = pretrained(t, x, c) + s(t) \sum_j v(t)^j b_{cj},                        (2)

with scale s and standard deviation v of the noised data, holds nearly all there is to learn in a
few hundred numbers per class. No two classes share one: what is learned of a class is learned from
the comparisons of that class.
"""

import jax
import jax.numpy as jnp

from ctrl_jax._typing import Model, Params
from ctrl_jax.processes import LinearProcess

POWERS = 3


def steered(process: LinearProcess, base: Model, params: Params, shape, classes: int) -> Model:
    """Return (2); it starts as the pretrained score.

    Args:
        process: the forward process.
        base: the pretrained score.
        params: its parameters.
        shape: of one image.
        classes: number of classes.
    """

    def apply(images, t, x, label):
        scale, std = process.marginal(jnp.broadcast_to(t, x.shape[:1]))
        features = scale[:, None] * std[:, None] ** jnp.arange(POWERS, dtype=x.dtype)[None]
        shift = jnp.einsum("nj,nj...->n...", features, images[label])
        return jax.lax.stop_gradient(base.apply(params, t, x, label)) + shift

    return Model(lambda key: jnp.zeros((classes, POWERS, *shape)), apply)
