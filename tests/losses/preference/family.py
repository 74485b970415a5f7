"""Every loss of pairs, its oracle, and the name under which TRL's values are stored."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ctrl_jax.losses import preference
from tests.oracles import mallows as decimal_mallows
from tests.oracles import preference as oracle

BETA = 0.1
PHI = np.linspace(0.05, 0.95, 12).astype(np.float32)


class Member(NamedTuple):
    """A loss of two values per example; `inputs` says which: sums or means, of ratios or not."""

    loss: Callable
    expected: Callable
    inputs: str = "ratio"
    dispersed: bool = False


def dispersed(loss, **options):
    """The loss with the dispersions PHI of the first examples."""

    def with_dispersion(x, y, **more):
        return loss(x, y, dispersion=jnp.asarray(PHI[: x.size]).reshape(x.shape), **options, **more)

    return with_dispersion


def exact_phi(w, r):
    pairs = zip(BETA * (w - r), PHI[: w.size], strict=True)
    return np.array([-decimal_mallows.log_link(s, phi) for s, phi in pairs])


def per_token(shape):
    """One over the lengths 1, 2, 3, ... of the answers."""
    return 1 / (1 + jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape))


def plain(loss, **options):
    return lambda x, y, **more: loss(x, y, **options, **more)


def by(function, *options):
    return lambda w, r: function(w, r, *options)


P, N = preference, oracle
FAMILY = {
    "dpo": Member(plain(P.dpo, beta=BETA), by(N.dpo, BETA)),
    "dpo_smoothed": Member(plain(P.dpo, beta=BETA, label_smoothing=0.2), by(N.dpo, BETA, 0.2)),
    "robust": Member(plain(P.robust, beta=BETA, label_smoothing=0.2), by(N.robust, BETA, 0.2)),
    "hinge": Member(plain(P.hinge, beta=BETA), by(N.hinge, BETA)),
    "ipo": Member(plain(P.ipo, beta=BETA), by(N.ipo, BETA)),
    "exo": Member(plain(P.exo, beta=BETA), by(N.exo, BETA)),
    "exo_smoothed": Member(plain(P.exo, beta=BETA, label_smoothing=0.1), by(N.exo, BETA, 0.1)),
    "discopop": Member(plain(P.discopop, beta=BETA), by(N.discopop, BETA)),
    "nca": Member(plain(P.nca, beta=BETA), by(N.nca, BETA)),
    "sppo": Member(plain(P.sppo, beta=BETA), by(N.sppo, BETA)),
    "sppo_soft": Member(plain(P.sppo, beta=BETA, win_probability=0.7), by(N.sppo, BETA, 0.7)),
    "apo_zero": Member(plain(P.apo, beta=BETA), by(N.apo_zero, BETA)),
    "apo_down": Member(plain(P.apo, beta=BETA, variant="down"), by(N.apo_down, BETA)),
    "bco": Member(plain(P.bco, beta=BETA, shift=0.4), by(N.bco, BETA, 0.4)),
    "reverse_kl": Member(plain(P.f_dpo, beta=BETA, divergence="reverse_kl"), by(N.dpo, BETA)),
    "reverse_kl_smoothed": Member(
        plain(P.f_dpo, beta=BETA, divergence="reverse_kl", label_smoothing=0.2),
        by(N.dpo, BETA, 0.2),
    ),
    "forward_kl": Member(
        plain(P.f_dpo, beta=BETA, divergence="forward_kl"), by(N.f_dpo, BETA, lambda u: -1 / u)
    ),
    "jensen_shannon": Member(
        plain(P.f_dpo, beta=BETA, divergence="jensen_shannon"),
        by(N.f_dpo, BETA, lambda u: np.log(2 * u / (1 + u))),
    ),
    "alpha": Member(
        plain(P.f_dpo, beta=BETA, divergence="alpha", alpha=0.3),
        by(N.f_dpo, BETA, lambda u: (1 - u**-0.3) / 0.3),
    ),
    "cpo": Member(plain(P.cpo, beta=BETA), by(N.cpo, BETA), "sum"),
    "cpo_smoothed": Member(
        plain(P.cpo, beta=BETA, label_smoothing=0.1), by(N.cpo, BETA, 0.1), "sum"
    ),
    "cpo_likelihood": Member(plain(P.cpo, beta=BETA, nll_weight=1.0), by(N.cpo, BETA, 0, 1), "sum"),
    "cpo_per_token": Member(
        lambda x, y, **more: P.cpo(x, y, beta=BETA, nll_weight=per_token(x.shape), **more),
        lambda w, r: N.cpo(w, r, BETA, 0, np.asarray(per_token(w.shape))),
        "sum",
    ),
    "simpo": Member(plain(P.simpo, beta=2.0, gamma=0.5), by(N.simpo, 2, 0.5), "mean"),
    "simpo_smoothed": Member(
        plain(P.simpo, beta=2.0, gamma=0.5, label_smoothing=0.1), by(N.simpo, 2, 0.5, 0.1), "mean"
    ),
    "alphapo": Member(
        plain(P.simpo, beta=2.0, gamma=0.5, alpha=0.25), by(N.alphapo, 2, 0.5, 0.25), "mean"
    ),
    "orpo": Member(plain(P.orpo, beta=BETA), by(N.orpo, BETA), "mean"),
    "odds_ratio": Member(plain(P.orpo, beta=BETA, nll_weight=0.0), by(N.orpo, BETA, 0), "mean"),
    "mallows_theta": Member(
        dispersed(P.mallows_theta, beta=BETA), by(N.mallows_theta, BETA, PHI), dispersed=True
    ),
    "mallows_phi": Member(dispersed(P.mallows_phi, beta=BETA), exact_phi, dispersed=True),
    "mallows_sigmoid": Member(
        dispersed(P.mallows_phi, beta=BETA, link="sigmoid"),
        by(N.mallows_sigmoid, BETA, PHI),
        dispersed=True,
    ),
    "mallows_ipo": Member(
        dispersed(P.mallows_ipo, beta=BETA), by(N.mallows_ipo, BETA, PHI), dispersed=True
    ),
    "mallows_simpo": Member(
        dispersed(P.mallows_simpo, beta=2.0, gamma=0.5),
        by(N.mallows_simpo, 2, 0.5, PHI),
        "mean",
        dispersed=True,
    ),
}
