r"""The divergence of a vector field on a batch: exact, or projected on random directions.

For f: R^d -> R^d with Jacobian J and a random v with E v v^T = I,

    div f = tr J = \sum_k e_k^T J e_k = E v^T J v.                                       (1)

One product J v costs about as much as f itself (forward mode). With A = (J + J^T) / 2,

    Var v^T J v = 2 |A|_F^2                          for v ~ N(0, I),
                = 2 (|A|_F^2 - \sum_k A_kk^2)        for Rademacher signs,               (2)

the least among independent coordinates; zero where the Jacobian is diagonal. Fields see a batch and
treat its examples independently. Source: Hutchinson 1990; Song et al. 2019.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import sum_each

Field = Callable[[Array], Array]
"""``field(x)`` maps a batch (batch, ...) to an array of its shape, example by example."""


@at_the_door
def exact(
    field: Field, x: Float[Array, "batch *dims"], *, at_once: int = 16
) -> tuple[Float[Array, "batch *dims"], Float[Array, " batch"]]:
    """Return the field at x and its exact divergence, by d products with the Jacobian.

    Args:
        field: a map of batches that treats examples independently.
        x: points, shape (batch, ...).
        at_once: products computed together; more is faster and takes more memory.

    Raises:
        ValueError: at_once is below 1.
    """
    check_count("at_once", at_once)
    if not x.shape[0]:
        return field(x), jnp.zeros(0, x.dtype)
    value, push = jax.linearize(field, x)
    size = x[0].size
    basis = jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])

    def diagonal(unit):
        return sum_each(unit * push(jnp.broadcast_to(unit, x.shape)))

    return value, jnp.sum(jax.lax.map(diagonal, basis, batch_size=min(at_once, size)), axis=0)


@at_the_door
def projected(
    field: Field, x: Float[Array, "batch *dims"], direction: Float[Array, "batch *dims"]
) -> tuple[Float[Array, "batch *dims"], Float[Array, " batch"]]:
    """Return the field at x and v^T J v, an unbiased estimate of its divergence tr J.

    J is the Jacobian. The mean is tr J for directions with E v v^T = I; of those with independent
    coordinates random signs give the least variance.

    Args:
        field: a map of batches that treats examples independently.
        x: points, shape (batch, ...).
        direction: v for each example, of x's shape, by `rademacher` or `gaussian`.

    Returns:
        The field, of x's shape, and the estimates, shape (batch,).

    Raises:
        ValueError: the shapes differ.

    Source: Hutchinson 1990; Song et al. 2019.
    """
    value, tangent = jax.jvp(field, (x,), (direction.astype(x.dtype),))
    return value, sum_each(direction.astype(x.dtype) * tangent)


@at_the_door
def rademacher(key: Array, like: Float[Array, "batch *dims"]) -> Float[Array, "batch *dims"]:
    """Return random signs.

    Args:
        key: PRNG key.
        like: an array of the shape and dtype to draw.
    """
    return jax.random.rademacher(key, like.shape, like.dtype)


@at_the_door
def gaussian(key: Array, like: Float[Array, "batch *dims"]) -> Float[Array, "batch *dims"]:
    """Return standard normals.

    Args:
        key: PRNG key.
        like: an array of the shape and dtype to draw.
    """
    return jax.random.normal(key, like.shape, like.dtype)
