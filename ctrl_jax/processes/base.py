r"""Linear forward SDEs, their marginals and their time reversal.

Every process of the library is linear with scalar coefficients,

    dX = b(t) X dt + \sigma(t) dB,  0 <= t <= T,                                     (1)

so that X_t given x_0 is N(a(t) x_0, v(t) I) with a' = b a and v' = 2 b v + \sigma^2   (2)

and a(0) = 1, v(0) = 0 (`VE` and `EDM` have variants that start elsewhere, and say so). A process is
its a and v: the coefficients follow from (2) by automatic differentiation,

    b = a' / a,   \sigma^2 = 2 \sqrt{v} (\sqrt{v}' - b \sqrt{v}),                      (3)

and a process writes them out only where (3) would lose digits, as where \sqrt{v}' is infinite.
Likewise X_t given X_s has the scale a_t / a_s and the variance v_t - (a_t / a_s)^2 v_s.

Read backwards in r = T - t with the score s of the law at time t (Anderson 1982; Song et al. 2021),
the SDE of noise level l,

    dX = [-b X + (1 + l^2) / 2 \sigma^2 s(T-r, X)] dr + l \sigma dB,                  (4)

has the same marginals whatever l >= 0: l = 1 is the reversal of (1), l = 0 the probability flow.
Whatever a network predicts in place of the score drives the same equation (`prediction`).

Source: arXiv 2402.07487, sections 2-3.
"""

import abc
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import check_non_negative, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import expand, square_root, times
from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes.prediction import (
    Prediction,
    check_prediction,
    read_data,
    read_drift,
    read_noise,
    read_score,
)

_FIRST = 1e-12  # time that `time_at` finds, in units of the last


class Marginal(NamedTuple):
    """Law of X_t given x_0, or given an earlier state: N(scale * x_0, std**2 I)."""

    scale: Float[Array, "*t"]
    std: Float[Array, "*t"]


class LinearProcess(eqx.Module):
    """Interface of the forward SDEs dX = b(t) X dt + sigma(t) dB; times are in [0, `horizon`].

    X_t given x_0 is N(a(t) x_0, v(t) I) with a' = b a and v' = 2 b v + sigma^2. A process gives its
    `horizon` and its `marginal` (a and sqrt(v)), and its `prior_std` where that is not the std at
    the horizon; the rest follows, b = a' / a and sigma^2 = 2 sqrt(v) (sqrt(v)' - b sqrt(v)).

    Source: arXiv 2402.07487, sections 2-3.
    """

    horizon: eqx.AbstractVar[float]

    @abc.abstractmethod
    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return the scale a(t) and the standard deviation sqrt(v(t)) of X_t given x_0."""

    def prior_std(self) -> Float[Array, ""]:
        """Return the standard deviation of the centered Gaussian that sampling starts from."""
        return self.marginal(jnp.asarray(self.horizon, float)).std

    @property
    def latest(self) -> Any:
        """The last time at which the score tells of the data: the horizon, unless a(T) = 0."""
        return self.horizon

    @property
    def end(self) -> Any:
        """The forward time at which sampling ends unless it is told.

        A thousandth of the horizon where all rates go by the horizon. Samples keep the noise of
        this time: a process with rates in a unit of their own gives a time in that unit.
        """
        return 1e-3 * self.horizon

    def forward_time(
        self, r: Float[Array, "*t"], prediction: Prediction = "score"
    ) -> Float[Array, "*t"]:
        """Return the forward time T - r of a reverse time, as it is read for a prediction.

        Args:
            r: reverse times.
            prediction: what is asked there: `RectifiedFlow` reads scores at `latest` at the latest.
        """
        return self.horizon - times(r)

    def rates(self, t: Float[Array, "*t"]) -> tuple[Marginal, Marginal]:
        """Return the marginal and its derivative in time, (a', sqrt(v)')."""
        t = times(t)
        return jax.jvp(self.marginal, (t,), (jnp.ones_like(t),))

    @at_the_door
    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b(t), also the contraction rate r_b of the backward drift (2401.13115)."""
        marginal, rate = self.rates(t)
        return rate.scale / marginal.scale

    @at_the_door
    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the diffusion coefficient sigma(t)."""
        (scale, std), rate = self.rates(t)
        return square_root(2 * std * (rate.std - rate.scale / scale * std))

    @at_the_door
    def transition(self, s: Float[Array, "..."], t: Float[Array, "..."]) -> Marginal:
        """Return scale and std of X_t given X_s, for times s <= t with s not after `latest`."""
        (scale_s, std_s), (scale, std) = self.marginal(s), self.marginal(t)
        gain = scale / scale_s
        kept = jnp.minimum(gain * std_s, std)
        return Marginal(gain, square_root(std - kept) * square_root(std + kept))

    @at_the_door
    def drift(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return b(t) x; t broadcasts against the leading axes of x."""
        _check_times(t, x)
        return expand(self.contraction_rate(t), x) * x

    @at_the_door
    def noise_to_signal(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return std / scale, which grows with t for every process."""
        scale, std = self.marginal(t)
        return std / scale

    @at_the_door
    def time_at(self, ratio: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the time at which std / scale is `ratio`: the inverse of `noise_to_signal`.

        By bisection, differentiable; a ratio that is never reached gets the nearest time.

        Args:
            ratio: noise-to-signal ratios, of any shape.
        """
        return _time_at(self, times(ratio))

    @at_the_door
    def time_beyond(self, ratio: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return `time_at(ratio)`, past the horizon where the process itself goes on there.

        Args:
            ratio: noise-to-signal ratios, of any shape.
        """
        return self.time_at(ratio)

    @at_the_door
    def unscale(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return x / a(0): samples in units of the data. Only a scaled `EDM` has a(0) != 1."""
        x = jnp.asarray(x)
        return x / self.marginal(jnp.asarray(0.0)).scale.astype(x.dtype)

    @at_the_door
    def sample_marginal(
        self, key: Array, x_0: Float[Array, "..."], t: Float[Array, "*t"]
    ) -> tuple[Array, Array]:
        """Draw X_t given x_0.

        Args:
            key: PRNG key.
            x_0: data, shape (batch, ...).
            t: forward times, shape () or (batch,).

        Returns:
            x_t and the standard normal noise it was made with, both of x_0's shape.
        """
        _check_times(t, x_0)
        noise = jax.random.normal(key, x_0.shape, x_0.dtype)
        scale, std = self.marginal(t)
        return expand(scale, x_0) * x_0 + expand(std, x_0) * noise, noise

    def reverse(
        self, score_fn: ScoreFn, *, noise_level: float = 1.0, prediction: Prediction = "score"
    ) -> "ReverseSDE":
        """Return the reverse-time SDE that a score drives, of the same marginals at every level.

        dX = [-b X + (1 + l^2) / 2 sigma^2 s(T - r, X)] dr + l sigma dB in reverse time r, with the
        score s and b and sigma of the process at the forward time T - r.

        Args:
            score_fn: ``score_fn(t, x)``, t the forward time; its result must have x's shape, or the
                first evaluation raises a ValueError.
            noise_level: l: 1 for the reversal of the process, 0 for its probability flow.
            prediction: what `score_fn` returns, "score", "noise", "data", "v" or "flow".

        Raises:
            ValueError: the noise level is negative or not finite, or the prediction is not known.
        """
        return ReverseSDE(self, _of_one_shape(score_fn), noise_level, prediction)


def end_of_rate(horizon: Any, rate: Any) -> Any:
    """Return the time at which noise of a variance rate reaches the std 0.01.

    At most a thousandth of the horizon, and a time that float32 tells from zero on the way there.
    """
    return max(min(1e-3 * horizon, 1e-4 / rate), 2.5e-5 * horizon)


@eqx.filter_jit
def _time_at(process: LinearProcess, ratio: Array) -> Array:
    ends = jnp.asarray([_FIRST * process.latest, process.latest], ratio.dtype)
    ratio = jnp.clip(ratio, *process.noise_to_signal(ends))

    def halve(_, bracket):
        low, high = bracket
        middle = low * jnp.sqrt(high / low)
        below = process.noise_to_signal(middle) < ratio
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bracket = tuple(jnp.broadcast_to(end, ratio.shape) for end in ends)
    halvings = jnp.finfo(ratio.dtype).nmant + math.ceil(math.log2(-math.log(_FIRST)))
    t = jax.lax.stop_gradient(jax.lax.fori_loop(0, halvings, halve, bracket)[1])
    # The value stands, the derivative is Newton's step's, as (log std / a)' = sigma^2 / (2 v).
    speed = process.diffusion(t) ** 2 / (2 * process.marginal(t).std ** 2)
    step = (jnp.log(ratio) - jnp.log(process.noise_to_signal(t))) / speed
    return t + step - jax.lax.stop_gradient(step)


def _level(value: Any) -> float:
    if isinstance(value, Tracer):
        rule = "it decides whether a program draws noise, so it is known before one is traced"
        raise refuse("noise_level", "a traced value", rule, "give a plain number, one per program")
    check_non_negative("noise_level", value)
    return float(value)


class ReverseSDE(eqx.Module):
    """The SDE of a process in reverse time r = horizon - t, which a score drives.

    dX = [-b X + (1 + l^2) / 2 sigma^2 s(t, X)] dr + l sigma dB, with b and sigma of the process at
    t, the score s of its law and the noise level l.

    Args:
        process: the forward process.
        predict: ``predict(t, x)``, t the forward time: the score, or what `prediction` says.
        noise_level: l, zero or above: 1 for the reversal of the process, 0 for its probability
            flow; every level has the same marginals.
        prediction: what `predict` returns, "score", "noise", "data", "v" or "flow".

    Raises:
        ValueError: the noise level is negative, not finite or traced, or the prediction is not
            known.

    Source: Anderson 1982; Song et al. 2021.
    """

    process: LinearProcess
    predict: ScoreFn
    noise_level: float = eqx.field(default=1.0, static=True, converter=_level)
    prediction: Prediction = eqx.field(default="score", static=True)

    def __check_init__(self):
        check_prediction(self.prediction)

    @property
    def stochastic(self) -> bool:
        """Whether there is noise."""
        return self.noise_level > 0

    def probability_flow(self) -> "ReverseSDE":
        """Return the probability-flow ODE, the level 0, of the same process and prediction."""
        return ReverseSDE(self.process, self.predict, 0.0, self.prediction)

    def forward_time(self, r: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the forward time of a reverse time, as its prediction is asked there."""
        return self.process.forward_time(r, self.prediction)

    def score_fn(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the score that the prediction stands for, at forward time t > 0."""
        return read_score(self.process, t, self.prediction).of(x, self.predict(t, x))

    def data(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the data that the prediction stands for."""
        return read_data(self.process, t, self.prediction).of(x, self.predict(t, x))

    def noise(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the noise that the prediction stands for."""
        return read_noise(self.process, t, self.prediction).of(x, self.predict(t, x))

    @at_the_door
    def drift(self, r: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the drift -b x + (1 + l^2) / 2 sigma^2 s at reverse time r."""
        _check_times(r, x)
        t = self.forward_time(r)
        read = read_drift(self.process, t, self.prediction, self.noise_level)
        return expand(read.action, x) * self.predict(t, x) + expand(read.state, x) * x

    @at_the_door
    def diffusion(self, r: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the diffusion coefficient l sigma at reverse time r, zero for the flow."""
        t = self.forward_time(r)
        return (
            self.noise_level * self.process.diffusion(t) if self.stochastic else jnp.zeros_like(t)
        )


def _check_times(t: Array, x: Array) -> None:
    """Raise ValueError unless times broadcast against the leading axes of states."""
    fits = t.ndim <= x.ndim and all(n in (1, m) for n, m in zip(t.shape, x.shape, strict=False))
    if not fits:
        rule = f"it must be one time, or one for each of states {list(x.shape)}"
        raise refuse("t", t, rule, "give shape () or (batch,)")


def _of_one_shape(score_fn: ScoreFn) -> ScoreFn:
    """Return the score function, which raises ValueError rather than broadcast."""

    def checked(t, x):
        score = score_fn(t, x)
        if jnp.shape(score) != jnp.shape(x):
            raise refuse(
                "score_fn",
                jnp.shape(score),
                f"the score must have x's shape {jnp.shape(x)}",
                "return one value per coordinate",
            )
        return score

    return checked
