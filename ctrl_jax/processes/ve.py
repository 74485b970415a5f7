"""The variance-exploding process: no drift, and noise that grows geometrically.

Source: Song et al. 2021; arXiv 2402.07487, section 2.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import as_float, check_all_positive, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import square_root
from ctrl_jax.processes.base import LinearProcess, Marginal


class VE(LinearProcess):
    """Variance-exploding process: a = 1, no drift, and noise that grows geometrically.

    With r = sigma_max / sigma_min and sigma^2 = sigma_min^2 r^{2t/T} (2/T) ln r,

        v = sigma_min^2 (r^{2t/T} - 1)   from zero, the law of the SDE itself,
        v = sigma_min^2 r^{2t/T}         of data already blurred by sigma_min.

    Much published code, Song et al.'s among it, uses the second.

    Args:
        sigma_min: std of the smallest noise, in units of the data.
        sigma_max: std of the largest noise, in units of the data.
        zero_start: True for the first variance, False for the second.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: an argument is not positive, or sigma_max does not exceed sigma_min.

    Source: Song et al. 2021; arXiv 2402.07487, section 2.
    """

    sigma_min: float = eqx.field(default=0.01, converter=as_float)
    sigma_max: float = eqx.field(default=50.0, converter=as_float)
    zero_start: bool = eqx.field(default=True, static=True)
    horizon: float = eqx.field(default=1.0, converter=as_float, kw_only=True)

    def __check_init__(self):
        sigmas = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        concrete = check_all_positive("VE", **sigmas, horizon=self.horizon)
        if concrete and self.sigma_max <= self.sigma_min:
            raise refuse(
                "VE.sigma_max",
                self.sigma_max,
                f"it must exceed sigma_min = {self.sigma_min!r}",
                "exchange them, or give a larger one",
            )

    def _log_ratio(self) -> Float[Array, ""]:
        return jnp.log(self.sigma_max / self.sigma_min)

    @at_the_door
    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sigma_min r^{t/T} sqrt(2 ln r / T)."""
        growth = jnp.exp(self._log_ratio() * jnp.asarray(t) / self.horizon)
        return self.sigma_min * growth * jnp.sqrt(2 * self._log_ratio() / self.horizon)

    @at_the_door
    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a = 1 and the std, sigma_min sqrt(r^{2t/T} - 1) from zero or sigma_min r^{t/T}."""
        exponent = self._log_ratio() * jnp.asarray(t) / self.horizon
        growth = square_root(jnp.expm1(2 * exponent)) if self.zero_start else jnp.exp(exponent)
        return Marginal(jnp.ones_like(exponent), self.sigma_min * growth)

    @at_the_door
    def time_at(self, ratio: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the time at which the noise has the std `ratio`, the inverse of `marginal`.

        Args:
            ratio: standard deviations; one that is never reached gets the nearest time.
        """
        return jnp.clip(self.time_beyond(ratio), 0.0, self.horizon)

    @at_the_door
    def time_beyond(self, ratio: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the time at which the noise has the std `ratio`, also past the horizon.

        Args:
            ratio: standard deviations, of any shape.
        """
        level = jnp.asarray(ratio) / self.sigma_min
        exponent = jnp.log1p(level**2) / 2 if self.zero_start else jnp.log(level)
        return self.horizon * exponent / self._log_ratio()
