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

where N(M_i, U_i) with weight P(i | x) is the law of X_0 given that the noised state at forward time
t is x. Methods of the sampler take its
own time r = T - t, from 0 (noise) to T (data).

Source: arXiv 2409.08400.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, check_count, check_entries, refuse
from ctrl_jax._door import at_the_door, read_real
from ctrl_jax.environments.linear_gaussian import LinearGaussian, Moments
from ctrl_jax.environments.mixture import Mixture
from ctrl_jax.processes import LinearProcess


class GaussianSteering(eqx.Module):
    r"""Steering a diffusion towards a reward when the data are a Gaussian mixture: all is known.

    The data are X_0 ~ \sum_i W_i N(m_i, S_i) with diagonal S_i, the reward is
    R(x) = -(kappa / 2) |x - c|^2, and maximized over the actions a, from N(0, v(T)), is

        E[R(X_T)] - lambda KL(path || pretrained path),   dX = [-b(T-r) X + g^2 a] dr + g dB,

    b and g those of the process and the score the pretrained action. With k = kappa / lambda, and
    where the process leaves nothing of the data at T, the optimal terminal law is again a mixture,
    the tilt p e^{R/lambda} / Z:

        S_q = 1 / (1/S + k),   m_q = S_q (m/S + k c),   log W_q = log W + tilt(m, S) + const,
        tilt(m, S) = -log(1 + k S) / 2 - k (m - c)^2 / (2 (1 + k S))   summed over coordinates.

    The optimal action is the score of the noised tilt, and the optimal value

        V(t, x) = lambda log \sum_i P(i | x) e^{tilt(M_i, U_i)},

    where N(M_i, U_i) with weight P(i | x) is the law of X_0 given that the state noised to forward
    time t is x. Methods of the sampler take its own time r = T - t, from 0 (noise) to T (data).

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

    Source: arXiv 2409.08400.
    """

    process: LinearProcess
    data: Mixture
    curvature: float
    target: Float[Array, " d"]
    penalty: float

    def __init__(self, process, mean, variance, curvature, target, penalty, *, weights=None):
        check_all_positive("GaussianSteering", curvature=curvature, penalty=penalty)
        weights = jnp.ones(1) if weights is None else read_real("GaussianSteering.weights", weights)
        means = _rows("mean", mean, weights.size)
        variances = _rows("variance", variance, weights.size)
        target = read_real("GaussianSteering.target", target)
        given = {"weights": weights, "mean": means, "variance": variances, "target": target}
        check_entries("GaussianSteering", **given)
        _check_mixture(weights, means, variances)
        self.process, self.curvature, self.penalty = process, curvature, penalty
        self.data = Mixture(weights, means, variances)
        if target.shape not in ((), means.shape[1:]):
            rule = f"it must be one number, or have shape {means.shape[1:]}"
            raise refuse("GaussianSteering.target", target, rule, "give one value per coordinate")
        self.target = jnp.broadcast_to(target, means.shape[1:])

    @property
    def dimension(self) -> int:
        """Dimension d of the state."""
        return self.data.means.shape[1]

    def start_std(self) -> Float[Array, ""]:
        """Return sqrt(v(T)), the standard deviation of the start law N(0, v(T))."""
        return self.process.marginal(jnp.asarray(self.process.horizon)).std

    @at_the_door
    def score(self, t: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the pretrained score, that of the data noised to forward time t."""
        return self._each(partial(self._noised_score, self.data), t, x)

    @at_the_door
    def reward(self, x: Float[Array, "batch d"]) -> Float[Array, " batch"]:
        """Return the reward R(x) = -(kappa / 2) |x - c|^2."""
        return -self.curvature / 2 * jnp.sum((x - self.target[None]) ** 2, axis=1)

    @at_the_door
    def drift(self, r: Float[Array, "*t"], x: Array, action: Array) -> Array:
        """Return the controlled drift at reverse time r, the score as the action."""
        return self.process.reverse(lambda _t, _x: action).drift(r, x)

    @at_the_door
    def diffusion(self, r: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return the diffusion coefficient at reverse time r."""
        return self.process.diffusion(self.process.forward_time(r))

    def tilted_law(self) -> Mixture:
        """Return the optimal terminal law, the tilt p e^{R/lambda} / Z: a mixture too."""
        weights, means, variances = self.data.weights, self.data.means, self.data.variances
        precision = self.curvature / self.penalty
        tilted_variances = 1 / (1 / variances + precision)
        tilted_means = tilted_variances * (means / variances + precision * self.target[None])
        tilted_weights = jax.nn.softmax(jnp.log(weights) + self._tilt(means, variances))
        return Mixture(tilted_weights, tilted_means, tilted_variances)

    @at_the_door
    def optimal_policy(self, r: Float[Array, "*t"], x: Float[Array, "..."]) -> tuple[Array, Array]:
        """Return mean and variance of the optimal action at reverse time r.

        Args:
            r: reverse time, shape () or (batch,).
            x: states (batch, d) or (d,); in one dimension also a scalar or (batch,).

        Returns:
            The mean, of x's shape, and zeros: the objective has no entropy bonus.
        """
        law = self.tilted_law()
        mean = self._each(partial(self._noised_score, law), self.process.forward_time(r), x)
        return mean, jnp.zeros_like(mean)

    @at_the_door
    def optimal_value(self, r: Float[Array, "*t"], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the optimal value at reverse time r, in units of the reward.

        Args:
            r: reverse time, shape () or (batch,).
            x: states (batch, d) or (d,); in one dimension also a scalar or (batch,).
        """

        def value(t, x):
            scale, std = self.process.marginal(t)
            law = self.data.posterior(scale, std, x)
            tilt = self._tilt(law.means, law.variances)
            return self.penalty * jax.nn.logsumexp(jnp.log(law.weights) + tilt)

        return self._each(value, self.process.forward_time(r), x)

    def policy_value(
        self, policy: LinearGaussian, start_moments: Moments | None = None, *, steps: int = 2000
    ) -> Float[Array, ""]:
        """Return the value of the action mean score + slope x + intercept, averaged over the start.

        The moments follow an ODE, integrated here by Runge-Kutta.

        Args:
            policy: slope and intercept of the deviation from the score; `std` (its exploration)
                changes nothing in the objective, as the drift is linear in the action.
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

        Args:
            policy: slope and intercept of the deviation of the action from the score.
            start_moments: first and second raw moment of the start law; those of N(0, v(T)) by
                default.
            steps: Runge-Kutta steps.

        Raises:
            ValueError: the data are not one Gaussian in one dimension.
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
            raise refuse(
                "GaussianSteering: shape of mean",
                self.data.means.shape,
                "linear policies need one Gaussian in one dimension",
                "give a scalar mean and variance",
            )
        data_mean, data_variance = self.data.means[0, 0], self.data.variances[0, 0]
        check_count("steps", steps, most=2**24)
        first, second = start_moments or (0.0, self.start_std() ** 2)

        def rates(r, moments):
            mean, variance = moments[0], moments[1]
            t = self.process.forward_time(r)
            scale, std = self.process.marginal(t)
            noised = scale**2 * data_variance + std**2
            g2 = self.process.diffusion(t) ** 2
            slope = g2 * (policy.slope - 1 / noised) - self.process.contraction_rate(t)
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

    def _noised_score(self, law, t, x):
        return law.noised(*self.process.marginal(t)).score(x)

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
        r = i * h
        k1 = rates(r, y)
        k2 = rates(r + h / 2, y + h / 2 * k1)
        k3 = rates(r + h / 2, y + h / 2 * k2)
        k4 = rates(r + h, y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.lax.scan(step, start, jnp.arange(steps, dtype=float))[0]


def _rows(name, value, number):
    value = read_real(f"GaussianSteering.{name}", value)
    if value.size == 0 or number == 0 or value.size % number:
        raise refuse(
            f"GaussianSteering: shape of {name}",
            value.shape,
            f"it must hold one row for each of {number} weights",
            "give as many rows as weights",
        )
    return jnp.reshape(value, (number, -1))


def _check_mixture(weights, means, variances):
    if means.shape != variances.shape:
        raise refuse(
            "GaussianSteering: shape of variance",
            variances.shape,
            f"it must be that of mean, {means.shape}",
            "give one variance per mean",
        )
    if any(isinstance(value, Tracer) for value in (weights, variances)):
        return
    if not (np.asarray(weights) >= 0).all() or abs(np.sum(np.asarray(weights)) - 1) > 1e-5:
        rule = "they must sum to one and not be negative"
        raise refuse("GaussianSteering.weights", np.asarray(weights), rule, "divide by their sum")
    if not (np.asarray(variances) > 0).all():
        rule = "each must be above zero"
        raise refuse("GaussianSteering.variance", np.asarray(variances), rule, "give positive ones")
