r"""Linear forward SDEs, their marginals and their time reversal.

Every process of the library is linear with scalar coefficients,

    dX = b(t) X dt + \sigma(t) dB,  0 <= t <= T,                                     (1)

so that X_t given x_0 is N(a(t) x_0, v(t) I) with a' = b a and v' = 2 b v + \sigma^2   (2)

and a(0) = 1, v(0) = 0 (`VE` and `EDM` have variants that start elsewhere, and say so).

Read backwards in r = T - t with the score s of the law at time t (Anderson 1982; Song et al. 2021),

    dX = [-b(T-r) X + \sigma^2(T-r) s(T-r, X)] dr + \sigma(T-r) dB,                  (3)

has the same marginals, and so has the probability-flow ODE

    dX/dr = -b(T-r) X + 1/2 \sigma^2(T-r) s(T-r, X).                                 (4)

Source: arXiv 2402.07487, sections 2-3.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._numerics import expand
from ctrl_jax._typing import ScoreFn


class Marginal(NamedTuple):
    """Law of X_t given x_0: N(scale * x_0, std**2 I)."""

    scale: Float[Array, "*t"]
    std: Float[Array, "*t"]


class LinearProcess(eqx.Module):
    """Interface of the forward SDEs (1); times are in [0, `horizon`]."""

    horizon: eqx.AbstractVar[float]

    @abc.abstractmethod
    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b(t), also the contraction rate r_b of the backward drift (2401.13115)."""

    @abc.abstractmethod
    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the diffusion coefficient sigma(t)."""

    @abc.abstractmethod
    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return the scale a(t) and the standard deviation sqrt(v(t)) of (2)."""

    @abc.abstractmethod
    def prior_std(self) -> Float[Array, ""]:
        """Return the standard deviation of the centered Gaussian that sampling starts from."""

    def drift(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return b(t) x; t broadcasts against the leading axes of x."""
        x = jnp.asarray(x)
        return expand(self.contraction_rate(t), x) * x

    def noise_to_signal(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return std / scale, which grows with t for every process."""
        scale, std = self.marginal(t)
        return std / scale

    def unscale(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return x / a(0): samples in units of the data. Only a scaled `EDM` has a(0) != 1."""
        x = jnp.asarray(x)
        return x / self.marginal(jnp.asarray(0.0)).scale.astype(x.dtype)

    def sample_marginal(
        self, key: Array, x_0: Float[Array, "batch ..."], t: Float[Array, "*t"]
    ) -> tuple[Array, Array]:
        """Draw X_t given x_0.

        Args:
            key: PRNG key.
            x_0: data, shape (batch, ...).
            t: forward times, shape () or (batch,).

        Returns:
            x_t and the standard normal noise it was made with, both of x_0's shape.
        """
        x_0 = jnp.asarray(x_0)
        noise = jax.random.normal(key, x_0.shape, x_0.dtype)
        scale, std = self.marginal(t)
        return expand(scale, x_0) * x_0 + expand(std, x_0) * noise, noise

    def reverse(self, score_fn: ScoreFn) -> "ReverseSDE":
        """Return the reverse-time SDE (3) driven by `score_fn(t, x)`, t the forward time.

        The score must have x's shape, or the first evaluation raises a ValueError.
        """
        return ReverseSDE(self, _of_one_shape(score_fn))


class ReverseSDE(eqx.Module):
    """The reversal (3) of a process in reverse time r = horizon - t, `stochastic=False` for (4)."""

    process: LinearProcess
    score_fn: ScoreFn
    stochastic: bool = eqx.field(default=True, static=True)

    def probability_flow(self) -> "ReverseSDE":
        """Return the probability-flow ODE (4) of the same process and score."""
        return ReverseSDE(self.process, self.score_fn, stochastic=False)

    def drift(self, r: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the drift of (3), or of (4), at reverse time r."""
        t = self.process.horizon - r
        variance_rate = self.process.diffusion(t) ** 2
        if not self.stochastic:
            variance_rate = variance_rate / 2
        return expand(variance_rate, x) * self.score_fn(t, x) - self.process.drift(t, x)

    def diffusion(self, r: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the diffusion coefficient at reverse time r (zero for the ODE)."""
        sigma = self.process.diffusion(self.process.horizon - r)
        return sigma if self.stochastic else jnp.zeros_like(sigma)


def _of_one_shape(score_fn: ScoreFn) -> ScoreFn:
    """Return the score function, which raises ValueError rather than broadcast."""

    def checked(t, x):
        score = score_fn(t, x)
        if jnp.shape(score) != jnp.shape(x):
            raise ValueError(
                f"score_fn must return an array of x's shape {jnp.shape(x)}; it returned shape "
                f"{jnp.shape(score)}."
            )
        return score

    return checked
