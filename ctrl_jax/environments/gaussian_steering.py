r"""Steering a diffusion towards a reward when the data are a Gaussian mixture: all is known.

Data X_0 ~ \sum_i W_i N(m_i, S_i), reward R(x) = -(kappa / 2) |x - c|^2, penalty lambda: maximize

    E[R(X_T)] - lambda KL(path || pretrained path)                                        (1)

over the drifts of the reversal started from N(0, v(T)). With k = kappa / lambda, the optimal
terminal law is the tilt p e^{R/lambda} / Z, again a mixture:

    S_q = 1 / (1/S + k),   m_q = S_q (m/S + k c),
    log W_q = log W + tilt(m, S) + const,
    tilt(m, S) = -1/2 log(1 + k S) - k (m - c)^2 / (2 (1 + k S)).                         (2)

The optimal action is the score of the noised tilt, and the value is in closed form

    V(t, x) = lambda log \sum_i P(i | x) e^{tilt(M_i, U_i)},                              (3)

where N(M_i, U_i) with weight P(i | x) is the law of X_0 given X_{T-t} = x. `t` is the sampler's own
time, from 0 (noise) to T (data). Source: arXiv 2409.08400; oracles O4 and O5 of the tests.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive
from ctrl_jax.environments.linear_gaussian import LinearGaussian, Moments
from ctrl_jax.environments.mixture import Mixture
from ctrl_jax.processes import LinearProcess


class GaussianSteering(eqx.Module):
    """The control problem (1) with its exact solution.

    Args:
        process: the forward process.
        mean: data mean: a scalar, or means of a mixture, shape (k,) or (k, d).
        variance: data variance, of the same shape.
        curvature: kappa of the reward, positive, in units of the reward per unit of x squared.
        target: c of the reward, a scalar or (d,).
        penalty: lambda, positive, in units of the reward per nat.
        weights: mixture weights (k,), summing to one; None for one Gaussian.

    Raises:
        ValueError: curvature, penalty or a variance is not positive, weights do not sum to one.
    """

    process: LinearProcess
    data: Mixture
    curvature: float
    target: Float[Array, " d"]
    penalty: float

    def __init__(self, process, mean, variance, curvature, target, penalty, *, weights=None):
        check_all_positive("GaussianSteering", curvature=curvature, penalty=penalty)
        weights = jnp.ones(1) if weights is None else jnp.asarray(weights, float)
        means = _rows("mean", mean, weights.size)
        variances = _rows("variance", variance, weights.size)
        _check_mixture(weights, means, variances)
        self.process, self.curvature, self.penalty = process, curvature, penalty
        self.data = Mixture(weights, means, variances)
        self.target = jnp.broadcast_to(jnp.asarray(target, float), means.shape[1:])

    @property
    def dimension(self) -> int:
        """Dimension d of the state."""
        return self.data.means.shape[1]

    def start_std(self) -> Float[Array, ""]:
        """Return sqrt(v(T)), the standard deviation of the start law N(0, v(T))."""
        return self.process.marginal(jnp.asarray(self.process.horizon)).std

    def score(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the pretrained score, that of the data noised to forward time t."""
        return self._each(partial(self._noised_score, self.data), t, x)

    def reward(self, x: Float[Array, "batch d"]) -> Float[Array, " batch"]:
        """Return R(x)."""
        return -self.curvature / 2 * jnp.sum((x - self.target[None]) ** 2, axis=1)

    def drift(self, t: Float[Array, "*t"], x: Array, action: Array) -> Array:
        """Return the controlled drift at the sampler's time t, the score as the action."""
        return self.process.reverse(lambda _t, _x: action).drift(t, x)

    def diffusion(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the diffusion coefficient at the sampler's time t."""
        return self.process.diffusion(self.process.horizon - t)

    def tilted_law(self) -> Mixture:
        """Return the optimal terminal law (2)."""
        weights, means, variances = self.data.weights, self.data.means, self.data.variances
        precision = self.curvature / self.penalty
        tilted_variances = 1 / (1 / variances + precision)
        tilted_means = tilted_variances * (means / variances + precision * self.target[None])
        tilted_weights = jax.nn.softmax(jnp.log(weights) + self._tilt(means, variances))
        return Mixture(tilted_weights, tilted_means, tilted_variances)

    def optimal_policy(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> tuple[Array, Array]:
        """Return mean and variance of the optimal action at the sampler's time t.

        Args:
            t: sampler's time, shape () or (batch,).
            x: states (batch, d) or (d,); in one dimension also a scalar or (batch,).

        Returns:
            mu*(t, x) of x's shape, and zeros: (1) has no entropy bonus.
        """
        law = self.tilted_law()
        mean = self._each(partial(self._noised_score, law), self.process.horizon - t, x)
        return mean, jnp.zeros_like(mean)

    def optimal_value(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return V(t, x) of (3), in units of the reward; arguments as in `optimal_policy`."""

        def value(forward_time, x):
            scale, std = self.process.marginal(forward_time)
            law = self.data.posterior(scale, std, x)
            tilt = self._tilt(law.means, law.variances)
            return self.penalty * jax.nn.logsumexp(jnp.log(law.weights) + tilt)

        return self._each(value, self.process.horizon - t, x)

    def policy_value(
        self, policy: LinearGaussian, start_moments: Moments | None = None, *, steps: int = 2000
    ) -> Float[Array, ""]:
        """Return the value of the action mean score + slope x + intercept, averaged over the start.

        The moments follow an ODE, integrated here by Runge-Kutta.

        Args:
            policy: slope and intercept of the deviation from the score; `std` (its exploration)
                changes nothing in (1), whose drift is linear in the action.
            start_moments: first and second raw moment of the start law; those of N(0, v(T)) by
                default.
            steps: Runge-Kutta steps.

        Raises:
            ValueError: the data are not one Gaussian in one dimension.
        """
        mean, variance, kl = self._along_path(policy, start_moments, steps)[:3]
        return -self.curvature / 2 * ((mean - self.target[0]) ** 2 + variance) - self.penalty * kl

    def occupation_moments(
        self, policy: LinearGaussian, start_moments: Moments | None = None, *, steps: int = 2000
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the raw moments of X at an independent time that is uniform on [0, T].

        Arguments and errors as in `policy_value`.
        """
        first, second = self._along_path(policy, start_moments, steps)[3:]
        return first / self.process.horizon, second / self.process.horizon

    def policy_gradient(
        self, policy: LinearGaussian, start_moments: Moments | None = None
    ) -> LinearGaussian:
        """Return the gradient of `policy_value` in the policy's parameters."""
        return jax.grad(lambda p: self.policy_value(p, start_moments))(policy)

    def _along_path(self, policy, start_moments, steps):
        """Mean, variance and path KL at T, and the integrals of the raw moments over time."""
        if self.data.means.shape != (1, 1):
            raise ValueError(
                "GaussianSteering: linear policies need one Gaussian in one dimension."
            )
        data_mean, data_variance = self.data.means[0, 0], self.data.variances[0, 0]
        first, second = start_moments or (0.0, self.start_std() ** 2)

        def rates(t, moments):
            mean, variance = moments[0], moments[1]
            forward_time = self.process.horizon - t
            scale, std = self.process.marginal(forward_time)
            noised = scale**2 * data_variance + std**2
            g2 = self.process.diffusion(forward_time) ** 2
            slope = g2 * (policy.slope - 1 / noised) - self.process.contraction_rate(forward_time)
            shift = g2 * (policy.intercept + scale * data_mean / noised)
            deviation = (policy.slope * mean + policy.intercept) ** 2 + policy.slope**2 * variance
            moving = (slope * mean + shift, 2 * slope * variance + g2, g2 * deviation / 2)
            return jnp.stack([*moving, mean, mean**2 + variance])

        start = jnp.stack([jnp.asarray(m, float) for m in (first, second - first**2, 0, 0, 0)])
        return _runge_kutta(rates, start, self.process.horizon / steps, steps)

    def _tilt(self, means, variances):
        """log E[e^{R/lambda}] under N(means, variances), per component."""
        precision = self.curvature / self.penalty
        spread = 1 + precision * variances
        square = precision * (means - self.target[None]) ** 2 / (2 * spread)
        return -jnp.sum(jnp.log(spread) / 2 + square, axis=1)

    def _noised_score(self, law, forward_time, x):
        return law.noised(*self.process.marginal(forward_time)).score(x)

    def _each(self, function, t, x):
        """Apply function(t, x) with x of shape (d,) to states of any of the accepted shapes."""
        x = jnp.asarray(x, float)
        rows = jnp.reshape(x, (-1, self.dimension))
        times = jnp.broadcast_to(jnp.asarray(t, float), rows.shape[:1])
        result = jax.vmap(function)(times, rows)
        if result.ndim == rows.ndim:
            return result.reshape(x.shape)
        flat = x.ndim == 0 or (x.ndim == 1 and self.dimension > 1)
        return result[0] if flat else result


def _runge_kutta(rates, start, h, steps):
    def step(y, i):
        t = i * h
        k1 = rates(t, y)
        k2 = rates(t + h / 2, y + h / 2 * k1)
        k3 = rates(t + h / 2, y + h / 2 * k2)
        k4 = rates(t + h, y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.lax.scan(step, start, jnp.arange(steps, dtype=float))[0]


def _rows(name, value, number):
    value = jnp.asarray(value, float)
    if value.size == 0 or value.size % number:
        raise ValueError(
            f"GaussianSteering: {name} must hold one row per weight, got shape {value.shape} for "
            f"{number} weights."
        )
    return jnp.reshape(value, (number, -1))


def _check_mixture(weights, means, variances):
    if means.shape != variances.shape:
        raise ValueError(
            f"GaussianSteering: mean and variance must have one shape, got {means.shape} and "
            f"{variances.shape}."
        )
    if any(isinstance(value, Tracer) for value in (weights, variances)):
        return
    if not (np.asarray(weights) >= 0).all() or abs(np.sum(np.asarray(weights)) - 1) > 1e-5:
        raise ValueError(
            f"GaussianSteering: weights must sum to one and not be negative, got {weights}."
        )
    if not (np.asarray(variances) > 0).all():
        raise ValueError(f"GaussianSteering: variance must be positive, got {variances}.")
