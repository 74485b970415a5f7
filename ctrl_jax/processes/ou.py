r"""The Ornstein-Uhlenbeck process, and its contractive twin with the drift's sign turned.

    OU:              b = -\theta,  a = e^{-\theta t},  v = \tau^2 (1 - e^{-2 \theta t});
    contractive OU:  b = +\theta,  a = e^{\theta t},   v = \tau^2 (e^{2 \theta t} - 1).

with \tau^2 = \sigma^2 / (2 \theta). The noise-to-signal ratio of the second tends to \tau: the
signal is never lost.

Source: arXiv 2402.07487, section 2; arXiv 2401.13115, section 3.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import as_float, check_all_positive, check_finite_growth
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import constant, square_root
from ctrl_jax.processes.base import LinearProcess, Marginal, end_of_rate


class _OfConstantRate(LinearProcess):
    """What the two signs share."""

    theta: float = eqx.field(default=1.0, converter=as_float)
    sigma: float = eqx.field(default=1.0, converter=as_float)
    horizon: float = eqx.field(default=1.0, converter=as_float, kw_only=True)
    sign: ClassVar[int]

    def __check_init__(self):
        given = {"theta": self.theta, "sigma": self.sigma, "horizon": self.horizon}
        check_all_positive(type(self).__name__, **given)
        end = jnp.asarray(self.horizon, float)
        check_finite_growth(type(self).__name__, self.marginal(end).std ** 2)

    @property
    def end(self) -> Any:
        """The forward time at which sampling ends unless it is told: of a std of 0.01."""
        return end_of_rate(self.horizon, self.sigma**2)

    @at_the_door
    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b, theta with the sign of the drift."""
        return constant(self.sign * self.theta, t)

    @at_the_door
    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sigma."""
        return constant(self.sigma, t)

    @at_the_door
    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a(t) = exp(b t) and the std."""
        exponent = self.sign * self.theta * jnp.asarray(t)
        spread = square_root(self.sign * jnp.expm1(2 * exponent))
        return Marginal(jnp.exp(exponent), self._tau() * spread)

    def _tau(self) -> Float[Array, ""]:
        return self.sigma / jnp.sqrt(2 * self.theta)


class OU(_OfConstantRate):
    """Ornstein-Uhlenbeck process: b = -theta, a = e^{-theta t}, v = tau^2 (1 - e^{-2 theta t}).

    Args:
        theta: rate of the pull to zero, per unit of time.
        sigma: diffusion coefficient; tau^2 = sigma^2 / (2 theta).
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: an argument is not positive.

    Source: arXiv 2402.07487, section 2.
    """

    sign = -1

    def prior_std(self) -> Float[Array, ""]:
        """Return the stationary std tau = sigma / sqrt(2 theta)."""
        return self._tau()


class ContractiveOU(_OfConstantRate):
    """Contractive OU: b = theta, a = e^{theta t}, v = tau^2 (e^{2 theta t} - 1).

    Args:
        theta: rate of the push away from zero, per unit of time.
        sigma: diffusion coefficient; tau^2 = sigma^2 / (2 theta).
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: an argument is not positive, or the growth to the horizon overflows.

    Source: arXiv 2401.13115, section 3.
    """

    sign = 1
