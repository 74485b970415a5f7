r"""The sub-variance-preserving process, and its contractive twin.

With a noise rate \beta and its integral B (`schedules`),

    sub-VP:              b = -\beta/2,  \sigma^2 = \beta (1 - e^{-2B}),
                         a = e^{-B/2},  v = (1 - e^{-B})^2;                              (1)
    contractive sub-VP:  b = +\beta/2,  \sigma^2 = \beta (e^{2B} - 1),
                         a = e^{B/2},   v = (e^B - 1)^2.                                 (2)

Under one Brownian motion (2) is e^B times (1), path by path, since (e^B Y)' adds \beta e^B Y to
the drift -\beta/2 e^B Y and e^{2B} \beta (1 - e^{-2B}) is the variance rate of (2). The
noise-to-signal ratio of both is 2 \sinh(B/2).

Source: Song et al. 2021; arXiv 2401.13115, section 3.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import require_bounded_growth
from ctrl_jax._numerics import square_root
from ctrl_jax.processes.base import Marginal
from ctrl_jax.processes.schedules import NoiseSchedule, ScheduledProcess, linear_schedule


class SubVP(ScheduledProcess):
    """Sub-variance-preserving process (1), on a linear noise rate.

    Args:
        beta_min: noise rate at t = 0, per unit of time.
        beta_max: noise rate at t = horizon, per unit of time.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: a rate or the horizon is not positive.
    """

    schedule: NoiseSchedule

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, *, horizon: float = 1.0):
        self.schedule = linear_schedule(self, beta_min, beta_max, horizon)

    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b(t) = -beta(t) / 2."""
        return -self.schedule.rate(jnp.asarray(t)) / 2

    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sqrt(beta (1 - exp(-2B)))."""
        t = jnp.asarray(t)
        return square_root(self.schedule.rate(t) * -jnp.expm1(-2 * self.schedule.integral(t)))

    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a(t) = exp(-B/2) and the std 1 - exp(-B)."""
        integral = self.schedule.integral(jnp.asarray(t))
        return Marginal(jnp.exp(-integral / 2), -jnp.expm1(-integral))

    def prior_std(self) -> Float[Array, ""]:
        """Return 1."""
        return jnp.ones(())


class ContractiveSubVP(ScheduledProcess):
    """Contractive sub-variance-preserving process (2); its state grows like exp(B).

    Args:
        beta_min: noise rate at t = 0, per unit of time.
        beta_max: noise rate at t = horizon, per unit of time; far below that of `SubVP`, whose
            20 would mean a prior std of 23155.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: a rate or the horizon is not positive, or the growth to the horizon overflows.
    """

    schedule: NoiseSchedule

    def __check_init__(self):
        self._check_growth()

    def _check_growth(self):
        end = jnp.asarray(self.horizon)
        log_rate = jnp.maximum(jnp.log(self.schedule.rate(end)), 0.0)
        require_bounded_growth("ContractiveSubVP", 2 * self.schedule.integral(end) + log_rate)

    def __init__(self, beta_min: float = 0.01, beta_max: float = 8.0, *, horizon: float = 1.0):
        self.schedule = linear_schedule(self, beta_min, beta_max, horizon)

    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b(t) = beta(t) / 2."""
        return self.schedule.rate(jnp.asarray(t)) / 2

    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sqrt(beta (exp(2B) - 1))."""
        t = jnp.asarray(t)
        return square_root(self.schedule.rate(t) * jnp.expm1(2 * self.schedule.integral(t)))

    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a(t) = exp(B/2) and the std exp(B) - 1."""
        integral = self.schedule.integral(jnp.asarray(t))
        return Marginal(jnp.exp(integral / 2), jnp.expm1(integral))

    def prior_std(self) -> Float[Array, ""]:
        """Return the std exp(B(T)) - 1 at the horizon."""
        return self.marginal(jnp.asarray(self.horizon)).std
