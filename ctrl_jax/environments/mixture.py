"""Gaussian mixtures with diagonal covariances, and what noising by a linear SDE makes of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, check_entries, refuse
from ctrl_jax._door import at_the_door


class Mixture(eqx.Module):
    """A Gaussian mixture on R^d, seen by one example at a time (`vmap` for a batch).

    Args:
        weights: shape (k,), summing to one.
        means: shape (k, d).
        variances: of each coordinate, shape (k, d).
    """

    weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    variances: Float[Array, "k d"]

    def __check_init__(self):
        check_entries("Mixture", **vars(self))
        rows, shape = jnp.shape(self.weights), jnp.shape(self.means)
        if len(shape) != 2 or rows != shape[:1] or jnp.shape(self.variances) != shape:
            rule = f"means and variances must have shape (k, d), for weights {list(rows)}"
            raise refuse("Mixture.means", shape, rule, "give one row for each weight")

    @at_the_door
    def component_log_probs(self, x: Float[Array, " d"]) -> Float[Array, " k"]:
        """Return log(weight_i N(x; mean_i, variance_i)) for each component."""
        square = (x[None] - self.means) ** 2 / self.variances
        log_norm = jnp.log(2 * jnp.pi * self.variances)
        return jnp.log(self.weights) - jnp.sum(square + log_norm, axis=1) / 2

    @at_the_door
    def score(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Return the gradient of the log-density."""
        share = jax.nn.softmax(self.component_log_probs(x))
        return share @ ((self.means - x[None]) / self.variances)

    @at_the_door
    def noised(self, scale: Float[Array, ""], std: Float[Array, ""]) -> "Mixture":
        """Return the law of scale * X + std * noise."""
        return Mixture(self.weights, scale * self.means, scale**2 * self.variances + std**2)

    @at_the_door
    def posterior(
        self, scale: Float[Array, ""], std: Float[Array, ""], x: Float[Array, " d"]
    ) -> "Mixture":
        """Return the law of X given that scale * X + std * noise equals x."""
        share = jax.nn.softmax(self.noised(scale, std).component_log_probs(x))
        variances = 1 / (1 / self.variances + (scale / std) ** 2)
        means = variances * (self.means / self.variances + (scale / std**2) * x[None])
        return Mixture(share, means, variances)

    @at_the_door
    def sample(self, key: Array, number: int) -> Float[Array, "number d"]:
        """Draw `number` points."""
        check_count("number", number, least=0)
        component_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(component_key, jnp.log(self.weights), shape=(number,))
        noise = jax.random.normal(noise_key, (number, self.means.shape[1]), self.means.dtype)
        return self.means[chosen] + jnp.sqrt(self.variances[chosen]) * noise
