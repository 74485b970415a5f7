"""Controlled SDEs with exact solutions."""

from ctrl_jax.environments.gaussian_steering import GaussianSteering
from ctrl_jax.environments.linear_gaussian import LinearGaussian
from ctrl_jax.environments.mixture import Mixture

__all__ = ["GaussianSteering", "LinearGaussian", "Mixture"]
