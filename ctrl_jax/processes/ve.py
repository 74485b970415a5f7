r"""The variance-exploding process: no drift, and noise that grows geometrically.

With r = \sigma_max / \sigma_min,

    \sigma^2 = \sigma_min^2 r^{2t/T} (2/T) \ln r,  a = 1,
    v = \sigma_min^2 (r^{2t/T} - 1)                                     (zero start),    (1)
    v = \sigma_min^2 r^{2t/T}                     (data already blurred by \sigma_min).  (2)

(1) is the law of the SDE itself; much published code, Song et al.'s among it, uses (2).

Source: Song et al. 2021; arXiv 2402.07487, section 2.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive
from ctrl_jax._numerics import constant, square_root
from ctrl_jax.processes.base import LinearProcess, Marginal


class VE(LinearProcess):
    """Variance-exploding process.

    Args:
        sigma_min: std of the smallest noise, in units of the data.
        sigma_max: std of the largest noise, in units of the data.
        zero_start: True for (1), False for (2).
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: an argument is not positive, or sigma_max does not exceed sigma_min.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    zero_start: bool = eqx.field(default=True, static=True)
    horizon: float = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self):
        sigmas = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        concrete = check_all_positive("VE", **sigmas, horizon=self.horizon)
        if concrete and self.sigma_max <= self.sigma_min:
            raise ValueError(
                f"VE: sigma_max must exceed sigma_min = {self.sigma_min!r}, got {self.sigma_max!r}."
            )

    def _log_ratio(self) -> Float[Array, ""]:
        return jnp.log(self.sigma_max / self.sigma_min)

    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b = 0."""
        return constant(0.0, t)

    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sigma_min r^{t/T} sqrt(2 ln r / T)."""
        growth = jnp.exp(self._log_ratio() * jnp.asarray(t) / self.horizon)
        return self.sigma_min * growth * jnp.sqrt(2 * self._log_ratio() / self.horizon)

    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a = 1 and the std of (1) or (2)."""
        exponent = self._log_ratio() * jnp.asarray(t) / self.horizon
        growth = square_root(jnp.expm1(2 * exponent)) if self.zero_start else jnp.exp(exponent)
        return Marginal(jnp.ones_like(exponent), self.sigma_min * growth)

    def prior_std(self) -> Float[Array, ""]:
        """Return the std at the horizon."""
        return self.marginal(jnp.asarray(self.horizon)).std

    def time_at_std(self, std: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the time at which the noise has a given std, the inverse of `marginal`.

        Args:
            std: standard deviation; below sigma_min the times of (2) are negative.
        """
        level = jnp.asarray(std) / self.sigma_min
        exponent = jnp.log1p(level**2) / 2 if self.zero_start else jnp.log(level)
        return self.horizon * exponent / self._log_ratio()
