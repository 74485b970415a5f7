r"""The Ornstein-Uhlenbeck process, and its contractive twin with the drift's sign turned.

    OU:              b = -\theta,  a = e^{-\theta t},  v = \tau^2 (1 - e^{-2 \theta t});
    contractive OU:  b = +\theta,  a = e^{\theta t},   v = \tau^2 (e^{2 \theta t} - 1).

with \tau^2 = \sigma^2 / (2 \theta). The noise-to-signal ratio of the second tends to \tau: the
signal is never lost.

Source: arXiv 2402.07487, section 2; arXiv 2401.13115, section 3.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, require_bounded_growth
from ctrl_jax._numerics import constant, square_root
from ctrl_jax.processes.base import LinearProcess, Marginal


class OU(LinearProcess):
    """Ornstein-Uhlenbeck process.

    Args:
        theta: rate of the pull to zero, per unit of time.
        sigma: diffusion coefficient.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: an argument is not positive.
    """

    theta: float = 1.0
    sigma: float = 1.0
    horizon: float = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self):
        check_all_positive("OU", theta=self.theta, sigma=self.sigma, horizon=self.horizon)

    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b = -theta."""
        return constant(-self.theta, t)

    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sigma."""
        return constant(self.sigma, t)

    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a(t) = exp(-theta t) and the std."""
        exponent = self.theta * jnp.asarray(t)
        spread = square_root(-jnp.expm1(-2 * exponent))
        return Marginal(jnp.exp(-exponent), self.prior_std() * spread)

    def prior_std(self) -> Float[Array, ""]:
        """Return the stationary std sigma / sqrt(2 theta)."""
        return self.sigma / jnp.sqrt(2 * self.theta)


class ContractiveOU(LinearProcess):
    """Contractive Ornstein-Uhlenbeck process; its state grows like exp(theta t).

    Args:
        theta: rate of the push away from zero, per unit of time.
        sigma: diffusion coefficient.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: an argument is not positive, or the growth to the horizon overflows.
    """

    theta: float = 1.0
    sigma: float = 1.0
    horizon: float = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self):
        given = {"theta": self.theta, "sigma": self.sigma, "horizon": self.horizon}
        if check_all_positive("ContractiveOU", **given):
            theta, sigma, horizon = (float(value) for value in given.values())
            log_size = max(2 * math.log(sigma) - math.log(2 * theta), 0.0)
            require_bounded_growth("ContractiveOU", 2 * theta * horizon + log_size)

    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b = theta."""
        return constant(self.theta, t)

    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sigma."""
        return constant(self.sigma, t)

    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a(t) = exp(theta t) and the std."""
        exponent = self.theta * jnp.asarray(t)
        spread = square_root(jnp.expm1(2 * exponent))
        return Marginal(jnp.exp(exponent), self.sigma / jnp.sqrt(2 * self.theta) * spread)

    def prior_std(self) -> Float[Array, ""]:
        """Return the std at the horizon."""
        return self.marginal(jnp.asarray(self.horizon)).std
