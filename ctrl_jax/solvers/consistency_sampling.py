r"""Sampling a consistency model in one step or a few.

x_T is drawn from the prior and f(T, x_T) ends its trajectory at the small time `end`. To improve
the sample, noise it again to a time t of the process and end it again:

    x_t = (a_t / a_e) x_e + sqrt(v_t - (a_t / a_e)^2 v_e) z,    x_e <- f(t, x_t).        (1)

Source: Song et al. 2023 (arXiv 2303.01469), algorithm 1, for every (a, v).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_end, check_shape, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax.processes import LinearProcess
from ctrl_jax.solvers.brownian import step_noise


@at_the_door
def sample_consistency(
    key: Array,
    process: LinearProcess,
    consistency_fn: Callable[..., Array],
    shape: tuple[int, ...],
    *,
    end: float,
    times: Float[Array, " later"] | None = None,
    conditions: tuple[Array, ...] = (),
) -> Float[Array, "batch ..."]:
    """Draw samples with one evaluation of the model, and one more for each of `times`.

    Args:
        key: PRNG key; the noise of an example does not depend on its batch-mates.
        process: the forward process.
        consistency_fn: ``f(t, x, *conditions)``, the state at `end`.
        shape: shape of the result, the batch first.
        end: the time at which the model ends trajectories, below all `times`.
        times: decreasing forward times to return to, shape (later,); none by default.
        conditions: arrays with leading axis batch, handed to the model.

    Returns:
        Samples of the given shape, float32, in units of the data.

    Raises:
        ValueError: end is outside (0, horizon), or times is not a vector.
    """
    check_shape(shape)
    check_end(end, process.horizon, latest=process.latest, usual=process.end)
    times = None if times is None else jnp.asarray(times)
    if times is not None and times.ndim != 1:
        raise refuse("times.shape", times.shape, "they must be a vector", "give one axis")
    start_key, path_key = jax.random.split(key)
    x = process.prior_std() * jax.random.normal(start_key, shape)
    x = consistency_fn(jnp.asarray(process.horizon, x.dtype), x, *conditions)
    if times is None or times.shape[0] == 0:
        return process.unscale(x)

    def again(x, inputs):
        step, t = inputs
        x_t = renoise(process, x, step_noise(path_key, step, x), end=end, t=t)
        return consistency_fn(t, x_t, *conditions), None

    x, _ = jax.lax.scan(again, x, (jnp.arange(times.shape[0]), times.astype(x.dtype)))
    return process.unscale(x)


def renoise(
    process: LinearProcess,
    x_end: Float[Array, "batch ..."],
    noise: Float[Array, "batch ..."],
    *,
    end: Float[Array, ""] | float,
    t: Float[Array, ""],
) -> Float[Array, "batch ..."]:
    """Return x_t = (a_t / a_e) x_e + sqrt(v_t - (a_t / a_e)^2 v_e) z, the forward transition.

    a_t and v_t are the scale and the variance of the process at t, a_e and v_e those at `end`.

    Args:
        process: the forward process.
        x_end: states x_e at `end`, shape (batch, ...).
        noise: z, a standard normal of the same shape.
        end: an earlier time.
        t: a later time.
    """
    gain, std = process.transition(jnp.asarray(end, x_end.dtype), t)
    return gain * x_end + std * noise
