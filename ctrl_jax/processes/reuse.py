r"""One score network for every linear process: a variance-exploding one, looked up and rescaled.

If X_t given x_0 is N(a x_0, v I), then X_t / a is data plus noise of std n = \sqrt{v} / a, which a
variance-exploding process has at the time \tau where its std is n. Densities transform with a, so

    s(t, x) = (1 / a) s_VE(\tau(t), x / a).                                              (1)

For the contractive sub-VP, a = f = e^{B/2}, n = f - 1/f and, from a zero start,

    \tau(t) = (T/2) \ln(1 + n^2 / \sigma_min^2) / \ln(\sigma_max / \sigma_min).

The factor 1/a is part of the chain rule: without it the score is wrong by a, which is 7.4 at the
horizon of the contractive sub-VP(.01, 8). Source: arXiv 2401.13115, section 5.
"""

import jax.numpy as jnp
from jax.core import Tracer

from ctrl_jax._numerics import expand
from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes.base import LinearProcess
from ctrl_jax.processes.ve import VE


def from_variance_exploding(process: LinearProcess, ve: VE, ve_score_fn: ScoreFn) -> ScoreFn:
    """Return the score function (1) of `process`.

    Args:
        process: the process to sample with.
        ve: the process that `ve_score_fn` was trained on.
        ve_score_fn: its score, ``ve_score_fn(tau, y, *conditions)``; where the noise of `process`
            is below that of a blurred `ve`, it is asked at tau = 0.

    Raises:
        ValueError: the noise-to-signal ratio of `process` leaves the range of `ve`.
    """
    reached = process.noise_to_signal(jnp.asarray(process.horizon))
    largest = ve.prior_std()
    if not isinstance(reached - largest, Tracer) and reached > 1.0001 * largest:
        raise ValueError(
            f"from_variance_exploding: process reaches the noise-to-signal ratio {reached:.4g}, ve "
            f"only {largest:.4g}; lower the noise of process or shorten its horizon."
        )

    def score_fn(t, x, *conditions):
        scale = process.marginal(t).scale
        # A blurred VE has a smallest noise, below which the network was never trained.
        tau = jnp.maximum(ve.time_at_std(process.noise_to_signal(t)), 0.0)
        return ve_score_fn(tau, x / expand(scale, x), *conditions) / expand(scale, x)

    return score_fn
