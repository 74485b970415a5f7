r"""Discounted linear-quadratic control in several dimensions, with additive noise.

    dX = (A X + B a) dt + \Sigma dW,  r(x, a) = -(x^T M x + 2 a^T R x + a^T N a)/2,         (1)
    \eta(\pi) = E \int_0^\infty e^{-\beta s} [r(X, a) - \gamma log \pi(a|X)] ds.

With P the stabilizing solution of the Riccati equation of (A - \beta/2 I, B, M, N, R),

    V*(x) = -x^T P x/2 + [-tr(\Sigma \Sigma^T P)/2 + (\gamma/2) log det(2 \pi \gamma N^{-1})]/\beta,
    \pi* = N(K x, \gamma N^{-1}),  K = -N^{-1} (B^T P + R).                                (2)

N(K x + b, diag s^2) has the value -x^T P_K x/2 + p^T x + c, where P_K solves a Lyapunov equation
(3). With the raw moments M_1, M_2 of its occupation measure (4), G = -(N K + R + B^T P_K) and
g = B^T p - N b,

    \nabla_K \eta = (G M_2 + g M_1^T)/\beta,  \nabla_b \eta = (G M_1 + g)/\beta,            (5)
    \nabla_s \eta = (\gamma/s - diag(N) s)/\beta.

Source: arXiv 2305.18901; Wang, Zariphopoulou and Zhou 2020.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, check_entries, refuse
from ctrl_jax._door import at_the_door, real_as
from ctrl_jax.environments.linear_gaussian import LinearGaussian
from ctrl_jax.environments.matrix_equations import solve_lyapunov, solve_riccati


class VectorLinearQuadratic(eqx.Module):
    r"""Discounted linear-quadratic control in several dimensions, with its exact solution.

        dX = (A X + B a) dt + Sigma dW,   r(x, a) = -(x^T M x + 2 a^T R x + a^T N a)/2,
        eta(pi) = E \int_0^inf e^{-beta s} [r(X, a) - gamma log pi(a|X)] ds.

    With P the stabilizing solution of the Riccati equation

        F^T P + P F + M - (P B + R^T) N^{-1} (B^T P + R) = 0,   F = A - beta/2 I,

    the optimum is pi* = N(K x, gamma N^{-1}), K = -N^{-1} (B^T P + R), with the value

        -x^T P x/2 + [gamma log det(2 pi gamma N^{-1}) - tr(Sigma Sigma^T P)]/(2 beta).

    Args:
        A: drift of the state (d, d), in 1 / time.
        B: drift of the action (d, m).
        M: cost of the state (d, d), symmetric.
        N: cost of the action (m, m), symmetric and positive definite.
        R: cost of their product (m, d).
        noise: Sigma (d, k), in units of the state per sqrt(time).
        discount: beta, positive, in 1 / time.
        temperature: gamma, positive, in units of the reward per nat.

    Raises:
        ValueError: a shape does not fit, N is not positive definite, no finite optimum exists.

    Source: arXiv 2305.18901; Wang, Zariphopoulou and Zhou 2020.
    """

    A: Float[Array, "d d"] = eqx.field(converter=real_as("VectorLinearQuadratic.A", 2))
    B: Float[Array, "d m"] = eqx.field(converter=real_as("VectorLinearQuadratic.B", 2))
    M: Float[Array, "d d"] = eqx.field(converter=real_as("VectorLinearQuadratic.M", 2))
    N: Float[Array, "m m"] = eqx.field(converter=real_as("VectorLinearQuadratic.N", 2))
    R: Float[Array, "m d"] = eqx.field(converter=real_as("VectorLinearQuadratic.R", 2))
    noise: Float[Array, "d k"] = eqx.field(converter=real_as("VectorLinearQuadratic.noise", 2))
    discount: Float[Array, ""] = eqx.field(converter=real_as("VectorLinearQuadratic.discount", 0))
    temperature: Float[Array, ""] = eqx.field(
        converter=real_as("VectorLinearQuadratic.temperature", 0)
    )

    def __check_init__(self):
        check_entries("VectorLinearQuadratic", **vars(self))
        check_all_positive(
            "VectorLinearQuadratic", discount=self.discount, temperature=self.temperature
        )
        _check_shapes({n: getattr(self, n) for n in ("A", "B", "M", "N", "R", "noise")})
        _check_solvable(self)

    @property
    def state_dimension(self) -> int:
        """Dimension d of the state."""
        return self.A.shape[0]

    @property
    def action_dimension(self) -> int:
        """Dimension m of the action."""
        return self.B.shape[1]

    @property
    def noise_dimension(self) -> int:
        """Number k of Brownian motions."""
        return self.noise.shape[1]

    @at_the_door
    def drift(self, x: Float[Array, "batch d"], action: Float[Array, "batch m"]) -> Array:
        """Return the drift (batch, d)."""
        return x @ self.A.T + action @ self.B.T

    @at_the_door
    def diffusion(self, x: Float[Array, "batch d"], action: Float[Array, "batch m"]) -> Array:
        """Return the diffusion matrix (batch, d, k)."""
        del action
        return jnp.broadcast_to(self.noise[None], (x.shape[0], *self.noise.shape))

    @at_the_door
    def reward(self, x: Float[Array, "batch d"], action: Float[Array, "batch m"]) -> Array:
        """Return the reward per unit of time, without the entropy bonus, shape (batch,)."""
        quadratic = jnp.sum((x @ self.M) * x, axis=1) + jnp.sum((action @ self.N) * action, axis=1)
        return -quadratic / 2 - jnp.sum((x @ self.R.T) * action, axis=1)

    @at_the_door
    def optimal_value(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Return the optimal value -x^T P x/2 + const at x, P solving the Riccati equation."""
        P = self._riccati()
        entropy = self.temperature / 2 * self._log_det_covariance()
        constant = (entropy - jnp.sum((self.noise @ self.noise.T) * P) / 2) / self.discount
        return _evaluate(P, jnp.zeros(P.shape[0], P.dtype), constant, jnp.asarray(x, float))

    @at_the_door
    def optimal_policy(self, x: Float[Array, "*batch d"]) -> tuple[Array, Array]:
        """Return mean (*batch, m) and covariance (*batch, m, m) of the optimal action."""
        x = jnp.asarray(x, float)
        mean = x @ self.optimal_slope().T
        covariance = self.temperature * jnp.linalg.inv(self.N)
        return mean, jnp.broadcast_to(
            _lift(covariance, mean.ndim + 1), mean.shape + mean.shape[-1:]
        )

    def optimal_slope(self) -> Float[Array, "m d"]:
        """Return the slope K = -N^{-1} (B^T P + R) of the optimal policy."""
        return -jnp.linalg.solve(self.N, self.B.T @ self._riccati() + self.R)

    @at_the_door
    def policy_value(
        self, policy: LinearGaussian, x: Float[Array, "*batch d"]
    ) -> Float[Array, "*batch"]:
        """Return the value -x^T P_K x/2 + p^T x + c of the policy N(K x + b, diag s^2) at x.

        It is finite where A + BK - beta/2 I is stable; elsewhere the formula means nothing.
        """
        return _evaluate(*self._coefficients(policy), jnp.asarray(x, float))

    @at_the_door
    def mean_value(
        self,
        policy: LinearGaussian,
        start_moments: tuple[Float[Array, " d"], Float[Array, "d d"]],
    ) -> Float[Array, ""]:
        """Return eta, the value of a policy averaged over a start law.

        Args:
            policy: slope (m, d), intercept (m,), std (m,).
            start_moments: E X (d,) and E X X^T (d, d) of the start law.
        """
        P, p, constant = self._coefficients(policy)
        return p @ start_moments[0] - jnp.sum(P * start_moments[1]) / 2 + constant

    @at_the_door
    def occupation_moments(
        self,
        policy: LinearGaussian,
        start_moments: tuple[Float[Array, " d"], Float[Array, "d d"]],
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Return the raw moments E X and E X X^T at an independent time of law Exp(beta).

        Args:
            policy: slope (m, d), intercept (m,), std (m,).
            start_moments: E X (d,) and E X X^T (d, d) of the start law.
        """
        slope, push = self._closed_loop(policy)
        eye = jnp.eye(self.state_dimension, dtype=self.A.dtype)
        first = jnp.linalg.solve(
            self.discount * eye - slope, self.discount * start_moments[0] + push
        )
        cross = jnp.outer(push, first)
        source = self.discount * start_moments[1] + cross + cross.T + self.noise @ self.noise.T
        return first, solve_lyapunov((slope - self.discount / 2 * eye).T, source)

    @at_the_door
    def policy_gradient(
        self,
        policy: LinearGaussian,
        start_moments: tuple[Float[Array, " d"], Float[Array, "d d"]],
    ) -> LinearGaussian:
        """Return the gradient of eta, the mean value of the policy, in slope, intercept and std.

        Args:
            policy: slope (m, d), intercept (m,), std (m,).
            start_moments: E X (d,) and E X X^T (d, d) of the start law.
        """
        K, b, std = (jnp.asarray(v, float) for v in policy)
        first, second = self.occupation_moments(policy, start_moments)
        P, p, _ = self._coefficients(policy)
        G, g = -(self.N @ K + self.R + self.B.T @ P), self.B.T @ p - self.N @ b
        spread = self.temperature / std - jnp.diag(self.N) * std
        return LinearGaussian(
            (G @ second + jnp.outer(g, first)) / self.discount,
            (G @ first + g) / self.discount,
            spread / self.discount,
        )

    def _closed_loop(self, policy):
        slope, intercept = jnp.asarray(policy.slope, float), jnp.asarray(policy.intercept, float)
        return self.A + self.B @ slope, self.B @ intercept

    def _coefficients(self, policy):
        K, b, std = (jnp.asarray(v, float) for v in policy)
        slope, push = self._closed_loop(policy)
        eye = jnp.eye(self.state_dimension, dtype=self.A.dtype)
        cost = self.M + K.T @ self.R + self.R.T @ K + K.T @ self.N @ K
        P = solve_lyapunov(slope - self.discount / 2 * eye, cost)
        linear = -(P @ push + self.R.T @ b + K.T @ (self.N @ b))
        p = jnp.linalg.solve((self.discount * eye - slope).T, linear)
        entropy = self.temperature / 2 * jnp.sum(jnp.log(2 * jnp.pi * jnp.e * std**2))
        cost_of_action = b @ self.N @ b + jnp.sum(jnp.diag(self.N) * std**2)
        spread = jnp.sum((self.noise @ self.noise.T) * P)
        constant = push @ p - (cost_of_action + spread) / 2 + entropy
        return P, p, constant / self.discount

    def _riccati(self):
        eye = jnp.eye(self.state_dimension, dtype=self.A.dtype)
        return solve_riccati(self.A - self.discount / 2 * eye, self.B, self.M, self.N, self.R)

    def _log_det_covariance(self):
        m = self.action_dimension
        return m * jnp.log(2 * jnp.pi * self.temperature) - jnp.linalg.slogdet(self.N)[1]


def _evaluate(P, p, constant, x):
    return -jnp.sum((x @ P) * x, axis=-1) / 2 + x @ p + constant


def _lift(matrix, ndim):
    return matrix.reshape((1,) * (ndim - matrix.ndim) + matrix.shape)


def _check_shapes(matrices) -> None:
    for name, matrix in matrices.items():
        if matrix.ndim != 2:
            rule = "it must be a matrix"
            raise refuse(f"VectorLinearQuadratic.{name}", matrix, rule, "give it two axes")
    d, m = matrices["B"].shape
    k = matrices["noise"].shape[1]
    wanted = {"A": (d, d), "M": (d, d), "N": (m, m), "R": (m, d), "noise": (d, k)}
    for name, shape in wanted.items():
        if matrices[name].shape != shape:
            rule = f"with B of shape {(d, m)} it must have shape {shape}"
            raise refuse(f"VectorLinearQuadratic.{name}", matrices[name], rule, "reshape it")


def _check_solvable(problem: VectorLinearQuadratic) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(problem)):
        return
    for name in ("M", "N"):
        matrix = np.asarray(getattr(problem, name))
        if not np.allclose(matrix, matrix.T):
            rule, repair = "it must be symmetric", "give the mean of it and its transpose"
            raise refuse(f"VectorLinearQuadratic.{name}", matrix.tolist(), rule, repair)
    eigenvalues = np.linalg.eigvalsh(np.asarray(problem.N))
    if not (eigenvalues > 0).all():
        rule = f"it must be positive definite, and has the eigenvalues {eigenvalues}"
        raise refuse("VectorLinearQuadratic.N", problem.N, rule, "raise its diagonal")
    slope = np.asarray(problem.A + problem.B @ problem.optimal_slope())
    limit = float(problem.discount) / 2
    stable = np.isfinite(slope).all() and (np.linalg.eigvals(slope).real < limit).all()
    if not stable:
        rule = "no finite optimum: no policy brings the eigenvalues of A + BK below its half"
        repair = "raise it, or the costs"
        raise refuse("VectorLinearQuadratic.discount", problem.discount, rule, repair)
