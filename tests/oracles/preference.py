"""Preference losses in NumPy and float64, one line each, from the papers' formulas."""

import numpy as np


def sigmoid(x):
    return 0.5 * (1 + np.tanh(np.asarray(x) / 2))


def cost(x):
    """-log sigmoid(x)."""
    return np.logaddexp(0, -np.asarray(x))


def dpo(w, r, beta, e=0.0):
    return (1 - e) * cost(beta * (w - r)) + e * cost(beta * (r - w))


def robust(w, r, beta, e):
    return ((1 - e) * cost(beta * (w - r)) - e * cost(beta * (r - w))) / (1 - 2 * e)


def hinge(w, r, beta):
    return np.clip(1 - beta * w + beta * r, 0, None)


def ipo(w, r, beta):
    return (w - r - 0.5 / beta) ** 2


def exo(w, r, beta, e=1e-3):
    p, q = sigmoid(beta * (w - r)), 1 - e
    # p log p -> 0 where p underflows.
    kept = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(q)), 0)
    return kept + (1 - p) * (-cost(-beta * (w - r)) - np.log(1 - q))


def discopop(w, r, beta, tau=0.05):
    share = sigmoid(beta * (w - r) / tau)
    return (1 - share) * cost(beta * (w - r)) + share * np.exp(-beta * (w - r))


def nca(w, r, beta):
    return cost(beta * w) + 0.5 * cost(-beta * w) + 0.5 * cost(-beta * r)


def sppo(w, r, beta, p=1.0):
    eta = 1 / beta
    return (w - eta * (p - 0.5)) ** 2 + (r - eta * ((1 - p) - 0.5)) ** 2


def apo_zero(w, r, beta):
    return 1 - sigmoid(beta * w) + sigmoid(beta * r)


def apo_down(w, r, beta):
    return sigmoid(beta * w) + 1 - sigmoid(beta * (w - r))


def bco(w, r, beta, shift):
    return cost(beta * w - shift) + cost(-(beta * r - shift))


def f_dpo(w, r, beta, derivative):
    return cost(beta * (derivative(np.exp(w)) - derivative(np.exp(r))))


def kto(x, good, kl, beta, weight_good=1.0, weight_bad=1.0):
    return np.where(
        good,
        weight_good * (1 - sigmoid(beta * (x - kl))),
        weight_bad * (1 - sigmoid(beta * (kl - x))),
    )


def kto_pairs(w, r, beta, weight_good=1.0, weight_bad=1.0):
    """Either answer is measured from the mean of the other kind."""
    good = kto(w, True, max(r.mean(), 0), beta, weight_good)
    bad = kto(r, False, max(w.mean(), 0), beta, weight_bad=weight_bad)
    return (good + bad) / 2


def aot(w, r, beta, e=0.0):
    """By rank: the i-th smallest chosen value against the i-th smallest rejected one."""
    return dpo(np.sort(w), np.sort(r), beta, e)


def cpo(w, r, beta, e=0.0, nu=0.0):
    return dpo(w, r, beta, e) - nu * w


def simpo(w, r, beta, gamma, e=0.0):
    x = beta * w - beta * r - gamma
    return (1 - e) * cost(x) + e * cost(-x)


def alphapo(w, r, beta, gamma, alpha):
    return cost(beta * (np.exp(-alpha * r) - np.exp(-alpha * w)) / alpha - gamma)


def orpo(w, r, beta, nu=1.0):
    odds_w, odds_r = np.exp(w) / (1 - np.exp(w)), np.exp(r) / (1 - np.exp(r))
    return -nu * w - beta * np.log(odds_w / (odds_w + odds_r))


def mallows_theta(w, r, beta, phi):
    return cost(-2 * np.log(phi) * beta * (w - r))


def mallows_sigmoid(w, r, beta, phi):
    return cost(-np.log(phi) * beta * (w - r))


def mallows_ipo(w, r, beta, phi):
    return (-2 * np.log(phi) * (w - r) - 0.5 / beta) ** 2


def mallows_simpo(w, r, beta, gamma, phi):
    return cost(-2 * np.log(phi) * beta * (w - r) - gamma)


def entropy_index(logits, mask):
    """H / log|V| of each row: the mean entropy of the marked positions."""
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1)), -1)
    return np.array([row[m].mean() for row, m in zip(entropy, mask, strict=True)]) / np.log(
        logits.shape[-1]
    )
