"""A diffusion model as plain data: enough to build its process and its score network again."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from ctrl_jax._checks import (
    check_choice,
    check_count,
    check_fields,
    check_finite,
    check_positive,
    refuse,
)
from ctrl_jax._typing import Model
from ctrl_jax.models.spec import image_shape, score_model
from ctrl_jax.networks.functional import as_model
from ctrl_jax.networks.score.dit import DiT
from ctrl_jax.networks.score.mlp import MLP
from ctrl_jax.processes import VP, parameterization


@dataclasses.dataclass(frozen=True)
class DiffusionSpec:
    """A variance-preserving process and a network that predicts v.

    Args:
        network: mlp is the fastest on a CPU; dit is a small diffusion transformer.
        width: hidden size of the network (a multiple of 4 for dit).
        depth: number of blocks of the network.
        patch: side of a patch, in pixels (dit only).
        beta_min: noise rate of the process at time 0, per unit of time.
        beta_max: noise rate of the process at its horizon, per unit of time.
        end: forward time at which sampling stops, of a horizon of 1; the noise left there is small.
    """

    network: Literal["mlp", "dit"] = "mlp"
    width: int = 256
    depth: int = 3
    patch: int = 2
    beta_min: float = 0.1
    beta_max: float = 20.0
    end: float = 5e-3

    conditions = None  # read by rewards, and by no network here
    prediction = staticmethod(parameterization.from_v)

    def __post_init__(self):
        check_choice("model.network", self.network, ("mlp", "dit"))
        check_fields(self, check_count, "width", "depth", "patch", group="model")
        check_fields(self, check_positive, "beta_min", "beta_max", group="model")
        if not 0 < check_finite("model.end", self.end) < 1:
            raise refuse("model.end", self.end, "it must lie in (0, 1)", "give e.g. 0.005")

    def process(self) -> VP:
        """Return the forward process."""
        return VP(self.beta_min, self.beta_max)

    def make_network(self, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
        """Return the network of v for examples of `shape`, its arithmetic in `dtype`.

        Raises:
            ValueError: a dit is asked for something else than images (height, width, channels).
        """
        sizes = {"width": self.width, "depth": self.depth, "dtype": dtype}
        if self.network == "mlp":
            return as_model(lambda rngs: MLP(shape, **sizes, rngs=rngs))
        image = image_shape(shape)
        return as_model(lambda rngs: DiT(image, patch=self.patch, **sizes, rngs=rngs))

    def model(self, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
        """Return the score model for examples of `shape`, its arithmetic in `dtype`."""
        return score_model(self, shape, dtype)
