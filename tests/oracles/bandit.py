"""Gradient descent on the five-armed bandit in NumPy: loops over the pairs, float64, no JAX."""

import numpy as np

PAIRS = [(3, 5), (2, 5), (2, 5), (1, 2), (3, 5), (1, 5), (1, 4), (1, 5)]
PAIRS += [(4, 5), (2, 4), (2, 1), (2, 5), (1, 3), (3, 5), (3, 4), (4, 2)]


def dpo_slope(s, phi):
    """d/ds of -log sigmoid(s)."""
    return -1 / (1 + np.exp(s))


def theta_slope(s, phi):
    c = -2 * np.log(phi)
    return -c / (1 + np.exp(c * s))


def phi_slope(s, phi):
    """-g'/g of the Mallows-phi link by its definition; at s = 0 by a step to the right of it."""
    x = max(abs(s), 1e-4)
    a, b = phi**x, phi ** (x + 1)
    g = (x + 1) / (1 - b) - x / (1 - a)
    slope = (
        1 / (1 - b)
        + (x + 1) * b * np.log(phi) / (1 - b) ** 2
        - 1 / (1 - a)
        - x * a * np.log(phi) / (1 - a) ** 2
    )
    return -slope / (g if s >= 0 else 1 - g)


def smoothed_slope(s, phi):
    """d/ds of -.9 log sigmoid(s) - .1 log sigmoid(-s)."""
    return -0.9 / (1 + np.exp(s)) + 0.1 / (1 + np.exp(-s))


SLOPES = {
    "dpo": dpo_slope,
    "dpo_smoothed": smoothed_slope,
    "mallows_theta": theta_slope,
    "mallows_phi": phi_slope,
}


def gradient(name, logits, beta, phi):
    """Gradient of the mean loss; the margin of two arms is the difference of their logits."""
    total = np.zeros(5)
    for winner, loser in PAIRS:
        w, r = winner - 1, loser - 1
        slope = beta * SLOPES[name](beta * (logits[w] - logits[r]), phi) / len(PAIRS)
        total[w] += slope
        total[r] -= slope
    return total


def descend(name, logits, beta, phi, rate, steps):
    logits = np.array(logits, np.float64)
    for _ in range(steps):
        logits = logits - rate * gradient(name, logits, beta, phi)
    return logits
