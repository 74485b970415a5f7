"""The ideal frontier: the best reward any model can have at a given divergence from the base.

For a temperature lambda the law q that maximizes E_q[R] - lambda KL(q || p) is the tilt
q = p e^{R/lambda} / Z. With samples of p it is known up to Monte Carlo. For a controlled diffusion
the optimal path law has the same divergence as its terminal law, so the path KL of any run can be
drawn against it.

Source: arXiv 2409.08400, section 3.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ctrl_jax._checks import check_fraction, check_non_negative, check_positive, refuse
from ctrl_jax._door import read_host


class Frontier(NamedTuple):
    """The best trade-off, one entry per temperature.

    Fields:
        kl: divergence of the tilt from the base, in nats.
        reward: mean reward under the tilt.
        success: success rate under the tilt; None where no successes were given.
        effective_samples: of the estimate, 1 / sum_i w_i^2 with the weights w_i of the samples.
    """

    kl: Float[np.ndarray, " temperatures"]
    reward: Float[np.ndarray, " temperatures"]
    success: Float[np.ndarray, " temperatures"] | None
    effective_samples: Float[np.ndarray, " temperatures"]


def ideal(
    rewards: Float[np.ndarray, " samples"],
    temperatures: Float[np.ndarray, " temperatures"],
    successes: np.ndarray | None = None,
) -> Frontier:
    """Return the KL-optimal trade-off of reward and divergence, in float64 on the host.

    For a temperature lambda that is the tilt q = p e^{R/lambda} / Z of the base p. With the weights
    w_i of n samples of p, proportional to e^{R_i/lambda} and of sum 1,

        KL(q || p) = sum_i w_i log(n w_i),   E_q[f] = sum_i w_i f_i,   n_eff = 1 / sum_i w_i^2.

    Args:
        rewards: R_i of samples of the base model, shape (samples,).
        temperatures: lambda, positive, in units of the reward per nat, shape (temperatures,).
        successes: optional 0/1 per sample, for the success rate under each tilt.

    Returns:
        `Frontier`: the divergence, the mean reward and success, and n_eff for each temperature.

    Raises:
        ValueError: there is no reward, one is not finite, there is not one success for each, or a
            temperature is not positive.

    Source: arXiv 2409.08400, section 3.
    """
    rewards = _finite("ideal", rewards)
    temperatures = read_host("ideal.temperatures", temperatures)
    successes = None if successes is None else read_host("ideal.successes", successes)
    if successes is not None and np.shape(successes) != rewards.shape:
        rule = f"there must be one for each of {rewards.size} rewards"
        raise refuse("ideal.successes", np.shape(successes), rule, "give 0 or 1 for each")
    if temperatures.ndim != 1:
        rule = "they must be a vector"
        raise refuse("ideal.temperatures", temperatures, rule, "give several, or one in a list")
    if not (np.isfinite(temperatures).all() and (temperatures > 0).all()):
        rule, repair = "all must be finite and positive", "give e.g. numpy.geomspace(0.01, 10)"
        raise refuse("ideal.temperatures", temperatures.tolist(), rule, repair)
    log_weights = rewards[None] / temperatures[:, None]
    log_weights -= log_weights.max(axis=1, keepdims=True)
    log_weights -= np.log(np.exp(log_weights).sum(axis=1, keepdims=True))
    weights = np.exp(log_weights)
    # A weight that underflows contributes w log w -> 0.
    logs = np.where(weights > 0, log_weights + np.log(rewards.size), 0.0)
    return Frontier(
        kl=(weights * logs).sum(axis=1),
        reward=weights @ rewards,
        success=None if successes is None else weights @ successes,
        effective_samples=1 / np.square(weights).sum(axis=1),
    )


def optimal_objective(rewards: Float[np.ndarray, " samples"], temperature: float) -> float:
    """Return max_q E_q[R] - lambda KL(q || p) = lambda log E_p[e^{R/lambda}], the ideal objective.

    Args:
        rewards: R of samples of the base model p.
        temperature: lambda, positive, in units of the reward per nat.

    Raises:
        ValueError: there is no reward, one is not finite, or the temperature is not positive.
    """
    check_positive("optimal_objective.temperature", temperature)
    scaled = _finite("optimal_objective", rewards) / temperature
    top = scaled.max()
    return float(temperature * (np.log(np.mean(np.exp(scaled - top))) + top))


def kl_at_success(
    frontier: Frontier, success: float, *, least_effective_samples: float = 100.0
) -> float | None:
    """Return the ideal divergence at a success rate, or None where the frontier does not reach it.

    Between temperatures the divergence is interpolated linearly in the success rate.

    Args:
        frontier: from `ideal`, with successes.
        success: the rate to reach, in [0, 1].
        least_effective_samples: a temperature whose tilt has fewer does not count.

    Raises:
        ValueError: the frontier has no successes, or the rate is not in [0, 1].
    """
    if frontier.success is None:
        rule, repair = "it was made without successes", "give them to `ideal`"
        raise refuse("kl_at_success.frontier", None, rule, repair)
    check_fraction("kl_at_success.success", success)
    check_non_negative("kl_at_success.least_effective_samples", least_effective_samples)
    trusted = frontier.effective_samples >= least_effective_samples
    order = np.argsort(frontier.kl[trusted])
    # Where a sharper tilt over-optimizes the proxy, success falls again: the best so far counts.
    best = np.maximum.accumulate(frontier.success[trusted][order])
    successes, first = np.unique(best, return_index=True)
    if not len(successes) or success > successes[-1]:
        return None
    return float(np.interp(success, successes, frontier.kl[trusted][order][first]))


def _finite(owner: str, rewards) -> np.ndarray:
    """Return rewards in float64, or raise ValueError."""
    values = read_host(f"{owner}.rewards", rewards)
    if not values.size or values.ndim != 1 or not np.isfinite(values).all():
        rule = "all must be finite, in a vector of one or more"
        raise refuse(f"{owner}.rewards", values, rule, "leave out samples without a number")
    return values
