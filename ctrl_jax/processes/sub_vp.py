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

from ctrl_jax._door import at_the_door
from ctrl_jax.processes.base import Marginal
from ctrl_jax.processes.schedules import NoiseSchedule, ScheduledProcess, schedule_of


class _OfSquaredVariance(ScheduledProcess):
    """What (1) and (2) share."""

    @at_the_door
    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return the scale a(t) and the standard deviation sqrt(v(t))."""
        growth = self._log_growth(t)
        return Marginal(jnp.exp(growth / 2), self.sign * jnp.expm1(growth))


class SubVP(_OfSquaredVariance):
    """Sub-VP: b = -beta/2, sigma^2 = beta (1 - e^{-2B}), a = e^{-B/2}, v = (1 - e^{-B})^2.

    Args:
        beta_min: noise rate at t = 0, per unit of time; 0.1 by default.
        beta_max: noise rate at t = horizon, per unit of time; 20 by default.
        horizon: T, in the process's unit of time; 1 by default.
        schedule: any `NoiseSchedule` in place of the linear one; it brings its horizon.

    Raises:
        ValueError: a rate or the horizon is not positive, or one is given beside a schedule.

    Source: Song et al. 2021, section 3.4.
    """

    sign = -1

    def __init__(
        self,
        beta_min: float | None = None,
        beta_max: float | None = None,
        *,
        horizon: float | None = None,
        schedule: NoiseSchedule | None = None,
    ):
        given = {"beta_min": beta_min, "beta_max": beta_max, "horizon": horizon}
        self.schedule = schedule_of(self, (0.1, 20.0), schedule, **given)


class ContractiveSubVP(_OfSquaredVariance):
    """Contractive sub-VP: b = beta/2, sigma^2 = beta (e^{2B} - 1), a = e^{B/2}, v = (e^B - 1)^2.

    Args:
        beta_min: noise rate at t = 0, per unit of time; 0.01 by default.
        beta_max: noise rate at t = horizon, per unit of time; 8 by default, far below that of
            `SubVP`, whose 20 would mean a prior std of 23155.
        horizon: T, in the process's unit of time; 1 by default.
        schedule: any `NoiseSchedule` in place of the linear one; it brings its horizon.

    Raises:
        ValueError: a rate or the horizon is not positive, one is given beside a schedule, or the
            growth to the horizon overflows.

    Source: arXiv 2401.13115, section 3.
    """

    sign = 1

    def __init__(
        self,
        beta_min: float | None = None,
        beta_max: float | None = None,
        *,
        horizon: float | None = None,
        schedule: NoiseSchedule | None = None,
    ):
        given = {"beta_min": beta_min, "beta_max": beta_max, "horizon": horizon}
        self.schedule = schedule_of(self, (0.01, 8.0), schedule, **given)
