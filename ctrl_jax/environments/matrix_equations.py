r"""Two matrix equations of linear-quadratic control, as traceable functions.

    Lyapunov:  F^T P + P F + Q = 0,                                                       (1)
    Riccati:   F^T P + P F + M - (P B + R^T) N^{-1} (B^T P + R) = 0, P stabilizing.       (2)

(1) is one linear system. (2) comes from the sign of the Hamiltonian matrix H,

    H = [[F', -B N^{-1} B^T], [-M', -F'^T]],  F' = F - B N^{-1} R, M' = M - R^T N^{-1} R,  (3)

whose Newton iteration Z <- (c Z + (c Z)^{-1})/2 converges quadratically; then sign(H) + I
annihilates the stable subspace spanned by [I; P]. Two steps of Kleinman's iteration polish P.
Source: Roberts 1980; Kleinman 1968. Dimensions are meant to be small.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NEWTON_STEPS = 30


def solve_lyapunov(F: Float[Array, "d d"], Q: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Return P of (1).

    Args:
        F: a matrix no two of whose eigenvalues add up to zero.
        Q: right-hand side.
    """
    eye = jnp.eye(F.shape[0], dtype=F.dtype)
    system = jnp.kron(F.T, eye) + jnp.kron(eye, F.T)
    return jnp.linalg.solve(system, -Q.reshape(-1)).reshape(F.shape)


def solve_riccati(
    F: Float[Array, "d d"],
    B: Float[Array, "d m"],
    M: Float[Array, "d d"],
    N: Float[Array, "m m"],
    R: Float[Array, "m d"],
) -> Float[Array, "d d"]:
    """Return the stabilizing solution P of (2), not finite where there is none.

    Args:
        F: drift of the state.
        B: drift of the control.
        M: cost of the state, symmetric.
        N: cost of the control, symmetric and positive definite.
        R: cost of their product, (control, state).
    """
    d = F.shape[0]
    drift = F - B @ jnp.linalg.solve(N, R)
    cost = M - R.T @ jnp.linalg.solve(N, R)
    hamiltonian = jnp.block([[drift, -B @ jnp.linalg.solve(N, B.T)], [-cost, -drift.T]])
    sign = _matrix_sign(hamiltonian) + jnp.eye(2 * d, dtype=F.dtype)
    P = jnp.linalg.lstsq(sign[:, d:], -sign[:, :d])[0]
    for _ in range(2):
        K = -jnp.linalg.solve(N, B.T @ P + R)
        P = solve_lyapunov(F + B @ K, M + K.T @ R + R.T @ K + K.T @ N @ K)
    return (P + P.T) / 2


def _matrix_sign(Z):
    def newton(Z, _):
        # Scaling by the determinant first brings the eigenvalues near the unit circle.
        scale = jnp.exp(-jnp.linalg.slogdet(Z)[1] / Z.shape[0])
        return (scale * Z + jnp.linalg.inv(Z) / scale) / 2, None

    return jax.lax.scan(newton, Z, length=NEWTON_STEPS)[0]
