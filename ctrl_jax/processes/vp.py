r"""The variance-preserving process, and its contractive twin with the drift's sign turned.

With a noise rate \beta and its integral B (`schedules`), \sigma^2 = \beta and

    VP:              b = -\beta/2,  a = e^{-B/2},  v = 1 - e^{-B};                       (1)
    contractive VP:  b = +\beta/2,  a = e^{B/2},   v = e^B - 1.                          (2)

The signal is never lost in (2): its noise-to-signal ratio tends to 1, not to infinity.

Source: Song et al. 2021; arXiv 2402.07487, section 2; arXiv 2401.13115, section 3.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import require_bounded_growth
from ctrl_jax._numerics import square_root
from ctrl_jax.processes.base import Marginal
from ctrl_jax.processes.schedules import NoiseSchedule, ScheduledProcess, linear_schedule


class VP(ScheduledProcess):
    """Variance-preserving process (1), on a linear noise rate; `VP.cosine` for the cosine one.

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
        """Return sqrt(beta(t))."""
        return jnp.sqrt(self.schedule.rate(jnp.asarray(t)))

    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a(t) = exp(-B/2) and the std sqrt(1 - exp(-B))."""
        integral = self.schedule.integral(jnp.asarray(t))
        return Marginal(jnp.exp(-integral / 2), square_root(-jnp.expm1(-integral)))

    def prior_std(self) -> Float[Array, ""]:
        """Return 1."""
        return jnp.ones(())


class ContractiveVP(ScheduledProcess):
    """Contractive variance-preserving process (2); its state grows like exp(B/2).

    Args:
        beta_min: noise rate at t = 0, per unit of time.
        beta_max: noise rate at t = horizon, per unit of time; far below that of `VP`, since
            B = 10 already means a prior std of 148.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: a rate or the horizon is not positive, or the growth to the horizon overflows.
    """

    schedule: NoiseSchedule

    def __check_init__(self):
        self._check_growth()

    def _check_growth(self):
        require_bounded_growth("ContractiveVP", self.schedule.integral(jnp.asarray(self.horizon)))

    def __init__(self, beta_min: float = 0.01, beta_max: float = 8.0, *, horizon: float = 1.0):
        self.schedule = linear_schedule(self, beta_min, beta_max, horizon)

    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b(t) = beta(t) / 2."""
        return self.schedule.rate(jnp.asarray(t)) / 2

    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sqrt(beta(t))."""
        return jnp.sqrt(self.schedule.rate(jnp.asarray(t)))

    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a(t) = exp(B/2) and the std sqrt(exp(B) - 1)."""
        integral = self.schedule.integral(jnp.asarray(t))
        return Marginal(jnp.exp(integral / 2), square_root(jnp.expm1(integral)))

    def prior_std(self) -> Float[Array, ""]:
        """Return the std sqrt(exp(B(T)) - 1) at the horizon."""
        return self.marginal(jnp.asarray(self.horizon)).std
