r"""What a network predicts, and the score it stands for.

With x_t = a x_0 + std * noise, the score of the kernel is

    s = -(x_t - a x_0) / v = -noise / std,

so each prediction is one affine map away from the score:

    noise:     s = -noise / std
    data:      s = (a x_0 - x) / v
    velocity:  a * noise - std * x_0, hence for any a, std
               s = -(velocity + (std / a) x) / (a std + std^3 / a)

For a variance-preserving process (a^2 + v = 1) the last line is s = -x - (a / std) velocity.
`from_noise`, `from_data` and `from_velocity` take the network ``network(t, x, *conditions)`` and
return a `score_fn`; `to_noise`, `to_data` and `to_velocity` take a `score_fn` and return the
prediction:

    noise = -std s,  x_0 = (x + v s) / a,  velocity = -(std / a) (x + (a^2 + v) s).
"""

from collections.abc import Callable

from jaxtyping import Array

from ctrl_jax._numerics import expand
from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes.base import LinearProcess


def from_noise(process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
    """Return the score function of a network that predicts the noise."""

    def score_fn(t, x, *conditions):
        return -network(t, x, *conditions) / expand(process.marginal(t).std, x)

    return score_fn


def from_data(process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
    """Return the score function of a network that predicts x_0."""

    def score_fn(t, x, *conditions):
        scale, std = process.marginal(t)
        return (expand(scale, x) * network(t, x, *conditions) - x) / expand(std**2, x)

    return score_fn


def from_velocity(process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
    """Return the score function of a network that predicts a * noise - std * x_0."""

    def score_fn(t, x, *conditions):
        scale, std = process.marginal(t)
        norm = scale**2 + std**2
        velocity = network(t, x, *conditions)
        return -(expand(scale / (std * norm), x) * velocity + x / expand(norm, x))

    return score_fn


def to_noise(process: LinearProcess, score_fn: ScoreFn) -> Callable[..., Array]:
    """Return the prediction of the noise that a score function stands for."""

    def noise(t, x, *conditions):
        return -expand(process.marginal(t).std, x) * score_fn(t, x, *conditions)

    return noise


def to_data(process: LinearProcess, score_fn: ScoreFn) -> Callable[..., Array]:
    """Return the prediction of x_0 that a score function stands for: the denoiser."""

    def data(t, x, *conditions):
        scale, std = process.marginal(t)
        return (x + expand(std**2, x) * score_fn(t, x, *conditions)) / expand(scale, x)

    return data


def to_velocity(process: LinearProcess, score_fn: ScoreFn) -> Callable[..., Array]:
    """Return the prediction of a * noise - std * x_0 that a score function stands for."""

    def velocity(t, x, *conditions):
        scale, std = process.marginal(t)
        score = score_fn(t, x, *conditions)
        return -expand(std / scale, x) * (x + expand(scale**2 + std**2, x) * score)

    return velocity
