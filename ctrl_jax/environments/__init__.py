"""Controlled SDEs, most of them with exact solutions, and their simulation."""

from ctrl_jax.environments.adapted import Adapted
from ctrl_jax.environments.gaussian_steering import GaussianSteering
from ctrl_jax.environments.linear_gaussian import LinearGaussian
from ctrl_jax.environments.linear_quadratic import LinearQuadratic
from ctrl_jax.environments.mixture import Mixture
from ctrl_jax.environments.pair_trading import PairTrading
from ctrl_jax.environments.pendulum import Pendulum
from ctrl_jax.environments.simulation import ControlledPath, ControlledSDE, simulate_control
from ctrl_jax.environments.vector_linear_quadratic import VectorLinearQuadratic

__all__ = [
    "Adapted",
    "ControlledPath",
    "ControlledSDE",
    "GaussianSteering",
    "LinearGaussian",
    "LinearQuadratic",
    "Mixture",
    "PairTrading",
    "Pendulum",
    "VectorLinearQuadratic",
    "simulate_control",
]
