"""Sampling chains of a steered Gaussian, exactly: laws, values, gradients and the optimum.

Data N(m, S) noised by a variance-preserving process have the affine score

    s(t, x) = -(x - a m) / (a^2 S + v),

so with an affine deviation of the policy from it, mu = s + k_i x + b_i, every step of a sampler is
x' = state_gain x + action_gain mu + std z, affine and Gaussian, and the objective

    J = E[-(kappa / 2) (x_n - c)^2] - lambda E sum_i rate_i (k_i x_i + b_i)^2 / 2,
    rate_i = (action_gain_i / std_i)^2,

follows from two moments. Everything is float64 NumPy; gradients are by complex steps, exact to
rounding.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.oracles.linear_sdes import VariancePreserving


class Chain(NamedTuple):
    """Coefficients of every step (steps,), and of the affine score at its start."""

    state_gain: NDArray
    action_gain: NDArray
    std: NDArray
    score_slope: NDArray
    score_intercept: NDArray

    @property
    def rate(self):
        """Steps without noise have none."""
        noisy = self.std > 0
        return np.where(noisy, self.action_gain / np.where(noisy, self.std, 1.0), 0.0) ** 2


class Goal(NamedTuple):
    """Reward -(curvature / 2) (x - target)^2, penalty in units of the reward per nat."""

    curvature: float
    target: float
    penalty: float


def gaussian_score(process: VariancePreserving, t, mean: float, variance: float):
    """Slope and intercept of the score of noised N(mean, variance) at forward time t."""
    noised = process.scale(t) ** 2 * variance + process.variance(t)
    return -1 / noised, process.scale(t) * mean / noised


def affine_chain(kernel, score) -> Chain:
    """A chain from given (state_gain, action_gain, std) and (slope, intercept) of the score."""
    state_gain, action_gain, std = (np.asarray(c) for c in kernel)
    return Chain(state_gain, action_gain, std, *score)


def exponential_euler(
    process: VariancePreserving, times: NDArray, mean: float, variance: float, *, eta: float
) -> Chain:
    """The DDIM family: x_0 = (x + v s) / a, x' = a' x_0 + sqrt(v' - w) e + sqrt(w) z, e = -s std,
    with w = eta^2 times the variance of x_{t'} given x_t and x_0. `times` decrease."""
    t, u = times[:-1], times[1:]
    a, v, a_next, v_next = (f(x) for x in (t, u) for f in (process.scale, process.variance))
    between = v - (a / a_next) ** 2 * v_next
    w = eta**2 * v_next * between / v
    gain = a_next / a * v - np.sqrt(v_next - w) * np.sqrt(v)
    return Chain(a_next / a, gain, np.sqrt(w), *gaussian_score(process, t, mean, variance))


def euler_maruyama(
    process: VariancePreserving, times: NDArray, mean: float, variance: float
) -> Chain:
    """x' = x + (beta / 2 x + beta s) dt + sqrt(beta dt) z. `times` decrease."""
    t, dt = times[:-1], -np.diff(times)
    beta = process.beta(t)
    score = gaussian_score(process, t, mean, variance)
    return Chain(1 + beta / 2 * dt, beta * dt, np.sqrt(beta * dt), *score)


def with_window(noisy: Chain, certain: Chain, place: int, length: int) -> Chain:
    """The first chain at `length` steps from `place`, the second around them."""
    inside = (np.arange(noisy.std.size) - place) % noisy.std.size < length
    return Chain(*(np.where(inside, a, b) for a, b in zip(noisy, certain, strict=True)))


def laws(
    chain: Chain,
    start_mean,
    start_variance,
    slope: ArrayLike = 0.0,
    intercept: ArrayLike = 0.0,
):
    """Means and variances of x_0 .. x_n under the deviation slope x + intercept."""
    steps = chain.state_gain.size
    slope, intercept = np.broadcast_to(slope, steps), np.broadcast_to(intercept, steps)
    means, variances = [start_mean], [start_variance]
    for i in range(steps):
        gain = chain.state_gain[i] + chain.action_gain[i] * (chain.score_slope[i] + slope[i])
        shift = chain.action_gain[i] * (chain.score_intercept[i] + intercept[i])
        means.append(gain * means[-1] + shift)
        variances.append(gain**2 * variances[-1] + chain.std[i] ** 2)
    return np.array(means), np.array(variances)


def path_kl(chain: Chain, start_variance, slope, intercept):
    """Expected sum over the steps of the closed-form divergence from the undeviated chain."""
    means, variances = laws(chain, 0.0, start_variance, slope, intercept)
    second = slope**2 * variances[:-1] + (slope * means[:-1] + intercept) ** 2
    return np.sum(chain.rate * second) / 2


def objective(chain: Chain, goal: Goal, start_variance, slope, intercept):
    """J of this module's page, from N(0, start_variance)."""
    means, variances = laws(chain, 0.0, start_variance, slope, intercept)
    reward = -goal.curvature / 2 * ((means[-1] - goal.target) ** 2 + variances[-1])
    return reward - goal.penalty * path_kl(chain, start_variance, slope, intercept)


def objective_gradient(chain, goal, start_variance, slope, intercept):
    """dJ/dslope and dJ/dintercept, each (steps,), by complex steps."""
    parameters = np.concatenate([slope, intercept]).astype(complex)
    gradient = np.empty(parameters.size)
    for i in range(parameters.size):
        moved = parameters.copy()
        moved[i] += 1e-30j
        value = objective(chain, goal, start_variance, *np.split(moved, 2))
        gradient[i] = value.imag / 1e-30
    return np.split(gradient, 2)


def penalty_gradient(chain, goal, start_variance, slope, intercept):
    """The part of dJ in which the penalty acts through the mean at fixed laws of the states."""
    means, variances = (x[:-1] for x in laws(chain, 0.0, start_variance, slope, intercept))
    weight = -goal.penalty * chain.rate
    deviation = slope * means + intercept
    return weight * (deviation * means + slope * variances), weight * deviation


def values(chain: Chain, goal: Goal, slope, intercept):
    """Coefficients (c0, c1, c2), each (steps + 1,), of the policy's value c0 + c1 x + c2 x^2."""
    c = [(-goal.curvature / 2 * goal.target**2, goal.curvature * goal.target, -goal.curvature / 2)]
    for i in reversed(range(chain.state_gain.size)):
        c0, c1, c2 = c[-1]
        gain = chain.state_gain[i] + chain.action_gain[i] * (chain.score_slope[i] + slope[i])
        shift = chain.action_gain[i] * (chain.score_intercept[i] + intercept[i])
        price = goal.penalty * chain.rate[i] / 2
        k, b = slope[i], intercept[i]
        c.append(
            (
                c0 + c1 * shift + c2 * (shift**2 + chain.std[i] ** 2) - price * b**2,
                c1 * gain + 2 * c2 * gain * shift - 2 * price * k * b,
                c2 * gain**2 - price * k**2,
            )
        )
    return tuple(np.array(column) for column in zip(*reversed(c), strict=True))


def optimum(chain: Chain, goal: Goal):
    """Slope and intercept, each (steps,), of the deviation that maximizes J: linear-quadratic
    dynamic programming. The optimum over all policies is affine."""
    steps = chain.state_gain.size
    slope, intercept = np.zeros(steps), np.zeros(steps)
    for i in reversed(range(steps)):
        _, c1, c2 = (c[i + 1] for c in values(chain, goal, slope, intercept))
        gain = chain.state_gain[i] + chain.action_gain[i] * chain.score_slope[i]
        shift = chain.action_gain[i] * chain.score_intercept[i]
        curvature = goal.penalty * chain.rate[i] - 2 * c2 * chain.action_gain[i] ** 2
        slope[i] = 2 * chain.action_gain[i] * c2 * gain / curvature
        intercept[i] = chain.action_gain[i] * (c1 + 2 * c2 * shift) / curvature
    return slope, intercept


def wasserstein(mean, variance, other_mean, other_variance):
    """W2 between two Gaussians on the line."""
    return np.hypot(mean - other_mean, np.sqrt(variance) - np.sqrt(other_variance))
