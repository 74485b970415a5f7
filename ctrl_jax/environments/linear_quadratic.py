r"""Discounted linear-quadratic control with control in the noise: value, policy, gradient known.

    dX = (A X + B a) dt + (C X + D a) dW,                                                 (1)
    r(x, a) = -(M/2 x^2 + R x a + N/2 a^2 + P x + Q a),
    \eta(\pi) = E \int_0^\infty e^{-\beta s} [r(X, a) - \gamma log \pi(a|X)] ds.

With E = B + C D, \rho = \beta - 2A - C^2 and n = N - k_2 D^2 > 0 the optimum is

    V*(x) = k_2 x^2/2 + k_1 x + k_0,  \pi* = N(((k_2 E - R) x + k_1 B - Q)/n, \gamma/n),  (2)
    (E^2 + \rho D^2) k_2^2 + (M D^2 - 2 E R - \rho N) k_2 + R^2 - M N = 0 (smaller root),
    k_1 = [-(k_2 E - R) Q/n - P] / [\beta - A - (k_2 E - R) B/n],
    k_0 = [(k_1 B - Q)^2/(2n) + (\gamma/2) log(2 \pi \gamma/n)] / \beta.

The policy N(K x + b, s^2) has the value v_2 x^2/2 + v_1 x + v_0 with

    v_2 = (-M - 2RK - N K^2) / (\beta - 2(A + BK) - (C + DK)^2),                          (3)

v_1 and v_0 likewise, and an occupation measure whose first two moments M_1, M_2 are as simple (4).
The rate of advantage

    q(x, a; \pi) = r + (A x + B a) V_x + (C x + D a)^2 V_xx/2 - \beta V                   (5)

is quadratic in a, with curvature -nn = -(N - D^2 v_2), so the policy gradient (6) and the maximizer
of E_{\pi'}[q - \gamma log \pi'] - C KL(\pi' || \pi), which is \pi' ~ exp((q + C log \pi)/(\gamma +
C)) (7), are closed forms too. Source: arXiv 2305.18901; Wang, Zariphopoulou and Zhou 2020.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import (
    check_all_positive,
    check_entries,
    check_non_negative,
    check_positive,
    refuse,
)
from ctrl_jax._door import at_the_door, real_as
from ctrl_jax.environments.linear_gaussian import LinearGaussian, Moments


class LinearQuadratic(eqx.Module):
    r"""Discounted linear-quadratic control in one dimension, with its exact solution.

        dX = (A X + B a) dt + (C X + D a) dW,
        r(x, a) = -(M/2 x^2 + R x a + N/2 a^2 + P x + Q a),
        eta(pi) = E \int_0^inf e^{-beta s} [r(X, a) - gamma log pi(a|X)] ds.

    With E = B + C D, rho = beta - 2A - C^2 and n = N - k_2 D^2 > 0 the optimum is

        V*(x) = k_2 x^2/2 + k_1 x + k_0,   pi* = N(((k_2 E - R) x + k_1 B - Q)/n, gamma/n),
        (E^2 + rho D^2) k_2^2 + (M D^2 - 2 E R - rho N) k_2 + R^2 - M N = 0 (smaller root).

    The value of a policy N(K x + b, s^2) is quadratic in x too.

    Args:
        A, B: drift per unit of state and of action, in 1 / time.
        C, D: diffusion per unit of state and of action, in 1 / sqrt(time).
        M, N, R: quadratic costs of the state, of the action, and of their product.
        P, Q: linear costs of the state and of the action.
        discount: beta, positive, in 1 / time.
        temperature: gamma, positive, in units of the reward per nat.

    Raises:
        ValueError: discount, temperature or N is not positive; the problem has no finite optimum.

    Source: arXiv 2305.18901; Wang, Zariphopoulou and Zhou 2020.
    """

    A: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.A", 0))
    B: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.B", 0))
    C: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.C", 0))
    D: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.D", 0))
    M: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.M", 0))
    N: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.N", 0))
    R: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.R", 0))
    P: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.P", 0))
    Q: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.Q", 0))
    discount: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.discount", 0))
    temperature: Float[Array, ""] = eqx.field(converter=real_as("LinearQuadratic.temperature", 0))

    state_dimension = 1
    action_dimension = 1
    noise_dimension = 1

    def __check_init__(self):
        check_entries("LinearQuadratic", **vars(self))
        check_all_positive(
            "LinearQuadratic", N=self.N, discount=self.discount, temperature=self.temperature
        )
        _check_solvable(self)

    @at_the_door
    def drift(self, x: Float[Array, "batch 1"], action: Float[Array, "batch 1"]) -> Array:
        """Return the drift (batch, 1)."""
        return self.A * x + self.B * action

    @at_the_door
    def diffusion(self, x: Float[Array, "batch 1"], action: Float[Array, "batch 1"]) -> Array:
        """Return the diffusion matrix (batch, 1, 1)."""
        return (self.C * x + self.D * action)[:, :, None]

    @at_the_door
    def reward(self, x: Float[Array, "batch 1"], action: Float[Array, "batch 1"]) -> Array:
        """Return the reward per unit of time, without the entropy bonus, shape (batch,)."""
        return self._reward(x[:, 0], action[:, 0])

    @at_the_door
    def optimal_value(self, x: Float[Array, "..."] | float) -> Float[Array, "..."]:
        """Return the optimal value V*(x) = k_2 x^2/2 + k_1 x + k_0, in units of the reward.

        Args:
            x: states, shape (), (batch,) or (batch, 1).

        Returns:
            Values, shape () or (batch,).
        """
        return _evaluate(self._optimal_coefficients(), _scalar(x))

    @at_the_door
    def optimal_policy(self, x: Float[Array, "..."] | float) -> tuple[Array, Array]:
        """Return mean and variance of the optimal action.

        Args:
            x: states, of any shape.

        Returns:
            Both of x's shape.
        """
        x, best = jnp.asarray(x, float), self.optimal_linear_policy()
        return best.slope * x + best.intercept, jnp.broadcast_to(jnp.square(best.std), x.shape)

    def optimal_linear_policy(self) -> LinearGaussian:
        """Return the optimal policy N(slope x + intercept, std^2) by its parameters."""
        k2, k1, _ = self._optimal_coefficients()
        n = self.N - k2 * self.D**2
        slope = (k2 * (self.B + self.C * self.D) - self.R) / n
        return LinearGaussian(slope, (k1 * self.B - self.Q) / n, jnp.sqrt(self.temperature / n))

    @at_the_door
    def policy_value(
        self, policy: LinearGaussian, x: Float[Array, "..."] | float
    ) -> Float[Array, "..."]:
        """Return the value v_2 x^2/2 + v_1 x + v_0 of a linear-Gaussian policy at x.

        It is finite where the policy is `stable`; elsewhere the formula means nothing.

        Args:
            policy: slope, intercept and std.
            x: states, shape (), (batch,) or (batch, 1).

        Returns:
            Values, shape () or (batch,), in units of the reward.
        """
        return _evaluate(self._coefficients(policy), _scalar(x))

    def stable(self, policy: LinearGaussian) -> Bool[Array, "..."]:
        """Return whether beta > 2(A + BK) + (C + DK)^2, so that the policy's value is finite."""
        drift, noise = self.A + self.B * policy.slope, self.C + self.D * policy.slope
        return jnp.asarray(self.discount > 2 * drift + noise**2)

    def mean_value(self, policy: LinearGaussian, start_moments: Moments) -> Float[Array, "..."]:
        """Return eta, the value of a linear-Gaussian policy averaged over a start law.

        Args:
            policy: slope, intercept and std; of one shape (...) they are as many policies.
            start_moments: first and second raw moment of the start law.

        Returns:
            As many values, shape (...), in units of the reward.
        """
        v2, v1, v0 = self._coefficients(policy)
        return v2 * start_moments[1] / 2 + v1 * start_moments[0] + v0

    def occupation_moments(
        self, policy: LinearGaussian, start_moments: Moments
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the first two raw moments of X at an independent time of law Exp(beta).

        Args:
            policy: slope, intercept and std.
            start_moments: first and second raw moment of the start law.
        """
        slope, intercept, std = policy
        noise = self.C + self.D * slope
        drift = self.A + self.B * slope
        first = (self.discount * start_moments[0] + self.B * intercept) / (self.discount - drift)
        linear = 2 * (self.B * intercept + noise * self.D * intercept) * first
        constant = self.D**2 * (intercept**2 + std**2)
        rate = self.discount - 2 * drift - noise**2
        return first, (self.discount * start_moments[1] + linear + constant) / rate

    @at_the_door
    def advantage_rate(
        self,
        policy: LinearGaussian,
        x: Float[Array, "..."] | float,
        action: Float[Array, "..."] | float,
    ) -> Float[Array, "..."]:
        """Return q = r + (A x + B a) V_x + (C x + D a)^2 V_xx/2 - beta V of a policy's value V.

        Args:
            policy: slope, intercept and std.
            x: states, shape (), (batch,) or (batch, 1).
            action: actions, of x's shape.

        Returns:
            Rates of advantage, shape () or (batch,), in units of the reward per time.
        """
        x, a = _scalar(x), _scalar(action)
        v2, v1, v0 = self._coefficients(policy)
        drift, noise = self.A * x + self.B * a, self.C * x + self.D * a
        growth = drift * (v2 * x + v1) + noise**2 * v2 / 2
        return self._reward(x, a) + growth - self.discount * _evaluate((v2, v1, v0), x)

    def policy_gradient(self, policy: LinearGaussian, start_moments: Moments) -> LinearGaussian:
        """Return the gradient of eta, the mean value of the policy, in slope, intercept and std.

        Args:
            policy: where the gradient is taken.
            start_moments: first and second raw moment of the start law.
        """
        first, second = self.occupation_moments(policy, start_moments)
        curvature, slope, intercept = self._greedy(policy)
        c1 = slope - curvature * policy.slope
        c0 = intercept - curvature * policy.intercept
        spread = self.temperature / policy.std - curvature * policy.std
        return LinearGaussian(
            (c1 * second + c0 * first) / self.discount,
            (c1 * first + c0) / self.discount,
            spread / self.discount,
        )

    @at_the_door
    def mirror_step(
        self, policy: LinearGaussian, penalty: Float[Array, ""] | float
    ) -> LinearGaussian:
        """Return the policy pi' ~ exp((q + C log pi) / (gamma + C)), state by state.

        It maximizes E[q - gamma log pi'] - C KL(pi' || pi); C = 0 is policy iteration.

        Args:
            policy: the old policy.
            penalty: C >= 0, in units of the reward per time and nat.
        """
        check_non_negative("penalty", penalty)
        curvature, slope, intercept = self._greedy(policy)
        pull = penalty / jnp.square(jnp.asarray(policy.std, float))
        precision = curvature + pull
        return LinearGaussian(
            (slope + pull * policy.slope) / precision,
            (intercept + pull * policy.intercept) / precision,
            jnp.sqrt((self.temperature + penalty) / precision),
        )

    def _reward(self, x, a):
        quadratic = self.M / 2 * x**2 + self.R * x * a + self.N / 2 * a**2
        return -(quadratic + self.P * x + self.Q * a)

    def _greedy(self, policy):
        """nn, and the coefficients of a x and a in q(x, a)."""
        v2, v1, _ = self._coefficients(policy)
        curvature = self.N - self.D**2 * v2
        return curvature, v2 * (self.B + self.C * self.D) - self.R, v1 * self.B - self.Q

    def _coefficients(self, policy):
        slope, b, std = (jnp.asarray(v, float) for v in policy)
        noise, drift = self.C + self.D * slope, self.A + self.B * slope
        cost = self.M + 2 * self.R * slope + self.N * slope**2
        v2 = -cost / (self.discount - 2 * drift - noise**2)
        carried = (self.B + noise * self.D) * b * v2
        v1 = carried - self.P - self.R * b - self.N * slope * b - self.Q * slope
        v1 = v1 / (self.discount - drift)
        entropy = self.temperature / 2 * jnp.log(2 * jnp.pi * jnp.e * std**2)
        second = b**2 + std**2
        v0 = (self.D**2 * v2 - self.N) / 2 * second + (self.B * v1 - self.Q) * b + entropy
        return v2, v1, v0 / self.discount

    def _quadratic_equation(self):
        cross = self.B + self.C * self.D
        rho = self.discount - 2 * self.A - self.C**2
        linear = self.M * self.D**2 - 2 * cross * self.R - rho * self.N
        return cross**2 + rho * self.D**2, linear, self.R**2 - self.M * self.N

    def _optimal_coefficients(self):
        a2, a1, a0 = self._quadratic_equation()
        root = jnp.sqrt(a1**2 - 4 * a2 * a0)
        # Two forms of the smaller root, each without cancellation on its side of a1 = 0.
        left = a1 < 0
        k2 = jnp.where(
            left,
            2 * a0 / jnp.where(left, root - a1, 1.0),
            -(a1 + root) / jnp.where(left, 1.0, 2 * a2),
        )
        n = self.N - k2 * self.D**2
        slope = (k2 * (self.B + self.C * self.D) - self.R) / n
        k1 = (-slope * self.Q - self.P) / (self.discount - self.A - slope * self.B)
        entropy = self.temperature / 2 * jnp.log(2 * jnp.pi * self.temperature / n)
        return k2, k1, ((k1 * self.B - self.Q) ** 2 / (2 * n) + entropy) / self.discount


def _scalar(x):
    x = jnp.asarray(x, float)
    return x[:, 0] if x.ndim == 2 else x


def _evaluate(coefficients, x):
    second, first, constant = coefficients
    return second * x**2 / 2 + first * x + constant


def _check_solvable(problem: LinearQuadratic) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(problem)):
        return
    a2, a1, a0 = (float(c) for c in problem._quadratic_equation())
    if a1**2 - 4 * a2 * a0 < 0 or (a1 >= 0 and a2 <= 0):
        equation = f"{a2:.4g} k^2 + {a1:.4g} k + {a0:.4g} = 0"
        rule, repair = "it has no admissible root", "raise the discount or the costs M and N"
        raise refuse("LinearQuadratic's optimum", equation, f"no finite optimum: {rule}", repair)
    k2, best = problem._optimal_coefficients()[0], problem.optimal_linear_policy()
    check_positive("LinearQuadratic: N - k2 D^2", problem.N - k2 * problem.D**2)
    if not bool(problem.stable(best)):
        rule = "under the optimal policy it must exceed 2 (A + BK) + (C + DK)^2"
        raise refuse("LinearQuadratic.discount", problem.discount, rule, "raise it")
