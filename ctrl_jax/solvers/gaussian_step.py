r"""One Gaussian step of a sampler, with the score as the action.

A step of a stochastic sampler of the reversal of a linear SDE is a Gaussian transition whose mean
is affine in the state and in the score, or in whatever else the network predicts
(`processes.prediction`),

    x_{i+1} = state_gain_i x_i + action_gain_i a_i + std_i z_i,   z_i ~ N(0, I),         (1)

with a_i = s(t_i, x_i), or the prediction there. Reading the step's own noise as the exploration of
a Gaussian policy,

    a ~ N(mu(t_i, x_i), (std_i / action_gain_i)^2 I),                                   (2)

the log-density of the action, the likelihood ratio of two policies and their Kullback-Leibler
divergence are those of the transition. With rate_i = (action_gain_i / std_i)^2 the divergence is

    KL(mu || mu') = rate_i |mu - mu'|^2 / 2,                                            (3)

the discrete form of Girsanov's g^2 |mu - mu'|^2 dt / 2 (2409.08400): exact for the chain, not only
as dt -> 0. Predictions being affine in each other, ratio and divergence of two networks are the
same whichever of them they make.
"""

import abc
import math
from typing import NamedTuple

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import expand, sum_each
from ctrl_jax.processes import LinearProcess, Prediction


class Kernel(NamedTuple):
    """Coefficients of a Gaussian step x' = state_gain x + action_gain a + std z, z ~ N(0, I).

    The action a is the score at the start of the step, or what else the network predicts there.
    Each coefficient has shape () or (steps,).

    Fields:
        state_gain: of the state x before the step.
        action_gain: of the action, the score or what the network predicts.
        std: standard deviation of the step's noise.
    """

    state_gain: Float[Array, "*steps"]
    action_gain: Float[Array, "*steps"]
    std: Float[Array, "*steps"]

    @property
    def kl_rate(self) -> Float[Array, "*steps"]:
        """Return (action_gain / std)**2, so that the KL of a step is kl_rate |mu - mu'|^2 / 2.

        Zero for a step without noise, such as a last one to the data: see `exploration`.
        """
        return self.exploration**2

    @property
    def exploration(self) -> Float[Array, "*steps"]:
        """Return action_gain / std, by which a change of the action is seen in the noise.

        A step without noise has no density. It is part of what is rewarded, not a decision that
        could be told from another: it carries no ratio and no divergence, and here a zero.
        """
        noisy = self.std > 0
        return jnp.where(noisy, self.action_gain / jnp.where(noisy, self.std, 1.0), 0.0)

    def mean(self, x: Array, action: Array) -> Array:
        """Return the mean state_gain x + action_gain action of the state after the step."""
        return expand(self.state_gain, x) * x + expand(self.action_gain, x) * action


class GaussianSolver(diffrax.AbstractItoSolver):
    """Interface of the diffrax solvers whose steps are Gaussian and affine in the prediction."""

    @abc.abstractmethod
    def kernel(
        self,
        process: LinearProcess,
        r_0: Float[Array, "*steps"],
        r_1: Float[Array, "*steps"],
        *,
        noise_level: float = 1.0,
        prediction: Prediction = "score",
    ) -> Kernel:
        """Return the coefficients of the step from reverse time r_0 to r_1.

        Args:
            process: the forward process.
            r_0: reverse times of the starts, shape () or (steps,).
            r_1: reverse times of the ends.
            noise_level: l of the `ReverseSDE` that is stepped.
            prediction: what the action is, "score", "noise", "data", "v" or "flow".
        """


@at_the_door
def gaussian_log_prob(noise: Float[Array, "batch ..."], std: Float[Array, "*b"]) -> Array:
    """Return log N(noise * std; 0, std^2 I) per example, summed over dimensions; 0 at std 0."""
    dimension, noisy = math.prod(noise.shape[1:]), std > 0
    log_norm = jnp.log(jnp.where(noisy, std, 1.0)) + jnp.log(2 * jnp.pi) / 2
    return jnp.where(noisy, -sum_each(jnp.square(noise)) / 2 - dimension * log_norm, 0.0)
