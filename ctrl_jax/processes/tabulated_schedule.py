r"""Noise schedules given as a table of discrete steps, Stable Diffusion's among them.

A discrete process with betas \beta_k keeps the signal \prod_{i <= k} (1 - \beta_i) of the variance
after step k; in continuous time it is a variance-preserving process whose integrated rate passes
through minus the logarithms of these values. With straight lines in between the rate is constant
over a step, and between tabulated times a sampler's steps see only the tabulated values: they are
those of the discrete process.

Discrete samplers that ask between the steps have straight lines of the noise-to-signal ratio
n = \sqrt{e^B - 1} there (``between="ratio"``), as k-diffusion's do, or of its logarithm where times
are found by it (``between="log_ratio"``; before the first step of n itself).

Source: Ho et al. 2020 (linear); Rombach et al. 2022 (scaled linear); Nichol and Dhariwal 2021
(squared cosine); Lin et al. 2023, algorithm 1 (zero terminal SNR).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, check_choice, check_count, refuse
from ctrl_jax._door import at_the_door, read_host, read_real
from ctrl_jax._numerics import times
from ctrl_jax.processes.schedules import NoiseSchedule

Between = Literal["integral", "ratio", "log_ratio"]


class TabulatedSchedule(NoiseSchedule):
    """Noise schedule through the betas of a discrete process.

    A discrete process of N steps keeps the signal A_k = prod_{i <= k} (1 - beta_i) of the variance
    after step k. In continuous time its integrated rate passes through these values,

        B(t_k) = -log A_k   at   t_k = T (k + 1) / N,  k = 0 .. N - 1,   B(0) = 0.

    In between there are straight lines of B, or of what `between` says. Over a last step of beta 1
    (zero terminal SNR, for `VP`) the scale a = e^{-B/2} is straight, down to 0.

    Args:
        betas: share of the variance that each step replaces by noise, shape (N,), in (0, 1),
            concrete; the last may be 1.
        horizon: T, in the process's unit of time.
        between: what has straight lines between the steps: "integral" for B, whose rate is constant
            over a step; "ratio" for the noise-to-signal ratio n = sqrt(e^B - 1), as in k-diffusion;
            "log_ratio" for its logarithm, and n itself over the first step.

    Raises:
        ValueError: betas is no vector, one of them is outside (0, 1) and is no last one of 1, the
            horizon is not positive, there is no such `between`, or a last beta of 1 comes with
            another than ``between="integral"``.
    """

    integrals: tuple[float, ...] = eqx.field(static=True, repr=False)  # B at the knots, 0 first
    horizon: float
    between: Between = eqx.field(static=True)

    def __init__(
        self,
        betas: Sequence[float] | np.ndarray | Array,
        *,
        horizon: float = 1.0,
        between: Between = "integral",
    ):
        check_all_positive("TabulatedSchedule", horizon=horizon)
        check_choice("between", between, get_args(Between))
        betas = read_host("betas", betas)
        if betas.ndim != 1 or betas.size == 0:
            raise refuse("betas", betas.shape, "they must be a vector", "give one per step")
        outside = ~((betas > 0) & (betas < 1))
        outside[-1] &= betas[-1] != 1
        if outside.any():
            k = int(outside.argmax())
            repair = "give the share of the variance that the step replaces"
            rule = "each must lie in (0, 1), and the last may be 1"
            raise refuse(f"betas[{k}]", betas[k], rule, repair)
        with np.errstate(divide="ignore"):
            self.integrals = (0.0, *np.cumsum(-np.log1p(-betas)).tolist())
        self.horizon, self.between = horizon, between
        if self.vanishes and between != "integral":
            rule = "the ratio has no bound at a last beta of 1"
            raise refuse("between", between, rule, 'give "integral", or a last beta below 1')

    @classmethod
    def linear(
        cls, start: float = 1e-4, end: float = 0.02, steps: int = 1000, *, horizon: float = 1.0
    ) -> "TabulatedSchedule":
        """Return the schedule of DDPM, betas evenly spaced from `start` to `end`.

        Args:
            start: the first beta.
            end: the last; at 1 nothing of the signal is left.
            steps: number of steps N.
            horizon: T, in the process's unit of time.

        Raises:
            ValueError: steps is below 1, the horizon is not positive, or a beta is outside (0, 1),
                where the last may be 1.

        Source: Ho et al. 2020.
        """
        check_count("steps", steps, most=10**6)
        return cls(np.linspace(start, end, steps), horizon=horizon)

    @classmethod
    def scaled_linear(
        cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000, *, horizon: float = 1.0
    ) -> "TabulatedSchedule":
        """Return the schedule of Stable Diffusion, whose roots sqrt(beta_k) are evenly spaced.

        Args:
            start: the first beta, positive.
            end: the last, positive; at 1 nothing of the signal is left.
            steps: number of steps N.
            horizon: T, in the process's unit of time.

        Raises:
            ValueError: steps is below 1, the horizon is not positive, or a beta is outside (0, 1),
                where the last may be 1.

        Source: Rombach et al. 2022.
        """
        check_count("steps", steps, most=10**6)
        check_all_positive("scaled_linear", start=start, end=end)
        return cls(np.linspace(start**0.5, end**0.5, steps) ** 2, horizon=horizon)

    @classmethod
    def squared_cosine(
        cls, steps: int = 1000, *, beta_max: float = 0.999, horizon: float = 1.0
    ) -> "TabulatedSchedule":
        """Return the schedule of improved DDPM, a squared cosine with betas up to `beta_max`.

        beta_k = min(1 - f((k + 1) / N) / f(k / N), beta_max) for k = 0 .. N - 1, with
        f(u) = cos^2((u + .008) / 1.008 pi / 2).

        Args:
            steps: number of steps N.
            beta_max: the largest beta.
            horizon: T, in the process's unit of time.

        Raises:
            ValueError: steps is below 1, the horizon is not positive, or a beta is outside (0, 1),
                where the last may be 1.

        Source: Nichol and Dhariwal 2021.
        """
        check_count("steps", steps, most=10**6)
        signal = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return cls(np.minimum(1 - signal[1:] / signal[:-1], beta_max), horizon=horizon)

    def of_zero_terminal_snr(self) -> "TabulatedSchedule":
        """Return the schedule rescaled so that nothing of the signal is left after the last step.

        Its scales after the steps k = 0 .. N - 1 are (a_k - a_{N-1}) a_0 / (a_0 - a_{N-1}), of the
        scales a_k = e^{-B(t_k)/2} of this one.

        Raises:
            ValueError: there is one step only.

        Source: Lin et al. 2023 (arXiv 2305.08891), algorithm 1.
        """
        if self.steps < 2:
            raise refuse("number of betas", 1, "its first step is its last", "give two or more")
        scale = np.exp(-np.asarray(self.integrals[1:]) / 2)
        scale = (scale - scale[-1]) * scale[0] / (scale[0] - scale[-1])
        signal = np.concatenate([[1.0], scale**2])
        return TabulatedSchedule(1 - signal[1:] / signal[:-1], horizon=self.horizon)

    @property
    def vanishes(self) -> bool:
        """Whether the last beta is 1."""
        return self.integrals[-1] == math.inf

    @property
    def latest(self) -> Any:
        """The horizon; for a last beta of 1 the time of scale 2^{-12}, or of half the last step."""
        if not self.vanishes:
            return self.horizon
        share = min(0.5, 2.0**-12 * math.exp(self.integrals[-2] / 2))
        return self.horizon * (1 - share / self.steps)

    @property
    def steps(self) -> int:
        """N, the number of discrete steps."""
        return len(self.integrals) - 1

    def time_of(self, index: Any) -> Float[Array, "*t"]:
        """Return the time t_k = T (k + 1) / N of a discrete step k, a number or an array."""
        return (read_real("index", index) + 1) * (self.horizon / self.steps)

    @at_the_door
    def index_of(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the discrete step k of a time, what a network of the discrete process is given."""
        return times(t) * (self.steps / self.horizon) - 1

    @at_the_door
    def rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return beta(t), constant over each step but for those of straight lines of another."""
        t = times(t)
        place, k = self._place(t)
        per_time = self.steps / self.horizon
        if self.between != "integral":
            ratio, slope = self._ratio(place, k)
            return 2 * ratio * slope / (1 + ratio**2) * per_time
        rates = jnp.diff(jnp.asarray(self._finite(), t.dtype)) * per_time
        if not self.vanishes:
            return rates[k]
        return jnp.where(k == self.steps - 1, 2 * per_time / (self.steps - place), rates[k])

    @at_the_door
    def integral(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return B(t), the integral of beta from 0 to t."""
        t = times(t)
        # Half precision cannot tell a thousand steps apart.
        wide = t.astype(t.dtype if jnp.finfo(t.dtype).bits >= 32 else jnp.float32)
        place, k = self._place(wide)
        if self.between != "integral":
            return jnp.log1p(self._ratio(place, k)[0] ** 2).astype(t.dtype)
        values = jnp.asarray(self._finite(), wide.dtype)
        found = jnp.interp(place, self._numbers(wide), values)
        if self.vanishes:
            last = k == self.steps - 1
            left = jnp.where(last, self.steps - place, 1.0)
            found = jnp.where(last, values[-2] - 2 * jnp.log(left), found)
        return found.astype(t.dtype)

    @at_the_door
    def fall(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return beta e^{-B/2} / 2, constant over a last step to nothing."""
        if not self.vanishes:
            return super().fall(t)
        t = times(t)
        last = self._place(t)[1] == self.steps - 1
        before = super().fall(jnp.where(last, 0.0, t))
        scale = math.exp(-self.integrals[-2] / 2)
        return jnp.where(last, scale * self.steps / self.horizon, before)

    def _place(self, t: Array) -> tuple[Array, Array]:
        """Return the place in units of steps, and the step."""
        place = t * (self.steps / self.horizon)
        return place, jnp.clip(place.astype(int), 0, self.steps - 1)

    def _numbers(self, t: Array) -> Array:
        return jnp.arange(self.steps + 1, dtype=t.dtype)

    def _finite(self) -> tuple[float, ...]:
        """B at the knots, the one before the last again in the place of an infinite last one."""
        return (*self.integrals[:-1], self.integrals[-2]) if self.vanishes else self.integrals

    def _ratio(self, place: Array, k: Array) -> tuple[Array, Array]:
        """Return n and its derivative per step."""
        knots = jnp.asarray(np.sqrt(np.expm1(self.integrals)), place.dtype)
        low, high, part = knots[k], knots[k + 1], place - k.astype(place.dtype)
        straight = low + part * (high - low), high - low
        if self.between == "ratio":
            return straight
        growth = jnp.log(high / jnp.where(k == 0, high, low))
        curved = low * jnp.exp(part * growth)
        first = k == 0
        return jnp.where(first, straight[0], curved), jnp.where(first, straight[1], growth * curved)
