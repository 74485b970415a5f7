"""Pictures as rewards take them: arrays (batch, h, w, 3) in [0, 1], seen as a file holds them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse


def read_pictures(
    name: str, pictures: object, *, channels: int | None = 3
) -> Float[Array, "batch h w channels"]:
    """Return pictures in float32 at least.

    Args:
        name: what errors call them.
        pictures: an array.
        channels: how many they have; None for any.

    Raises:
        ValueError: they have another shape, or are whole numbers.
    """
    if not isinstance(pictures, jax.Array | np.ndarray) or not jnp.issubdtype(
        pictures.dtype, jnp.floating
    ):
        rule = "it must be an array of floating numbers in [0, 1]"
        raise refuse(name, pictures, rule, "divide bytes by 255.0")
    if pictures.ndim != 4 or 0 in pictures.shape[1:] or channels not in (None, pictures.shape[-1]):
        rule = f"its shape must be (batch, height, width, {channels or 'channels'})"
        raise refuse(name, pictures, rule, "move the channels last, and add a batch axis")
    half = jnp.finfo(pictures.dtype).bits < 32
    return jnp.asarray(pictures, jnp.float32 if half else pictures.dtype)


def as_bytes(pictures: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return pictures in [0, 1] as a file of bytes holds them; derivatives see the cut alone."""
    return whole(255.0 * pictures) / 255.0


def whole(levels: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return levels cut to [0, 255] and rounded; derivatives see the cut alone."""
    cut = jnp.clip(levels, 0.0, 255.0)
    return cut + jax.lax.stop_gradient(jnp.floor(cut + 0.5) - cut)
