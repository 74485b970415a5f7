"""The policy of a steering environment as plain data: the exact score plus a network."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ctrl_jax._typing import Model
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.networks.functional import as_model
from ctrl_jax.networks.score.mlp import MLP
from ctrl_jax.processes import VP


@dataclasses.dataclass(frozen=True)
class SteeringSpec:
    """A mixture on the line under a VP, its reward, and the width of the network that steers it."""

    means: tuple[float, ...]
    """Of the data's components."""

    variances: tuple[float, ...]
    """Of the data's components."""

    weights: tuple[float, ...]
    """Of the data's components; they sum to one."""

    curvature: float
    """Of the reward -curvature (x - target)^2 / 2."""

    target: float
    """Where the reward is largest."""

    penalty: float
    """KL penalty lambda, in units of the reward per nat."""

    beta_min: float = 0.2
    """Noise rate of the process at time 0, per unit of time."""

    beta_max: float = 2.0
    """Noise rate of the process at its horizon, per unit of time."""

    horizon: float = 3.0
    """Of the process."""

    end: float = 1e-2
    """Forward time at which sampling stops."""

    width: int = 64
    """Hidden size of the network."""

    depth: int = 2
    """Number of blocks of the network."""

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "SteeringSpec":
        """Return the spec of a record of plain values."""
        return cls(**record)

    def process(self) -> VP:
        """Return the forward process."""
        return VP(self.beta_min, self.beta_max, horizon=self.horizon)

    def environment(self) -> GaussianSteering:
        """Return the environment, whose score is the pretrained one."""
        return GaussianSteering(
            self.process(),
            self.means,
            self.variances,
            self.curvature,
            self.target,
            self.penalty,
            weights=self.weights,
        )

    def model(self, shape: tuple[int, ...] = (1,), dtype: jnp.dtype | None = None) -> Model:
        """Return the exact score plus an MLP that starts at zero, its arithmetic in `dtype`."""
        environment = self.environment()
        correction = as_model(
            lambda rngs: MLP(
                shape,
                width=self.width,
                depth=self.depth,
                horizon=self.horizon,
                dtype=dtype,
                rngs=rngs,
            )
        )

        def apply(params, t, x):
            return environment.score(t, x) + correction.apply(params, t, x).astype(x.dtype)

        return Model(correction.init, apply)
