r"""Trading the spread of a pair of stocks, log wealth as reward: value and policy known.

    dX = k (\theta - X) dt + \eta dW,                                                     (1)
    dv/v = [h m(X) + r] dt + h \eta dW,   m(x) = k(\theta - x) + \eta^2/2 + \rho \sigma \eta,
    \eta(\pi) = E \int_0^\infty e^{-\beta s} [log v_s - \gamma log \pi(h|X)] ds,

X the log-spread, v the wealth, h the fraction of it held in the spread. The state is (log v, x).
With c = k \theta + \eta^2/2 + \rho \sigma \eta,

    \pi*(h|x) = N(m(x)/\eta^2, \gamma \beta/\eta^2),                                      (2)
    V* = log v/\beta + \varphi_2 x^2/2 + \varphi_1 x + \varphi_0.

The policy N(K x + b, s^2) has a value of the same form; with a_2 = -2kK - \eta^2 K^2,
a_1 = K c - k b - \eta^2 K b and a_0 = b c + r - \eta^2 (b^2 + s^2)/2,

    \varphi_2 = a_2/(\beta(\beta + 2k)),  \varphi_1 = (a_1/\beta + k \theta \varphi_2)/(\beta + k),
    \varphi_0 = [a_0/\beta + (\gamma/2) log(2 \pi e s^2) + k \theta \varphi_1
                 + \eta^2 \varphi_2/2]/\beta.                                             (3)

Source: Mudchanatongsuk, Primbs and Wong 2008 (the market); arXiv 2305.18901 (the experiment).
"""

import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, check_entries, refuse
from ctrl_jax._door import at_the_door, real_as
from ctrl_jax.environments.linear_gaussian import LinearGaussian, Moments


class PairTrading(eqx.Module):
    r"""Trading the spread of a pair of stocks, log wealth as reward, with its exact solution.

        dX = k (theta - X) dt + eta dW,
        dv/v = [h m(X) + r] dt + h eta dW,   m(x) = k (theta - x) + eta^2/2 + rho sigma eta,

    X the log-spread, v the wealth, and the action h the fraction of it held in the spread. The
    state is (log v, x), and maximized is E \int_0^inf e^{-beta s} [log v_s - gamma log pi(h|X)] ds.
    The optimum is

        pi*(h|x) = N(m(x)/eta^2, gamma beta/eta^2),
        V*(log v, x) = log v/beta + phi_2 x^2/2 + phi_1 x + phi_0.

    The value of a policy N(K x + b, s^2) has the same form.

    Args:
        k: rate of mean reversion, positive, in 1 / time.
        theta: level that the log-spread reverts to.
        eta: volatility of the spread, positive, in 1 / sqrt(time).
        sigma: volatility of the reference stock.
        rho: correlation of the stock and the spread, in [-1, 1].
        r: interest per unit of time.
        discount: beta, positive, in 1 / time.
        temperature: gamma, positive, in units of log wealth per nat.

    Raises:
        ValueError: an argument is out of range.

    Source: Mudchanatongsuk, Primbs and Wong 2008 (the market); arXiv 2305.18901 (the experiment).
    """

    k: Float[Array, ""] = eqx.field(converter=real_as("PairTrading.k", 0))
    theta: Float[Array, ""] = eqx.field(converter=real_as("PairTrading.theta", 0))
    eta: Float[Array, ""] = eqx.field(converter=real_as("PairTrading.eta", 0))
    sigma: Float[Array, ""] = eqx.field(converter=real_as("PairTrading.sigma", 0))
    rho: Float[Array, ""] = eqx.field(converter=real_as("PairTrading.rho", 0))
    r: Float[Array, ""] = eqx.field(converter=real_as("PairTrading.r", 0))
    discount: Float[Array, ""] = eqx.field(converter=real_as("PairTrading.discount", 0))
    temperature: Float[Array, ""] = eqx.field(converter=real_as("PairTrading.temperature", 0))

    state_dimension = 2
    action_dimension = 1
    noise_dimension = 1

    def __check_init__(self):
        check_entries("PairTrading", **vars(self))
        positive = {name: getattr(self, name) for name in ("k", "eta", "discount", "temperature")}
        check_all_positive("PairTrading", **positive)
        if not isinstance(self.rho, Tracer) and not -1 <= float(self.rho) <= 1:
            rule = "a correlation must lie in [-1, 1]"
            raise refuse("PairTrading.rho", self.rho, rule, "give 0 for none")

    @at_the_door
    def excess(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return m(x), what one unit of the spread earns per unit of time."""
        return self._level() - self.k * x

    @at_the_door
    def drift(self, x: Float[Array, "batch 2"], action: Float[Array, "batch 1"]) -> Array:
        """Return the drift (batch, 2) of (log v, x)."""
        h, spread = action[:, 0], x[:, 1]
        growth = h * self.excess(spread) + self.r - self.eta**2 * h**2 / 2
        return jnp.stack([growth, self.k * (self.theta - spread)], axis=1)

    @at_the_door
    def diffusion(self, x: Float[Array, "batch 2"], action: Float[Array, "batch 1"]) -> Array:
        """Return the diffusion matrix (batch, 2, 1): one noise moves wealth and spread."""
        h = action[:, 0]
        return self.eta * jnp.stack([h, jnp.ones_like(h)], axis=1)[:, :, None]

    @at_the_door
    def reward(self, x: Float[Array, "batch 2"], action: Float[Array, "batch 1"]) -> Array:
        """Return log v, shape (batch,)."""
        del action
        return x[:, 0]

    @at_the_door
    def optimal_value(
        self, log_v: Float[Array, "*batch"] | float, x: Float[Array, "*batch"] | float
    ) -> Float[Array, "*batch"]:
        """Return the optimal value log v/beta + phi_2 x^2/2 + phi_1 x + phi_0.

        Args:
            log_v: log wealth.
            x: log-spread, of the same shape.
        """
        return self.policy_value(self.optimal_linear_policy(), log_v, x)

    @at_the_door
    def optimal_policy(self, x: Float[Array, "..."] | float) -> tuple[Array, Array]:
        """Return mean and variance of the optimal fraction h at log-spread x, of x's shape."""
        x = jnp.asarray(x, float)
        variance = self.temperature * self.discount / self.eta**2
        return self.excess(x) / self.eta**2, jnp.broadcast_to(variance, x.shape)

    def optimal_linear_policy(self) -> LinearGaussian:
        """Return the optimal policy N(m(x)/eta^2, gamma beta/eta^2) by its parameters."""
        return LinearGaussian(
            -self.k / self.eta**2,
            self._level() / self.eta**2,
            jnp.sqrt(self.temperature * self.discount) / self.eta,
        )

    @at_the_door
    def policy_value(
        self,
        policy: LinearGaussian,
        log_v: Float[Array, "*batch"] | float,
        x: Float[Array, "*batch"] | float,
    ) -> Float[Array, "*batch"]:
        """Return the value of the fractions h ~ N(slope x + intercept, std^2).

        Args:
            policy: slope, intercept and std.
            log_v: log wealth.
            x: log-spread, of the same shape.
        """
        second, first, constant = self.value_coefficients(policy)
        log_v, x = jnp.asarray(log_v, float), jnp.asarray(x, float)
        return log_v / self.discount + second * x**2 / 2 + first * x + constant

    @at_the_door
    def mean_value(
        self,
        policy: LinearGaussian,
        mean_log_v: Float[Array, ""] | float,
        start_moments: Moments,
    ) -> Float[Array, ""]:
        """Return eta, the value of a policy averaged over a start law.

        Args:
            policy: slope, intercept and std of the fraction held.
            mean_log_v: mean log wealth at the start.
            start_moments: first and second raw moment of the log-spread there.
        """
        second, first, constant = self.value_coefficients(policy)
        spread = second * start_moments[1] / 2 + first * start_moments[0]
        return mean_log_v / self.discount + spread + constant

    def value_coefficients(self, policy: LinearGaussian) -> tuple[Array, Array, Array]:
        """Return phi_2, phi_1, phi_0 of the value log v/beta + phi_2 x^2/2 + phi_1 x + phi_0."""
        K, b, std = (jnp.asarray(v, float) for v in policy)
        beta, level, eta2 = self.discount, self._level(), self.eta**2
        a2 = -2 * self.k * K - eta2 * K**2
        a1 = K * level - self.k * b - eta2 * K * b
        a0 = b * level + self.r - eta2 * (b**2 + std**2) / 2
        second = a2 / (beta * (beta + 2 * self.k))
        first = (a1 / beta + self.k * self.theta * second) / (beta + self.k)
        entropy = self.temperature / 2 * jnp.log(2 * jnp.pi * jnp.e * std**2)
        drift = self.k * self.theta * first + eta2 * second / 2
        return second, first, (a0 / beta + entropy + drift) / beta

    def occupation_moments(self, start_moments: Moments) -> tuple[Array, Array]:
        """Return the raw moments of the log-spread at a time of law Exp(beta); no policy moves it.

        Args:
            start_moments: first and second raw moment of the spread's start law.
        """
        beta, pull = self.discount, self.k * self.theta
        first = (beta * start_moments[0] + pull) / (beta + self.k)
        second = (beta * start_moments[1] + 2 * pull * first + self.eta**2) / (beta + 2 * self.k)
        return first, second

    def policy_gradient(
        self,
        policy: LinearGaussian,
        start_moments: Moments,
    ) -> LinearGaussian:
        """Return the gradient of eta in slope, intercept and std.

        The rate of advantage is -(eta^2/(2 beta)) (h - m(x)/eta^2)^2 up to a function of x.
        """
        first, second = self.occupation_moments(start_moments)
        eta2 = self.eta**2
        c1, c0 = -self.k - eta2 * policy.slope, self._level() - eta2 * policy.intercept
        scale = 1 / self.discount**2
        return LinearGaussian(
            scale * (c1 * second + c0 * first),
            scale * (c1 * first + c0),
            (self.temperature / policy.std - eta2 * policy.std / self.discount) / self.discount,
        )

    def _level(self):
        return self.k * self.theta + self.eta**2 / 2 + self.rho * self.sigma * self.eta
