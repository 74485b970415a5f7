"""The preference losses by their names. One value per example, each with optional weights.

| module | losses |
|---|---|
| `direct` | of the difference of log-ratios: DPO, robust, hinge, IPO, EXO, f-DPO, DiscoPOP, AOT |
| `mallows` | the same under the dispersion of preferences: theta, phi, MallowsIPO, MallowsSimPO |
| `link` | g and log g of Mallows-phi, exact and smoothed |
| `separate` | of each log-ratio by itself: SPPO, NCA, APO, BCO, KTO |
| `reference_free` | of log-probabilities: CPO, SimPO, AlphaPO, ORPO, SFT |
| `dispersion` | the dispersion of a prompt from the entropy of the reference model |
| `named` | the losses of one pair by name, with their inputs and options |
"""

from ctrl_jax.losses.preference.direct import (
    aot,
    bradley_terry,
    discopop,
    dpo,
    exo,
    f_dpo,
    hinge,
    ipo,
    robust,
)
from ctrl_jax.losses.preference.dispersion import (
    dispersion_from_index,
    dispersion_index,
    dispersion_scale,
)
from ctrl_jax.losses.preference.link import mallows_link, mallows_log_link
from ctrl_jax.losses.preference.mallows import (
    mallows_ipo,
    mallows_phi,
    mallows_simpo,
    mallows_theta,
)
from ctrl_jax.losses.preference.named import NAMED, NamedLoss
from ctrl_jax.losses.preference.reference_free import cpo, orpo, sft, simpo
from ctrl_jax.losses.preference.separate import apo, bco, kto, kto_pairs, nca, sppo

__all__ = [
    "NAMED",
    "NamedLoss",
    "aot",
    "apo",
    "bco",
    "bradley_terry",
    "cpo",
    "discopop",
    "dispersion_from_index",
    "dispersion_index",
    "dispersion_scale",
    "dpo",
    "exo",
    "f_dpo",
    "hinge",
    "ipo",
    "kto",
    "kto_pairs",
    "mallows_ipo",
    "mallows_link",
    "mallows_log_link",
    "mallows_phi",
    "mallows_simpo",
    "mallows_theta",
    "nca",
    "orpo",
    "robust",
    "sft",
    "simpo",
    "sppo",
]
