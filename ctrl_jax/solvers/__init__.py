"""Samplers on diffrax solvers, the law of their steps, and Girsanov densities."""

from ctrl_jax.solvers import girsanov, guidance, jacobian_trace, likelihood
from ctrl_jax.solvers.adaptive import AdaptiveSamples, sample_adaptive
from ctrl_jax.solvers.brownian import BrownianPath
from ctrl_jax.solvers.coefficients_preserving import CoefficientsPreserving
from ctrl_jax.solvers.consistency_sampling import sample_consistency
from ctrl_jax.solvers.dpm_solver import DPMSolverPP2M
from ctrl_jax.solvers.euler_maruyama import EulerMaruyama
from ctrl_jax.solvers.exponential_euler import Ancestral, ExponentialEuler
from ctrl_jax.solvers.gaussian_step import GaussianSolver, Kernel, gaussian_log_prob
from ctrl_jax.solvers.guidance import Inpainting
from ctrl_jax.solvers.likelihood import bits_per_dim, log_likelihood
from ctrl_jax.solvers.predictor_corrector import PredictorCorrector
from ctrl_jax.solvers.reverse_solver import ReverseSolver
from ctrl_jax.solvers.sampling import sample
from ctrl_jax.solvers.simulation import Path, simulate
from ctrl_jax.solvers.stochastic_heun import StochasticHeun

__all__ = [
    "AdaptiveSamples",
    "Ancestral",
    "BrownianPath",
    "CoefficientsPreserving",
    "DPMSolverPP2M",
    "EulerMaruyama",
    "ExponentialEuler",
    "GaussianSolver",
    "Inpainting",
    "Kernel",
    "Path",
    "PredictorCorrector",
    "ReverseSolver",
    "StochasticHeun",
    "bits_per_dim",
    "gaussian_log_prob",
    "girsanov",
    "guidance",
    "jacobian_trace",
    "likelihood",
    "log_likelihood",
    "sample",
    "sample_adaptive",
    "sample_consistency",
    "simulate",
]
