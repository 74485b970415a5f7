r"""The variance-preserving process: b = -\beta/2, \sigma^2 = \beta, \beta linear in t.

With B(t) = \int_0^t \beta = \beta_min t + t^2 (\beta_max - \beta_min) / (2T),

    a(t) = e^{-B/2},  v(t) = 1 - e^{-B}.

Source: Song et al. 2021; arXiv 2402.07487, section 2.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax.processes.arguments import require_positive
from ctrl_jax.processes.linear import LinearProcess, Marginal


class VP(LinearProcess):
    """Variance-preserving process with a linear noise rate.

    Args:
        beta_min: noise rate at t = 0, per unit of time.
        beta_max: noise rate at t = horizon, per unit of time.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: a rate or the horizon is not positive.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    horizon: float = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self):
        require_positive("VP", beta_min=self.beta_min, beta_max=self.beta_max, horizon=self.horizon)

    def _beta(self, t):
        return self.beta_min + (self.beta_max - self.beta_min) * t / self.horizon

    def _integrated_beta(self, t):
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / (2 * self.horizon)

    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b(t) = -beta(t) / 2."""
        return -self._beta(jnp.asarray(t)) / 2

    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return sqrt(beta(t))."""
        return jnp.sqrt(self._beta(jnp.asarray(t)))

    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a(t) = exp(-B/2) and the std sqrt(1 - exp(-B))."""
        integral = self._integrated_beta(jnp.asarray(t))
        return Marginal(jnp.exp(-integral / 2), jnp.sqrt(-jnp.expm1(-integral)))

    def prior_std(self) -> Float[Array, ""]:
        """Return 1."""
        return jnp.ones(())
