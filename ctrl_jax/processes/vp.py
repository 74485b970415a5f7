r"""The variance-preserving process, and its contractive twin with the drift's sign turned.

With a noise rate \beta and its integral B (`schedules`), \sigma^2 = \beta and

    VP:              b = -\beta/2,  a = e^{-B/2},  v = 1 - e^{-B};                       (1)
    contractive VP:  b = +\beta/2,  a = e^{B/2},   v = e^B - 1.                          (2)

The signal is never lost in (2): its noise-to-signal ratio tends to 1, not to infinity. In (1) it
may be lost at the horizon, on a schedule whose B has no bound there (zero terminal SNR): samplers
then start at pure noise itself, with a network that predicts v, the flow or the data.

Source: Song et al. 2021; arXiv 2402.07487, section 2; arXiv 2401.13115, section 3.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import square_root
from ctrl_jax.processes.base import Marginal
from ctrl_jax.processes.schedules import NoiseSchedule, ScheduledProcess, schedule_of


class _OfUnitRate(ScheduledProcess):
    """What (1) and (2) share."""

    @at_the_door
    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sqrt(beta(t)); the std's own derivative is infinite at t = 0."""
        return jnp.sqrt(self.schedule.rate(jnp.asarray(t)))

    @at_the_door
    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return the scale a(t) and the standard deviation sqrt(v(t))."""
        growth = self._log_growth(t)
        return Marginal(jnp.exp(growth / 2), square_root(self.sign * jnp.expm1(growth)))


class VP(_OfUnitRate):
    """Variance-preserving process: b = -beta/2, sigma^2 = beta, a = e^{-B/2}, v = 1 - e^{-B}.

    Args:
        beta_min: noise rate at t = 0, per unit of time; 0.1 by default.
        beta_max: noise rate at t = horizon, per unit of time; 20 by default.
        horizon: T, in the process's unit of time; 1 by default.
        schedule: any `NoiseSchedule` in place of the linear one; it brings its horizon.

    Raises:
        ValueError: a rate or the horizon is not positive, or one is given beside a schedule.

    Source: Song et al. 2021, eq. 11.
    """

    sign = -1
    may_vanish = True

    def rates(self, t: Float[Array, "*t"]) -> tuple[Marginal, Marginal]:
        """Return the marginal and its derivative in time, finite at a = 0 too."""
        if not self.schedule.vanishes:
            return super().rates(t)
        scale, std = marginal = self.marginal(t)
        fall = self.schedule.fall(t)
        return marginal, Marginal(-fall, scale * fall / std)

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


class ContractiveVP(_OfUnitRate):
    """Contractive VP: b = beta/2, sigma^2 = beta, a = e^{B/2}, v = e^B - 1.

    Args:
        beta_min: noise rate at t = 0, per unit of time; 0.01 by default.
        beta_max: noise rate at t = horizon, per unit of time; 8 by default, far below that of `VP`,
            since B = 10 already means a prior std of 148.
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
