r"""Weights lambda(t) of score matching over time, for every process.

Written for the error of the score, lambda |s - s^*|^2; each prediction is affine in the score, so a
weight on another prediction's error is a lambda. With signal-to-noise ratio snr = a^2 / v:

| name | lambda | the error it weighs equally |
|---|---|---|
| `noise` | v | of the noise, eps = -std s |
| `data` | v^2 / a^2 | of the data, x_0 = (x + v s) / a |
| `v` | v (a^2 + v)^2 / a^2 | of a eps - std x_0 |
| `flow` | sigma^4 / 4 | of dx/dt = b x - sigma^2 s / 2 |
| `likelihood` | sigma^2 | path divergence: KL <= 1/2 \int sigma^2 E|s - s^*|^2 dt |
| `min_snr` | v min(1, gamma / snr) | of the data, weighed by min(snr, gamma) |

Each takes the process and returns ``weighting(t)``. Pairs of times s < t of consistency losses are
weighed by ``weighting(t, s)``, 1 / (tau_t - tau_s) in `inverse_gap` with tau = std / a: what two
neighbors differ by shrinks with their distance, and small noise has to be learned first.

Source: Song et al. 2021 (arXiv 2101.09258, `likelihood`); arXiv 2303.09556 (`min_snr`);
2310.14189 (`inverse_gap`); 2402.07487, section 4.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_positive
from ctrl_jax.processes import LinearProcess

Weighting = Callable[[Float[Array, "*t"]], Float[Array, "*t"]]
"""``weighting(t)`` returns lambda(t)."""


def noise(process: LinearProcess) -> Weighting:
    """Return lambda = v, the variance of the marginal.

    Args:
        process: the forward process.
    """
    return lambda t: process.marginal(t).std ** 2


def data(process: LinearProcess) -> Weighting:
    """Return lambda = v^2 / a^2, the weight of the error of the data.

    Args:
        process: the forward process.
    """

    def weighting(t):
        scale, std = process.marginal(t)
        return (std**2 / scale) ** 2

    return weighting


def v(process: LinearProcess) -> Weighting:
    """Return lambda = v (a^2 + v)^2 / a^2, which is v / a^2 for a variance-preserving process.

    Args:
        process: the forward process.
    """

    def weighting(t):
        scale, std = process.marginal(t)
        return (std * (scale**2 + std**2) / scale) ** 2

    return weighting


def flow(process: LinearProcess) -> Weighting:
    """Return lambda = sigma^4 / 4, the weight of the flow's error; infinite where sigma is.

    Args:
        process: the forward process.
    """
    return lambda t: process.diffusion(t) ** 4 / 4


def likelihood(process: LinearProcess) -> Weighting:
    """Return lambda = sigma^2, under which the loss bounds the negative log-likelihood.

    Args:
        process: the forward process.
    """
    return lambda t: process.diffusion(t) ** 2


def min_snr(process: LinearProcess, gamma: float = 5.0) -> Weighting:
    """Return lambda = v min(1, gamma / snr).

    Args:
        process: the forward process.
        gamma: signal-to-noise ratio above which the weight on the data's error stops growing.

    Raises:
        ValueError: gamma is not positive.
    """
    check_positive("min_snr.gamma", gamma)

    def weighting(t):
        scale, std = process.marginal(t)
        return std**2 * jnp.minimum(1.0, gamma * (std / scale) ** 2)

    return weighting


def inverse_gap(
    process: LinearProcess,
) -> Callable[[Float[Array, "*t"], Float[Array, "*t"]], Float[Array, "*t"]]:
    """Return ``weighting(t, s)`` = 1 / (tau_t - tau_s) for times s < t, tau = std / a.

    Args:
        process: the forward process.
    """
    return lambda t, s: 1 / (process.noise_to_signal(t) - process.noise_to_signal(s))


def relative(process: LinearProcess, weighting: Weighting) -> Weighting:
    """Return lambda / v, the weights of `score_matching.denoising` for t > 0.

    Args:
        process: the forward process, which has v.
        weighting: lambda, of the error of the score.
    """
    return lambda t: weighting(t) / process.marginal(t).std ** 2
