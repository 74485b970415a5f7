"""The linear-Gaussian policy, whose value has a closed form in every environment here."""

from typing import NamedTuple

from jaxtyping import Array, Float

Moments = tuple[Float[Array, ""] | float, Float[Array, ""] | float]
"""First and second raw moment, E X and E X^2, of a scalar."""


class LinearGaussian(NamedTuple):
    """Actions N(slope x + intercept, std^2).

    In `GaussianSteering` slope and intercept are the deviation of the mean from the score. With
    vectors the slope is a matrix (action, state) and intercept and std have shape (action,).
    """

    slope: Float[Array, "..."] | float
    intercept: Float[Array, "..."] | float
    std: Float[Array, "..."] | float
