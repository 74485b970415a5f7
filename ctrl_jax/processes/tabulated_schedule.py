r"""Noise schedules given as a table of discrete steps, Stable Diffusion's among them.

A discrete process of N steps with betas \beta_k keeps the signal \bar\alpha_k = \prod_{i <= k}
(1 - \beta_i) of the variance after step k. In continuous time it is a variance-preserving process
whose integrated rate passes through these values,

    B(t_k) = -log \bar\alpha_k   at   t_k = T (k + 1) / N,  k = 0 .. N - 1,  B(0) = 0,       (1)

on straight lines in between, so that the rate is constant over a step. Between tabulated times a
sampler's steps see (1) only: they are those of the discrete process.

    linear:          \beta_k evenly spaced                       (Ho et al. 2020),           (2)
    scaled linear:   \sqrt{\beta_k} evenly spaced                (Rombach et al. 2022),      (3)
    squared cosine:  \beta_k = min(1 - f((k + 1) / N) / f(k / N), \beta_max),
                     f(u) = cos^2((u + .008) / 1.008 \pi / 2)    (Nichol, Dhariwal 2021).    (4)
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, check_count, refuse
from ctrl_jax._door import at_the_door, read_real
from ctrl_jax._numerics import times
from ctrl_jax.processes.schedules import NoiseSchedule


class TabulatedSchedule(NoiseSchedule):
    """The schedule (1) through the betas of a discrete process.

    Args:
        betas: share of the variance that each step replaces by noise, shape (N,), in (0, 1),
            concrete.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: betas is no vector, one of them is outside (0, 1), the horizon is not positive.
    """

    integrals: tuple[float, ...] = eqx.field(static=True, repr=False)  # B at the knots, 0 first
    horizon: float

    def __init__(self, betas: Sequence[float] | np.ndarray | Array, *, horizon: float = 1.0):
        check_all_positive("TabulatedSchedule", horizon=horizon)
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise refuse("betas", betas.shape, "they must be a vector", "give one per step")
        outside = ~((betas > 0) & (betas < 1))
        if outside.any():
            k = int(outside.argmax())
            repair = "give the share of the variance that the step replaces"
            if betas[k] == 1:
                repair = "a beta of 1 (zero terminal SNR) has no B: give one just below, as 0.9999"
            raise refuse(f"betas[{k}]", betas[k], "each must lie in (0, 1)", repair)
        self.integrals = (0.0, *np.cumsum(-np.log1p(-betas)).tolist())
        self.horizon = horizon

    @classmethod
    def linear(
        cls, start: float = 1e-4, end: float = 0.02, steps: int = 1000, *, horizon: float = 1.0
    ) -> "TabulatedSchedule":
        """Return the schedule (2) of DDPM, betas evenly spaced from `start` to `end`."""
        check_count("steps", steps, most=10**6)
        return cls(np.linspace(start, end, steps), horizon=horizon)

    @classmethod
    def scaled_linear(
        cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000, *, horizon: float = 1.0
    ) -> "TabulatedSchedule":
        """Return the schedule (3), Stable Diffusion's: roots of betas evenly spaced."""
        check_count("steps", steps, most=10**6)
        check_all_positive("scaled_linear", start=start, end=end)
        return cls(np.linspace(start**0.5, end**0.5, steps) ** 2, horizon=horizon)

    @classmethod
    def squared_cosine(
        cls, steps: int = 1000, *, beta_max: float = 0.999, horizon: float = 1.0
    ) -> "TabulatedSchedule":
        """Return the schedule (4) of improved DDPM, with betas up to `beta_max`."""
        check_count("steps", steps, most=10**6)
        signal = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return cls(np.minimum(1 - signal[1:] / signal[:-1], beta_max), horizon=horizon)

    @property
    def steps(self) -> int:
        """N, the number of discrete steps."""
        return len(self.integrals) - 1

    def time_of(self, index: Any) -> Float[Array, "*t"]:
        """Return the time t_k of (1) of a discrete step k, a number or an array."""
        return (read_real("index", index) + 1) * (self.horizon / self.steps)

    @at_the_door
    def index_of(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the discrete step k of a time, what a network of the discrete process is given."""
        return times(t) * (self.steps / self.horizon) - 1

    @at_the_door
    def rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return beta(t), constant over each step."""
        t = times(t)
        k = jnp.clip((t * (self.steps / self.horizon)).astype(int), 0, self.steps - 1)
        rates = jnp.diff(jnp.asarray(self.integrals, t.dtype)) * (self.steps / self.horizon)
        return rates[k]

    @at_the_door
    def integral(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return B(t) of (1)."""
        t = times(t)
        # Half precision cannot tell a thousand steps apart.
        wide = t.dtype if jnp.finfo(t.dtype).bits >= 32 else jnp.float32
        knots, values = jnp.arange(self.steps + 1, dtype=wide), jnp.asarray(self.integrals, wide)
        place = t.astype(wide) * (self.steps / self.horizon)
        return jnp.interp(place, knots, values).astype(t.dtype)
