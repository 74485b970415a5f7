r"""What a network predicts, and the score it stands for.

With x_t = a x_0 + std * noise, the score of the kernel is

    s = -(x_t - a x_0) / std^2 = -noise / std,

so each prediction is one affine map away from the score:

    noise:  s = -noise / std
    data:   s = (a x_0 - x) / std^2
    v:      v = a * noise - std * x_0, hence for any a, std
            s = -(v + (std / a) x) / (a std + std^3 / a)
    flow:   u = dx/dt = a' x_0 + std' * noise, hence
            s = -(a u - a' x) / (std (a std' - a' std))

For a variance-preserving process (a^2 + std^2 = 1) the third is s = -x - (a / std) v; for the
rectified flow (a = 1 - t, std = t) the fourth is s = -(x + (1 - t) u) / t. `from_noise`,
`from_data`, `from_v` and `from_flow` take the network ``network(t, x, *conditions)`` and return a
`score_fn`; `to_noise`, `to_data`, `to_v` and `to_flow` take a `score_fn` and return the prediction:

    noise = -std s,                        x_0 = (x + std^2 s) / a,
    v = -(std / a) (x + (a^2 + std^2) s),  u = b x - sigma^2 s / 2.

A score also serves another process (`from_process`): X_t / a is data plus noise of std
n = std / a, which any process has at the time \tau where its own ratio is n, densities being
transformed by the factor between the two states. Source: arXiv 2401.13115, section 5, for any pair.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from ctrl_jax._checks import refuse
from ctrl_jax._numerics import expand
from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes.base import LinearProcess


def from_noise(process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
    """Return the score function -noise / std of a network that predicts the noise.

    Args:
        process: the forward process.
        network: ``network(t, x, *conditions)``, of x's shape.
    """

    def score_fn(t, x, *conditions):
        return -network(t, x, *conditions) / expand(process.marginal(t).std, x)

    return score_fn


def from_data(process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
    """Return the score function (a x_0 - x) / std^2 of a network that predicts the data x_0.

    Args:
        process: the forward process.
        network: ``network(t, x, *conditions)``, of x's shape.
    """

    def score_fn(t, x, *conditions):
        scale, std = process.marginal(t)
        return (expand(scale, x) * network(t, x, *conditions) - x) / expand(std**2, x)

    return score_fn


def from_v(process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
    """Return the score function of a network that predicts v = a * noise - std * x_0.

    Args:
        process: the forward process.
        network: ``network(t, x, *conditions)``, of x's shape.
    """

    def score_fn(t, x, *conditions):
        scale, std = process.marginal(t)
        norm = scale**2 + std**2
        v = network(t, x, *conditions)
        return -(expand(scale / (std * norm), x) * v + x / expand(norm, x))

    return score_fn


def from_flow(process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
    """Return the score function of a network that predicts the flow u = a' x_0 + std' * noise.

    Args:
        process: the forward process.
        network: ``network(t, x, *conditions)``, of x's shape, in units of x per unit of time.
    """

    def score_fn(t, x, *conditions):
        (scale, std), rate = process.rates(t)
        norm = std * (scale * rate.std - rate.scale * std)
        flow = network(t, x, *conditions)
        return expand(rate.scale / norm, x) * x - expand(scale / norm, x) * flow

    return score_fn


def to_noise(process: LinearProcess, score_fn: ScoreFn) -> Callable[..., Array]:
    """Return the prediction -std s of the noise that a score function stands for.

    Args:
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``.
    """

    def noise(t, x, *conditions):
        return -expand(process.marginal(t).std, x) * score_fn(t, x, *conditions)

    return noise


def to_data(process: LinearProcess, score_fn: ScoreFn) -> Callable[..., Array]:
    """Return the prediction (x + std^2 s) / a of x_0 that a score stands for: the denoiser.

    Args:
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``, asked at times up to ``process.latest``.
    """

    def data(t, x, *conditions):
        scale, std = process.marginal(t)
        return (x + expand(std**2, x) * score_fn(t, x, *conditions)) / expand(scale, x)

    return data


def to_v(process: LinearProcess, score_fn: ScoreFn) -> Callable[..., Array]:
    """Return the prediction of v = a * noise - std * x_0 that a score function stands for.

    Args:
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``, asked at times up to ``process.latest``.
    """

    def v(t, x, *conditions):
        scale, std = process.marginal(t)
        score = score_fn(t, x, *conditions)
        return -expand(std / scale, x) * (x + expand(scale**2 + std**2, x) * score)

    return v


def to_flow(process: LinearProcess, score_fn: ScoreFn) -> Callable[..., Array]:
    """Return the flow u = b x - sigma^2 s / 2 that a score function stands for.

    Args:
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``, asked at times up to ``process.latest``.
    """

    def flow(t, x, *conditions):
        half = expand(process.diffusion(t) ** 2 / 2, x)
        return process.drift(t, x) - half * score_fn(t, x, *conditions)

    return flow


def from_process(
    process: LinearProcess, trained_on: LinearProcess, trained_score_fn: ScoreFn
) -> ScoreFn:
    """Return the score function of `process`, from a network trained on another process.

    s(t, x) = g s'(tau, g x) with s' the trained score, tau the time at which the noise-to-signal
    ratio std / a of `trained_on` is that of `process` at t, and g the scale of `trained_on` at tau
    over that of `process` at t. Without the factor g in front the score is wrong by it, which is
    1 / 7.4 at the horizon of ``ContractiveSubVP(0.01, 8)`` with a variance-exploding network.

    Args:
        process: the process to sample with.
        trained_on: the process that the score was trained on.
        trained_score_fn: its score, ``trained_score_fn(tau, y, *conditions)``; where the noise of
            `process` is below the least of `trained_on`, it is asked at the time of the least.

    Raises:
        ValueError: the noise-to-signal ratio of `process` leaves the range of `trained_on`.

    Source: arXiv 2401.13115, section 5, there from a variance-exploding network.
    """
    reached, largest = (
        p.noise_to_signal(jnp.asarray(p.latest, float)) for p in (process, trained_on)
    )
    if not isinstance(reached - largest, Tracer) and reached > 1.0001 * largest:
        raise refuse(
            "from_process: process",
            type(process).__name__,
            f"its noise-to-signal ratio reaches {reached:.4g}, that of trained_on {largest:.4g}",
            "lower the noise of process, or give a trained_on of more noise",
        )

    def score_fn(t, x, *conditions):
        tau = trained_on.time_at(process.noise_to_signal(t))
        gain = expand(trained_on.marginal(tau).scale / process.marginal(t).scale, x)
        return gain * trained_score_fn(tau, gain * x, *conditions)

    return score_fn
