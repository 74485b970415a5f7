"""Samplers on diffrax solvers, the law of their steps, and Girsanov densities."""

from ctrl_jax.solvers import girsanov
from ctrl_jax.solvers.consistency import sample_consistency
from ctrl_jax.solvers.euler_maruyama import EulerMaruyama
from ctrl_jax.solvers.exponential_euler import ExponentialEuler
from ctrl_jax.solvers.kernels import GaussianSolver, Kernel, gaussian_log_prob
from ctrl_jax.solvers.simulate import Path, sample, simulate

__all__ = [
    "EulerMaruyama",
    "ExponentialEuler",
    "GaussianSolver",
    "Kernel",
    "Path",
    "gaussian_log_prob",
    "girsanov",
    "sample",
    "sample_consistency",
    "simulate",
]
