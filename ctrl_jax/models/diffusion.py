"""A diffusion model as plain data: enough to build its process and its score network again."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from ctrl_jax._typing import Model
from ctrl_jax.networks.functional import as_model
from ctrl_jax.networks.score.dit import DiT
from ctrl_jax.networks.score.mlp import MLP
from ctrl_jax.processes import VP, LinearProcess
from ctrl_jax.processes import parameterization as parameterization


@dataclasses.dataclass(frozen=True)
class DiffusionSpec:
    """A variance-preserving process and a network that predicts its velocity.

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

    def __post_init__(self):
        if self.network not in ("mlp", "dit"):
            raise ValueError(f"model.network must be mlp or dit, got {self.network!r}.")
        for name in ("width", "depth", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.end < 1:
            raise ValueError(f"model.end must lie in (0, 1), got {self.end}.")

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "DiffusionSpec":
        """Return the spec of a record of plain values."""
        return cls(**record)

    def process(self) -> LinearProcess:
        """Return the forward process."""
        return VP(self.beta_min, self.beta_max)

    def model(self, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
        """Return the score model for examples of `shape`, its arithmetic in `dtype`."""
        process = self.process()

        def make_network(rngs: nnx.Rngs) -> nnx.Module:
            if self.network == "mlp":
                return MLP(shape, width=self.width, depth=self.depth, dtype=dtype, rngs=rngs)
            if len(shape) != 3:
                raise ValueError(f"dit needs images (height, width, channels), got {shape}.")
            return DiT(
                shape,
                patch=self.patch,
                width=self.width,
                depth=self.depth,
                dtype=dtype,
                rngs=rngs,
            )

        network = as_model(make_network)

        def apply(params, t, x, *conditions):
            def velocity(t, x, *conditions):
                return network.apply(params, t, x, *conditions).astype(x.dtype)

            return parameterization.from_v(process, velocity)(t, x, *conditions)

        return Model(network.init, apply)
