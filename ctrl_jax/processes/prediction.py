r"""What the function that drives a sampler predicts, and what data and noise it stands for.

At time t the state is x = a d + s n, with data d, noise n, scale a and standard deviation s. Each
prediction p is affine in every other; with w = a s' - a' s, which is a \sigma^2 / (2 s),

    p               data               noise              dx/dt
    score           (x + s^2 p) / a    -s p               b x - \sigma^2 p / 2
    noise           (x - s p) / a      p                  b x + \sigma^2 p / (2 s)
    data            p                  (x - a p) / s      (s' x - w p) / s
    v = a n - s d   (a x - s p) / q    (s x + a p) / q    (q' x / 2 + w p) / q
    flow = dx/dt    (s' x - s p) / w   (a p - a' x) / w   p                                      (1)

with q = a^2 + s^2, and score = -noise / s. Where nothing of the data is left, a = 0, as at the
horizon of `RectifiedFlow` and of schedules of zero terminal SNR, score and noise do not tell of the
data, and the others do: all of (1) is finite there for them.

The part of dx/dt along x is the derivative of log l, with l = a, a, s, \sqrt q and 1.     (2)
"""

from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._checks import check_choice
from ctrl_jax._numerics import expand

Prediction = Literal["score", "noise", "data", "v", "flow"]
"""What a function ``f(t, x, *conditions)`` of x's shape returns."""

BLIND = ("score", "noise")
"""Predictions that say nothing of the data where the scale is zero."""


@runtime_checkable
class Linear(Protocol):
    """What is asked of a process here."""

    def marginal(self, t: Any) -> Any:
        """Return (a, s)."""
        ...

    def rates(self, t: Any) -> Any:
        """Return (a, s) and (a', s')."""
        ...

    def contraction_rate(self, t: Any) -> Any:
        """Return b."""
        ...

    def diffusion(self, t: Any) -> Any:
        """Return sigma."""
        ...


class Reading(NamedTuple):
    """The affine map (state x + action p) / over of a state and a prediction.

    Fields:
        state: of x, a number or one for each time.
        action: of the prediction.
        over: what both are divided by.
    """

    state: Any
    action: Any
    over: Any = 1.0

    def of(self, x: Array, p: Array) -> Array:
        """Return the value at a state and a prediction."""
        if self is ITSELF:
            return p
        total = expand(self.state, x) * x + expand(self.action, x) * p
        return total / expand(self.over, x)


ITSELF = Reading(0.0, 1.0)


def check_prediction(prediction: object) -> None:
    """Raise ValueError unless it is the name of a prediction."""
    check_choice("prediction", prediction, get_args(Prediction))


def read_data(process: Linear, t: Array, prediction: Prediction) -> Reading:
    """Return how the data are read of a state x and a prediction p.

    At time t the state is x = a d + s n, with data d, noise n, scale a and standard deviation s.
    The data are, by what p is,

        score          (x + s^2 p) / a
        noise          (x - s p) / a
        data           p
        v = a n - s d  (a x - s p) / q
        flow = dx/dt   (s' x - s p) / w

    with w = a s' - a' s and q = a^2 + s^2.

    Args:
        process: the forward process, which gives a, s and their derivatives.
        t: forward times.
        prediction: what is predicted, "score", "noise", "data", "v" or "flow".

    Returns:
        The coefficients of x and p, and what both are divided by.
    """
    if prediction == "data":
        return ITSELF
    if prediction == "flow":
        (scale, std), rate = process.rates(t)
        return Reading(rate.std, -std, scale * rate.std - rate.scale * std)
    scale, std = process.marginal(t)
    if prediction == "v":
        return Reading(scale, -std, scale**2 + std**2)
    return Reading(1.0, std**2 if prediction == "score" else -std, scale)


def read_noise(process: Linear, t: Array, prediction: Prediction) -> Reading:
    """Return how the noise is read of a state x and a prediction p.

    At time t the state is x = a d + s n, with data d, noise n, scale a and standard deviation s.
    The noise is, by what p is,

        score          -s p
        noise          p
        data           (x - a p) / s
        v = a n - s d  (s x + a p) / q
        flow = dx/dt   (a p - a' x) / w

    with w = a s' - a' s and q = a^2 + s^2.

    Args:
        process: the forward process, which gives a, s and their derivatives.
        t: forward times.
        prediction: what is predicted, "score", "noise", "data", "v" or "flow".

    Returns:
        The coefficients of x and p, and what both are divided by.
    """
    if prediction == "noise":
        return ITSELF
    if prediction == "flow":
        (scale, std), rate = process.rates(t)
        return Reading(-rate.scale, scale, scale * rate.std - rate.scale * std)
    scale, std = process.marginal(t)
    if prediction == "score":
        return Reading(0.0, -std)
    if prediction == "data":
        return Reading(1.0, -scale, std)
    return Reading(std, scale, scale**2 + std**2)


def read_score(process: Linear, t: Array, prediction: Prediction) -> Reading:
    """Return how the score is read of a state x and a prediction p, as -n / s of the noise n.

    At time t the state is x = a d + s n, with data d, noise n, scale a and standard deviation s.
    The score is, by what p is,

        score          p
        noise          -p / s
        data           (a p - x) / s^2
        v = a n - s d  -(s x + a p) / (q s)
        flow = dx/dt   (a' x - a p) / (w s)

    with w = a s' - a' s and q = a^2 + s^2.

    Args:
        process: the forward process, which gives a, s and their derivatives.
        t: forward times.
        prediction: what is predicted, "score", "noise", "data", "v" or "flow".

    Returns:
        The coefficients of x and p, and what both are divided by.
    """
    if prediction == "score":
        return ITSELF
    noise = read_noise(process, t, prediction)
    return Reading(-noise.state, -noise.action, noise.over * process.marginal(t).std)


def read_flow(process: Linear, t: Array, prediction: Prediction) -> Reading:
    """Return how the flow dx/dt is read of a state x and a prediction p.

    At time t the state is x = a d + s n, with data d, noise n, scale a and standard deviation s.
    The flow is, by what p is,

        score          b x - sigma^2 p / 2
        noise          b x + sigma^2 p / (2 s)
        data           (s' x - w p) / s
        v = a n - s d  (q' x / 2 + w p) / q
        flow = dx/dt   p

    with w = a s' - a' s, q = a^2 + s^2, b = a' / a and sigma^2 / 2 = w s / a.

    Args:
        process: the forward process, which gives a, s and their derivatives.
        t: forward times.
        prediction: what is predicted, "score", "noise", "data", "v" or "flow".

    Returns:
        The coefficients of x and p, and what both are divided by, which is 1.
    """
    if prediction == "flow":
        return ITSELF
    if prediction in BLIND:
        gain = process.diffusion(t) ** 2 / 2
        action = -gain if prediction == "score" else gain / process.marginal(t).std
        return Reading(process.contraction_rate(t), action)
    (scale, std), rate = process.rates(t)
    w = scale * rate.std - rate.scale * std
    if prediction == "data":
        return Reading(rate.std / std, -w / std)
    norm = scale**2 + std**2
    return Reading((scale * rate.scale + std * rate.std) / norm, w / norm)


def log_growth(process: Linear, t: Array, prediction: Prediction) -> Array:
    """Return log l, whose derivative in time is the factor of x in the flow dx/dt by `read_flow`.

    With the scale a and the standard deviation s of the process, l is a for score and noise, s for
    data, sqrt(a^2 + s^2) for v and 1 for the flow itself.

    Args:
        process: the forward process.
        t: forward times.
        prediction: what is predicted, "score", "noise", "data", "v" or "flow".
    """
    scale, std = process.marginal(t)
    if prediction == "flow":
        return jnp.zeros_like(scale)
    if prediction == "v":
        return jnp.log(scale**2 + std**2) / 2
    return jnp.log(std if prediction == "data" else scale)


def read_drift(
    process: Linear,
    t: Array,
    prediction: Prediction,
    noise_level: float,
    sigma: Array | None = None,
) -> Reading:
    """Return the drift in reverse time of a noise level l, -dx/dt + l^2 sigma^2 score / 2.

    Args:
        process: the forward process.
        t: forward times.
        prediction: what is predicted.
        noise_level: l of the reversal; without noise the drift is finite also where a = 0.
        sigma: diffusion coefficient, the process's own by default.
    """

    def rate():
        return (process.diffusion(t) if sigma is None else sigma) ** 2

    if prediction == "score":
        gain = (1 + noise_level**2) / 2 * rate()
        return Reading(-process.contraction_rate(t), gain)
    flow = read_flow(process, t, prediction)
    if noise_level == 0:
        return Reading(-flow.state, -flow.action)
    score = read_score(process, t, prediction)
    gain = noise_level**2 / 2 * rate() / score.over
    return Reading(gain * score.state - flow.state, gain * score.action - flow.action)
