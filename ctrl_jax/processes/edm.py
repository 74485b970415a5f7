r"""Noise that grows like time under a scaling: EDM, plain and contractive.

Karras et al. 2022 write x_t = s(t) (x_0 + \sigma(t) e). With \sigma(t) = t and the straight line

    s(t) = s_0 + (1 - s_0) t / \sigma_max,  0 <= t <= T = \sigma_max,                    (1)

this is the linear process of

    b = s' / s,  \sigma^2 = 2 s^2 t,  a = s,  \sqrt{v} = s t,                            (2)

whose probability flow in terms of the denoiser D(x; t) = E[x_0 | x_0 + t e = x] is

    dx/dt = (1/t + s'/s) x - s D(x / s; t) / t.                                          (3)

s_0 = 1 is plain EDM, without drift; s_0 < 1 contracts backwards (b > 0). The process starts at
s_0 x_0, so that a sample is s_0 times a datum: `EDM.unscale` divides by s_0.

Source: Karras et al. 2022, eq. 4 and 81; arXiv 2401.13115.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import as_float, check_all_positive, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import times
from ctrl_jax.processes.base import LinearProcess, Marginal


class EDM(LinearProcess):
    """EDM, plain or contractive: x_t = s(t) (x_0 + t e) with a standard normal e.

    Time is the std of the noise, in units of the data, and s(t) = s_0 + (1 - s_0) t / sigma_max. So
    dX = b X dt + sigma dB with b = s' / s and sigma^2 = 2 s^2 t, and X_t given x_0 has the mean
    a x_0 and the variance v, a = s and sqrt(v) = s t. s_0 = 1 is plain EDM, without drift; s_0 < 1
    contracts backwards. The process starts at s_0 x_0: `unscale` divides by s_0.

    Args:
        sigma_max: the largest noise, and the horizon.
        scale_min: s_0; 1 for plain EDM, 0.9 for the contractive scaling.

    Raises:
        ValueError: an argument is not positive, or scale_min exceeds 1.

    Source: Karras et al. 2022, equations 4 and 81; arXiv 2401.13115.
    """

    sigma_max: float = eqx.field(default=80.0, converter=as_float)
    scale_min: float = eqx.field(default=1.0, converter=as_float)

    def __check_init__(self):
        concrete = check_all_positive("EDM", sigma_max=self.sigma_max, scale_min=self.scale_min)
        if concrete and self.scale_min > 1:
            raise refuse(
                "EDM.scale_min", self.scale_min, "it must not exceed 1", "give 1 for plain EDM"
            )

    @property
    def horizon(self) -> Any:  # a float, or a tracer where the process is an argument of jit
        """T = sigma_max."""
        return self.sigma_max

    @property
    def end(self) -> Any:
        """The least noise of Karras et al. 2022, 0.002 in units of the data; less if T is small."""
        return min(2e-3, 1e-3 * self.horizon)

    def _slope(self):
        return (1 - self.scale_min) / self.sigma_max

    def _scale(self, t):
        return self.scale_min + self._slope() * t

    @at_the_door
    def marginal(self, t: Float[Array, "*t"]) -> Marginal:
        """Return the scale s and the std s t."""
        t = times(t)
        scale = self._scale(t)
        return Marginal(scale, scale * t)

    @at_the_door
    def time_at(self, ratio: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return `ratio` itself, kept within [0, sigma_max]: time is the noise-to-signal ratio."""
        return jnp.clip(jnp.asarray(ratio), 0.0, self.horizon)

    @at_the_door
    def time_beyond(self, ratio: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return `ratio` itself: noise of any std is the process's, also past sigma_max.

        Args:
            ratio: noise-to-signal ratios, of any shape.
        """
        return jnp.asarray(ratio)
