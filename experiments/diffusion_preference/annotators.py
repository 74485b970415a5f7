r"""Annotators whose rankings scatter around one consensus, as far as the class's dispersion says.

A fresh annotator ranks the images of a class by Mallows' law, P(mu) \propto phi^{d(mu, mu_0)}, with
mu_0 the ranking by the gold reward R, of which one unit is k ranks. Two images s = k (R - R') ranks
apart in mu_0 are ordered, for d Kendall's tau or Spearman's rho,

    P(first wins) = g_phi(s)  of `mallows_link`,      sigmoid(-2 log phi s).             (1)

The first is the law's own share of rankings; the second holds of images that are neighbors in the
annotator's ranking, and is taken for all (of five images at phi = 0.8 the law itself has 0.66 to
0.68 at s = 1, where (1) has 0.61).

phi -> 0: all agree; phi = 1: a coin. Two annotators asked about one pair agree with probability

    A(phi) = E[P^2 + (1 - P)^2],                                                         (2)

which falls in phi: with gaps s of a known law it is what phi is estimated from. The unit of s is a
convention (gaps of N(0, 2) standardized rewards), since the comparisons see no more than (1).
Source: Chen et al. 2024 (arXiv 2405.14953), section 3; (2) is ours.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax.algorithms import Batch
from ctrl_jax.losses import preference

Law = Literal["kendall", "spearman"]
LAWS: tuple[Law, ...] = ("kendall", "spearman")

# Gaps |N(0, 2)| at equally likely points.
QUANTILES = (np.arange(512) + 0.5) / 512
GRID = np.linspace(0.001, 1.0, 1000)


class Opinions(NamedTuple):
    """Who is asked, in every seed.

    Fields:
        law: whose distance d is.
        ranks: k, ranks per unit of reward.
        agreed: whether people agree on a class, (seeds, classes).
        dispersion: phi, (seeds, classes).
    """

    law: Law
    ranks: float
    agreed: np.ndarray
    dispersion: np.ndarray


def draw_opinions(
    law: Law, ranks: float, agreed: float, divided: float, seeds: list[int], classes: int
) -> Opinions:
    """Return opinions that agree on a random half of the classes, another one in every seed.

    Args:
        law: whose distance d is.
        ranks: k.
        agreed: phi where people agree.
        divided: phi where they do not.
        seeds: one for each row.
        classes: number of classes.
    """
    halves = np.stack([np.random.default_rng(s).permutation(classes) for s in seeds])
    mask = halves < classes // 2
    return Opinions(law, ranks, mask, np.where(mask, agreed, divided).astype(np.float32))


def preferred(law: Law, ahead: Array, dispersion: Array) -> Array:
    """Return (1), the share of annotators who prefer the first image.

    Args:
        law: whose distance d is.
        ahead: s, by how many ranks the first image is ahead in the consensus.
        dispersion: phi, of the shape of `ahead` or a scalar.
    """
    if law == "kendall":
        return preference.mallows_link(ahead, dispersion)
    return jax.nn.sigmoid(-2 * jnp.log(dispersion) * ahead)


def make_annotator(law: Law, ranks: float, dispersion: Float[Array, " classes"]):
    """Return an annotator of `make_online_preference`, fresh for every pair.

    Args:
        law: whose distance d is.
        ranks: k, ranks per unit of reward.
        dispersion: phi of each class; a batch names its classes in `prompts`.
    """

    def annotator(key: Array, first: Array, second: Array, batch: Batch) -> Array:
        assert batch.prompts is not None
        ahead = ranks * (first - second)
        return jax.random.bernoulli(key, preferred(law, ahead, dispersion[batch.prompts]))

    return annotator


def estimate_dispersion(
    law: Law, ranks: float, agreed: Float[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch"]:
    """Return the phi of which (2) is the share of pairs that two annotators agreed on.

    A share outside the range of (2) gives the nearest phi of [0.001, 1].

    Args:
        law: whose distance d is.
        ranks: k, ranks per unit of reward.
        agreed: share of pairs that two fresh annotators ordered alike.
    """
    expected = agreement(law, ranks, GRID)
    return np.interp(-np.asarray(agreed, np.float64), -expected, GRID)


def agreement(
    law: Law, ranks: float, dispersion: Float[np.ndarray, " phis"]
) -> Float[np.ndarray, " phis"]:
    """Return (2) over gaps between standard normal rewards."""
    gaps = jnp.sqrt(2.0) * jax.scipy.special.ndtri(jnp.asarray(0.5 + QUANTILES / 2, jnp.float32))
    ahead, phi = jnp.broadcast_arrays(
        ranks * gaps[None], jnp.asarray(dispersion, jnp.float32)[:, None]
    )
    share = np.asarray(preferred(law, ahead, phi), np.float64)
    return np.mean(share**2 + (1 - share) ** 2, axis=1)
