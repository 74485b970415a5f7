r"""The consistency function of a process, and the times it is trained at.

f(t, x) is the state at the small time `end` of the probability-flow ODE through x at time t, so

    f(t, x_t) = f(s, x_s) along a trajectory,    f(end, x) = x.                          (1)

For data of standard deviation sigma_d write alpha = sigma_d a and n^2 = alpha^2 + v, so that
x_0 / sigma_d = (alpha x - n std F) / n^2 and noise = (std x + alpha n F) / n^2 for the normalized
v-prediction F = (alpha noise - std x_0 / sigma_d) / n. The DDIM step from t to `end` is then

    f(t, x) = c_skip x + c_out F(t, c_in x),   c_in = 1 / n,                             (2)
    c_skip = (alpha_e alpha + std_e std) / n^2,   c_out = (std_e alpha - alpha_e std) / n,

which meets (1) at `end` whatever F, and for `end` -> 0 and a = 1 is the parameterization of EDM. A
network trained to predict v starts as that one DDIM step (sigma_d = 1, a^2 + v = 1).

In y = x / a and the noise-to-signal ratio tau = std / a the ODE is dy = noise dtau. For Gaussian
data N(m, S) it scales deviations by the standard deviation of the law, which gives exactly

    f(t, x) = a_e (m + sqrt((S + tau_e^2) / (S + tau^2)) (x / a - m)).                   (3)

Source: Song et al. 2023 (arXiv 2303.01469), sections 3-4; arXiv 2402.07487, section 5.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import as_float, check_end, check_finite, check_positive
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import expand
from ctrl_jax.processes import grids
from ctrl_jax.processes.base import LinearProcess


class Coefficients(NamedTuple):
    """Coefficients of a consistency function c_skip x + c_out F(t, c_in x), of the times' shape.

    Fields:
        skip: c_skip, of x.
        out: c_out, of the network F.
        inner: c_in, of x where the network sees it.
    """

    skip: Float[Array, "*t"]
    out: Float[Array, "*t"]
    inner: Float[Array, "*t"]


@at_the_door
def coefficients(
    process: LinearProcess, t: Float[Array, "*t"], *, end: float, data_std: float = 1.0
) -> Coefficients:
    """Return the coefficients of the consistency function f(t, x) = c_skip x + c_out F(t, c_in x).

    It is the DDIM step from t to the time e = end with the normalized v-prediction
    F = (alpha noise - std x_0 / sigma_d) / n, where alpha = sigma_d a and n^2 = alpha^2 + std^2:

        c_skip = (alpha_e alpha + std_e std) / n^2,
        c_out = (std_e alpha - alpha_e std) / n,   c_in = 1 / n,

    and exactly 1, 0 and 1 / n for t <= end.

    Args:
        process: the forward process, of scale a and standard deviation std.
        t: forward times.
        end: the time of the result, in (0, horizon).
        data_std: sigma_d, of each coordinate of the data.

    Raises:
        ValueError: end is outside (0, horizon) or data_std is not positive.

    Source: Song et al. 2023 (arXiv 2303.01469), sections 3-4; arXiv 2402.07487, section 5.
    """
    check_end(end, process.horizon, latest=process.latest, usual=process.end)
    check_positive("data_std", data_std)
    t = jnp.asarray(t)
    scale, std = process.marginal(t)
    scale_end, std_end = process.marginal(jnp.asarray(end, t.dtype))
    data_std = as_float(data_std)
    check_finite("the square of data_std", data_std**2)
    scale, scale_end = data_std * scale, data_std * scale_end
    norm = jnp.sqrt(scale**2 + std**2)
    skip = (scale_end * scale + std_end * std) / norm**2
    out = (std_end * scale - scale_end * std) / norm
    later = t > jnp.asarray(end, t.dtype)  # the boundary holds exactly, not up to rounding
    return Coefficients(jnp.where(later, skip, 1.0), jnp.where(later, out, 0.0), 1 / norm)


def from_normalized_v(
    process: LinearProcess, network: Callable[..., Array], *, end: float, data_std: float = 1.0
) -> Callable[..., Array]:
    """Return the consistency function c_skip x + c_out F(t, c_in x) of a network F.

    F predicts the normalized v = (alpha noise - std x_0 / sigma_d) / n, with alpha = sigma_d a and
    n^2 = alpha^2 + std^2, and the function is its DDIM step from t to the time e = end:

        c_skip = (alpha_e alpha + std_e std) / n^2,
        c_out = (std_e alpha - alpha_e std) / n,   c_in = 1 / n.

    At `end` it is x itself, whatever F.

    Args:
        process: the forward process, of scale a and standard deviation std.
        network: F, ``network(t, x, *conditions)`` for states scaled by c_in.
        end: the time of the result, in (0, horizon).
        data_std: sigma_d, standard deviation of each coordinate of the data.

    Raises:
        ValueError: end is outside (0, horizon) or data_std is not positive.

    Source: Song et al. 2023 (arXiv 2303.01469), sections 3-4; arXiv 2402.07487, section 5.
    """
    check_end(end, process.horizon)
    check_positive("data_std", data_std)

    def consistency_fn(t, x, *conditions):
        skip, out, inner = coefficients(process, t, end=end, data_std=data_std)
        v = network(t, expand(inner, x) * x, *conditions)
        return expand(skip, x) * x + expand(out, x) * v

    return consistency_fn


def score_from_normalized_v(
    process: LinearProcess, network: Callable[..., Array], *, data_std: float = 1.0
) -> Callable[..., Array]:
    """Return the score function s = -noise / std of a network F for the normalized v-prediction.

    F predicts v = (alpha noise - std x_0 / sigma_d) / n with alpha = sigma_d a and
    n^2 = alpha^2 + std^2, so that noise = (std x + alpha n F(t, x / n)) / n^2.

    Args:
        process: the forward process, of scale a and standard deviation std.
        network: F, ``network(t, x, *conditions)`` for states divided by n.
        data_std: sigma_d, standard deviation of each coordinate of the data.

    Raises:
        ValueError: data_std is not positive.

    Source: Song et al. 2023 (arXiv 2303.01469), sections 3-4, for every process.
    """
    check_positive("data_std", data_std)
    data_std = as_float(data_std)
    check_finite("the square of data_std", data_std**2)

    def score_fn(t, x, *conditions):
        scale, std = process.marginal(t)
        norm = jnp.sqrt((data_std * scale) ** 2 + std**2)
        v = network(t, x / expand(norm, x), *conditions)
        return -(x / expand(norm**2, x) + expand(data_std * scale / (std * norm), x) * v)

    return score_fn


def level_times(
    process: LinearProcess, *, end: float, power: float = 7.0
) -> Callable[[Float[Array, "*t"]], Float[Array, "*t"]]:
    """Return the map of levels u in [0, 1] to times in [end, horizon], even in tau^(1 / power).

    A fine grid of `grids.edm` is made on the host and interpolated: `process` is concrete.

    Args:
        process: the forward process.
        end: the time of u = 0, in (0, horizon).
        power: 1 spaces noise-to-signal ratios evenly; larger is finer towards the data.

    Raises:
        ValueError: end is outside (0, horizon) or the power is not positive.
    """
    check_end(end, process.horizon, latest=process.latest, usual=process.end)
    check_positive("power", power)
    with jax.ensure_compile_time_eval():  # concrete under jit too
        grid = np.asarray(grids.edm(process, 4000, rho=power, end=end), np.float64)
    times = (process.horizon - grid)[::-1].copy()
    times[0], times[-1] = end, process.horizon
    levels = np.linspace(0.0, 1.0, times.size)

    def time_of_level(u):
        u = jnp.asarray(u)
        return jnp.interp(u, jnp.asarray(levels, u.dtype), jnp.asarray(times, u.dtype))

    return time_of_level
