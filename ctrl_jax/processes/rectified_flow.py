r"""Rectified flow: data and noise mixed along straight lines.

    x_t = (1 - t/T) x_0 + (t/T) \epsilon,   a = 1 - t/T,   \sqrt v = t/T,                   (1)
    b = -1 / (T - t),   \sigma^2 = 2 t / (T (T - t)),   u = dx/dt = (\epsilon - x_0) / T.    (2)

At the horizon a = 0: the state is pure noise, its score is -x whatever the data, and b and \sigma
have no bound. The flow u still tells of the data there, and with ``prediction="flow"`` (or "data"
or "v") a sampler starts at the horizon itself. Written as a score, s = -(x + (T - t) u) T / t, it
no longer tells: whatever works with scores or noises reads the state at the horizon as one at the
time T (1 - 2^{-12}), `latest`. For data N(m, s^2) the start N(0, 1) then misses the mean of the law
at that time by 2^{-12} m, which the sampler turns into an error of 2^{-12} m s at its end, and
float32 keeps four digits of the data in the first step.

The SDE of noise level l has the noise l sigma. Flow-GRPO and its kin write it, at T = 1, as

    dx = [u + \eta^2 / (2 (1 - t)) (x + (1 - t) u)] dt + \eta \sqrt{t / (1 - t)} dw,        (3)

t falling, which is l = \eta / \sqrt 2, `flow_noise_level`.

Source: Liu, Gong and Liu 2023 (arXiv 2209.03003); Lipman et al. 2023 (2210.02747);
Esser et al. 2024 (2403.03206), section 2; Liu et al. 2025 (2505.05470) (3).
"""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import as_float, check_all_positive, check_non_negative
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import times
from ctrl_jax.processes.base import LinearProcess, Marginal
from ctrl_jax.processes.prediction import BLIND, Prediction


class RectifiedFlow(LinearProcess):
    """Rectified flow (flow matching on straight lines): a = 1 - t/T, std = t/T, prior N(0, 1).

    Args:
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: the horizon is not positive.

    Source: Liu, Gong and Liu 2023, eq. 1.
    """

    horizon: float = eqx.field(default=1.0, converter=as_float, kw_only=True)

    def __check_init__(self):
        check_all_positive("RectifiedFlow", horizon=self.horizon)

    @property
    def latest(self) -> Any:
        """T (1 - 2^{-12}): at the horizon itself the score does not depend on the data."""
        return self.horizon * (1 - 2.0**-12)

    def forward_time(
        self, r: Float[Array, "*t"], prediction: Prediction = "score"
    ) -> Float[Array, "*t"]:
        """Return the forward time T - r of a reverse time, at most `latest` for score and noise.

        Args:
            r: reverse times.
            prediction: what is asked there.
        """
        t = self.horizon - times(r)
        return jnp.minimum(t, self.latest) if prediction in BLIND else t

    @at_the_door
    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return a = 1 - t/T and the std t/T."""
        std = times(t) / self.horizon
        return Marginal(1 - std, std)

    @at_the_door
    def time_at(self, ratio: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return T ratio / (1 + ratio), the inverse of `noise_to_signal`, at most `latest`.

        Args:
            ratio: noise-to-signal ratios, of any shape.
        """
        return jnp.minimum(self.horizon / (1 + 1 / times(ratio)), self.latest)


def flow_noise_level(eta: float) -> float:
    r"""Return the noise level of a `RectifiedFlow` at which its noise is eta sqrt(t / (1 - t)).

    It is eta / sqrt(2), since sigma^2 = 2 t / (1 - t) at T = 1; and the same for every horizon.

    Args:
        eta: noise in the unit of Flow-GRPO, where .7 is usual; zero or above.

    Raises:
        ValueError: eta is negative or not finite.

    Source: Liu et al. 2505.05470.
    """
    check_non_negative("eta", eta)
    return float(eta) / math.sqrt(2)
