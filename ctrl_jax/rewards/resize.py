"""Resizing of pictures as Pillow does it, which is how image towers are fed.

Source: Keys 1981 (equation 15); Pillow's Resample.c.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_choice, check_count
from ctrl_jax.rewards.pictures import read_pictures, whole

LARGEST = 2**15
Kernel = Literal["bilinear", "bicubic"]


def resize(
    pictures: Float[Array, "batch h w channels"],
    height: int,
    width: int,
    *,
    kernel: Kernel = "bicubic",
) -> Float[Array, "batch height width channels"]:
    r"""Return pictures in another size, as ``PIL.Image.resize`` gives them.

    Pixel i of n has its center at i + 1/2. With s = max(n / m, 1) the output pixel j of m is

        y_j = \sum_i w_ij x_i / \sum_i w_ij,   w_ij = k((i + 1/2 - (j + 1/2) n / m) / s),

    k the kernel, stretched by s where the picture shrinks (which keeps what is finer than the new
    pixels out of it): 1 - |d| below 1 for "bilinear"; for "bicubic" Keys' cubic with a = -1/2. The
    width comes first, then the height; after each the values are cut to [0, 1] and rounded to
    1/255, since Pillow keeps bytes. (From version 13 on Pillow begins with the height where that
    shrinks more than the width, which then changes some bytes by a few.) The derivative passes
    through the rounding as if it were not there.

    Args:
        pictures: in [0, 1].
        height: of the result, in pixels.
        width: of the result, in pixels.
        kernel: "bicubic" or "bilinear".

    Raises:
        ValueError: `pictures` are none, a size is no whole number above zero, or the kernel is of
            another name.

    Source: Keys 1981, equation 15; Pillow's Resample.c.
    """
    pictures = read_pictures("pictures", pictures, channels=None)
    check_count("height", height, most=LARGEST)
    check_count("width", width, most=LARGEST)
    check_choice("kernel", kernel, ("bilinear", "bicubic"))
    rows, columns = pictures.shape[1:3]
    levels = 255.0 * pictures
    for before, after, form in (
        (columns, width, "vw,bhwc->bhvc"),
        (rows, height, "vh,bhwc->bvwc"),
    ):
        weights = jnp.asarray(_weights(before, after, kernel), pictures.dtype)
        levels = whole(jnp.einsum(form, weights, levels, precision="highest"))
    return levels / 255.0


def _weights(before: int, after: int, kernel: Kernel) -> Float[np.ndarray, "after before"]:
    scale = before / after
    centers = (np.arange(after)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(before)[None, :] + 0.5 - centers) / max(scale, 1.0)
    if kernel == "bilinear":
        weights = np.maximum(1 - distance, 0)
    else:
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.round(weights * 2**22) / 2**22  # Pillow's precision: ties go the same way
