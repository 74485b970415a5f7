"""The policy of a steering environment as plain data: the exact score plus a network."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._checks import check_annotated
from ctrl_jax._typing import Model, ScoreFn
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.models.spec import score_model
from ctrl_jax.networks.functional import as_model
from ctrl_jax.networks.score.mlp import MLP
from ctrl_jax.processes import VP, LinearProcess


@dataclasses.dataclass(frozen=True)
class SteeringSpec:
    """A mixture on the line under a VP, its reward, and the width of the network that steers it.

    Args:
        means: of the data's components.
        variances: of the data's components.
        weights: of the data's components; they sum to one.
        curvature: of the reward -curvature (x - target)^2 / 2.
        target: where the reward is largest.
        penalty: KL penalty lambda, in units of the reward per nat.
        beta_min: noise rate of the process at time 0, per unit of time.
        beta_max: noise rate of the process at its horizon, per unit of time.
        horizon: of the process.
        end: forward time at which sampling stops.
        width: hidden size of the network.
        depth: number of blocks of the network.
    """

    means: tuple[float, ...]
    variances: tuple[float, ...]
    weights: tuple[float, ...]
    curvature: float
    target: float
    penalty: float
    beta_min: float = 0.2
    beta_max: float = 2.0
    horizon: float = 3.0
    end: float = 1e-2
    width: int = 64
    depth: int = 2

    def __post_init__(self):
        check_annotated(self, "SteeringSpec", signed=("means", "target", "weights"))

    conditions = 0

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

    def make_network(self, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
        """Return an MLP that starts at zero, for states of `shape`, its arithmetic in `dtype`."""
        sizes = {"width": self.width, "depth": self.depth, "horizon": self.horizon}
        return as_model(lambda rngs: MLP(shape, **sizes, dtype=dtype, rngs=rngs))

    def prediction(self, process: LinearProcess, network: Callable[..., Array]) -> ScoreFn:
        """Return the exact score plus the network."""
        exact = self.environment().score
        return lambda t, x: exact(t, x) + network(t, x)

    def model(self, shape: tuple[int, ...] = (1,), dtype: jnp.dtype | None = None) -> Model:
        """Return the score model for states of `shape`, its network's arithmetic in `dtype`."""
        return score_model(self, shape, dtype)
