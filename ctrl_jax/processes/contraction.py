r"""How far a sampler ends from the data when its score and its start are wrong (2401.13115).

With \eta = W2(p_T, prior), \epsilon the L2 error of the score, L(t) a one-sided Lipschitz constant
of the score that drives the sampler, (s(t, x) - s(t, y)) . (x - y) <= L |x - y|^2, and any h > 0,

    U(t) = \int_0^t -2 b + 2 (L + h) \sigma^2,                                           (1)
    W2(p_data, X_T)^2 <= \eta^2 e^{U(T)} + \epsilon^2 / (2h) \int_0^T \sigma^2 e^{U},    (2)

for the exact SDE: what the steps of a solver add comes on top. Errors are forgotten, whatever the
horizon, where the backward drift contracts:

    \inf_t (b - L \sigma^2) > 0.                                                         (3)

For constant coefficients with A = 2b - 2 (L + h) \sigma^2, (2) is
\eta^2 e^{-AT} + \epsilon^2 \sigma^2 (1 - e^{-AT}) / (2hA); the best h tends to
(b - L \sigma^2) / (2 \sigma^2) as T -> oo, and the bound to \epsilon \sigma^2 / (b - L \sigma^2).

In total variation the drift plays no part (Girsanov and Pinsker):

    d_TV <= d_TV(p_T, prior) + \epsilon / 2 (\int \sigma^2)^{1/2}.                       (4)

The integrals are by Gauss collocation on panels, in logarithms, so that a bound that says nothing
is infinity rather than NaN. Source: arXiv 2401.13115, theorem 1, with the constants derived again.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import as_float, check_finite, check_non_negative, check_positive
from ctrl_jax.processes.base import LinearProcess

OfTime = float | Array | Callable[[Array], Array]
"""A number, or a function of forward times (n,)."""

_PANELS, _NODES, _SEARCHES = 128, 6, 60
_GOLDEN = (5**0.5 - 1) / 2


def wasserstein_bound(
    process: LinearProcess,
    *,
    initial_error: float | Array,
    score_error: OfTime,
    lipschitz: OfTime,
    h: float | Array | None = None,
) -> Float[Array, ""]:
    """Return a bound on the W2 distance between the data and the end of the sampler.

    Its square is eta^2 e^{U(T)} + epsilon^2 / (2 h) int_0^T sigma^2 e^U, where
    U(t) = int_0^t (-2 b + 2 (L + h) sigma^2).

    Args:
        process: the forward process.
        initial_error: eta, W2 between the law at the horizon and the start of the sampler.
        score_error: epsilon, L2 error of the score under the law of the noised data: a number, or
            a function of forward times (n,), which then stands under the integral.
        lipschitz: L, a number or a function of forward times (n,).
        h: the free constant, in the unit of L; by default the one with the smallest bound.

    Returns:
        The bound, in units of the data; infinity where it overflows.

    Raises:
        ValueError: a concrete error is negative or not finite, or h is not positive.
    """
    initial_error, score_error, lipschitz = map(as_float, (initial_error, score_error, lipschitz))
    check_non_negative("wasserstein_bound.initial_error", initial_error)
    if not callable(score_error):
        check_non_negative("wasserstein_bound.score_error", score_error)
    if h is not None:
        check_positive("wasserstein_bound.h", h)
        h = as_float(h)
    if not callable(lipschitz):
        check_finite("wasserstein_bound.lipschitz", lipschitz)
    integrals = _integrals(process, lipschitz, score_error)
    log_initial = jnp.log(jnp.asarray(initial_error))
    # At the best h the bound does not move with h: no gradient has to pass the search.
    known = jax.lax.stop_gradient((integrals, log_initial))
    log_h = _best_log_h(*known) if h is None else jnp.log(jnp.asarray(h))
    return jnp.exp(_log_square(integrals, log_initial, log_h) / 2)


def margin(process: LinearProcess, lipschitz: OfTime) -> Float[Array, ""]:
    """Return the smallest b - L sigma^2 over the horizon: the sampler contracts where positive.

    Args:
        process: the forward process.
        lipschitz: L, a number or a function of forward times (n,).
    """
    t, _, _ = _grid(process)
    t = jnp.concatenate([jnp.asarray([0.0]), t, jnp.asarray([process.horizon])])
    rate = process.contraction_rate(t) - _values(lipschitz, t) * process.diffusion(t) ** 2
    return jnp.min(rate)


def total_variation_bound(
    process: LinearProcess, *, initial_error: float | Array, score_error: float | Array
) -> Float[Array, ""]:
    """Return the bound initial_error + eps / 2 (int sigma^2)^{1/2} on the total variation distance.

    Args:
        process: the forward process.
        initial_error: total variation between the law at the horizon and the start.
        score_error: epsilon, L2 error of the score, uniform in time.

    Raises:
        ValueError: a concrete error is negative or not finite.
    """
    initial_error, score_error = as_float(initial_error), as_float(score_error)
    check_non_negative("total_variation_bound.initial_error", initial_error)
    check_non_negative("total_variation_bound.score_error", score_error)
    t, weights, _ = _grid(process)
    return initial_error + score_error / 2 * jnp.sqrt(weights @ process.diffusion(t) ** 2)


def _grid(process: LinearProcess) -> tuple[Array, Array, Callable[[Array], Array]]:
    """Return nodes, weights and the running integral on panels that get finer towards t = 0."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = np.linspace(0, 1, _PANELS + 1) ** 2
    widths = np.diff(edges)
    unit = edges[:-1, None] + widths[:, None] * (nodes + 1) / 2
    horizon = jnp.asarray(process.horizon)
    within = jnp.asarray(_integration_matrix(nodes)) * horizon
    weights = jnp.asarray(widths[:, None] * weights / 2) * horizon

    def running(values):
        values = values.reshape(_PANELS, _NODES)
        before = jnp.cumsum(jnp.sum(weights * values, axis=1))
        before = jnp.concatenate([jnp.zeros_like(before[:1]), before[:-1]])
        return (before[:, None] + jnp.asarray(widths)[:, None] * (values @ within.T)).reshape(-1)

    return jnp.asarray(unit.reshape(-1)) * horizon, weights.reshape(-1), running


def _integration_matrix(nodes: np.ndarray) -> np.ndarray:
    """Return M with (M f)_i the integral from 0 to node i of f's interpolant, on a unit panel."""
    basis = np.polynomial.legendre.legvander(nodes, len(nodes) - 1)
    integrals = [
        np.polynomial.legendre.legval(nodes, np.polynomial.legendre.legint(c, lbnd=-1))
        for c in np.eye(len(nodes))
    ]
    return np.stack(integrals, axis=1) @ np.linalg.inv(basis) / 2


def _integrals(process, lipschitz, score_error):
    """Return logs of weights times (epsilon sigma)^2, and U's two parts, their ends appended."""
    t, weights, running = _grid(process)
    variance_rate = process.diffusion(t) ** 2
    pull = variance_rate * _values(lipschitz, t)
    end = process.marginal(jnp.asarray([process.horizon])).scale
    # The integral of b is known: a' = b a.
    drift = jnp.log(jnp.concatenate([process.marginal(t).scale, end]))
    drift = drift - jnp.log(process.marginal(jnp.asarray(0.0)).scale)
    fixed = jnp.append(running(pull), weights @ pull) * 2 - 2 * drift
    noise = jnp.append(running(variance_rate), weights @ variance_rate) * 2
    return jnp.log(weights * variance_rate * _values(score_error, t) ** 2), fixed, noise


def _log_square(integrals, log_initial, log_h):
    log_weights, fixed, noise = integrals
    exponent = fixed + jnp.exp(log_h) * noise
    log_integral = jax.nn.logsumexp(log_weights + exponent[:-1])
    return jnp.logaddexp(2 * log_initial + exponent[-1], log_integral - jnp.log(2.0) - log_h)


@jax.jit
def _best_log_h(integrals, log_initial):
    """Golden-section search: the logarithm of (2) is convex in log h."""
    _, _, noise = integrals
    # Below, h changes U by less than 1e-5; above, it multiplies the exponent of the noise by 1e5.
    low, high = -jnp.log(noise[-1]) - 12.0, -jnp.log(noise[-1]) + 12.0

    def narrow(_, bracket):
        low, high = bracket
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        better_left = _log_square(integrals, log_initial, left) < _log_square(
            integrals, log_initial, right
        )
        return jnp.where(better_left, low, left), jnp.where(better_left, right, high)

    low, high = jax.lax.fori_loop(0, _SEARCHES, narrow, (low, high))
    return (low + high) / 2


def _values(coefficient: OfTime, t: Array) -> Array:
    values = coefficient(t) if callable(coefficient) else coefficient
    if not callable(coefficient):
        check_finite("coefficient", coefficient)
    return jnp.broadcast_to(jnp.asarray(as_float(values)), t.shape)
