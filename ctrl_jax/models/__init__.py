"""Models as they are saved and loaded: process, network, prediction, conditions and end."""

from ctrl_jax.models.diffusion import DiffusionSpec
from ctrl_jax.models.image import ImageDiffusionSpec
from ctrl_jax.models.spec import ModelSpec, score_model
from ctrl_jax.models.steering import SteeringSpec

__all__ = ["DiffusionSpec", "ImageDiffusionSpec", "ModelSpec", "SteeringSpec", "score_model"]
