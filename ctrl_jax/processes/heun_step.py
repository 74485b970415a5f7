r"""One step of the probability flow by Heun's method, in the noise-to-signal ratio.

In y = x / a and \sigma = \sqrt{v} / a the probability flow of every linear process is

    dy / d\sigma = e(t, a y),   e = -\sqrt{v} s the noise prediction,                        (1)

with no stiff linear part. Source: Karras et al. 2022, section 3.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._numerics import expand
from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes.base import LinearProcess


def heun_step(
    process: LinearProcess,
    score_fn: ScoreFn,
    x: Float[Array, "batch ..."],
    t: Float[Array, "*b"],
    t_next: Float[Array, "*b"],
) -> Float[Array, "batch ..."]:
    """Return one step of Heun's method for dy / dsigma = -std s in y = x / a and sigma = std / a.

    It is of second order in sigma; s is the score and the ODE the probability flow. a and std are
    the scale and the standard deviation of the process at the time of x.

    Args:
        process: the forward process.
        score_fn: ``score_fn(t, x)``.
        x: states, shape (batch, ...).
        t: their forward times, of shape () or (batch,).
        t_next: forward times of the result; zero where no noise shall be left.
    """
    t, t_next = jnp.asarray(t), jnp.asarray(t_next)
    (scale, std), (scale_next, std_next) = (
        [expand(c, x) for c in process.marginal(time)] for time in (t, t_next)
    )
    change = std_next / scale_next - std / scale
    slope = -std * score_fn(t, x)
    euler = scale_next * (x / scale + change * slope)
    # Where no noise is left the score may be singular: there Euler's step is the step.
    last = std_next == 0
    t_next, end = jnp.where(last.reshape(t_next.shape), t, t_next), jnp.where(last, x, euler)
    correction = -std_next * score_fn(t_next, end) - slope
    return euler + jnp.where(last, 0.0, scale_next * change / 2) * correction
