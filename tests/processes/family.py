"""Every process of the library under several parameters, beside its oracle: one table of laws."""

import numpy as np
import pytest

from ctrl_jax.processes import (
    EDM,
    OU,
    VE,
    VP,
    ContractiveOU,
    ContractiveSubVP,
    ContractiveVP,
    LinearProcess,
    RectifiedFlow,
    SubVP,
    TabulatedSchedule,
)
from tests.oracles import linear_sdes as oracle

FAMILY: dict[str, tuple[LinearProcess, oracle.LinearSDE]] = {
    "ou": (OU(1.0, 2**0.5), oracle.ornstein_uhlenbeck(-1.0, 2**0.5)),
    "ou, horizon 2.5": (OU(0.3, 0.8, horizon=2.5), oracle.ornstein_uhlenbeck(-0.3, 0.8, 2.5)),
    "ve": (VE(0.01, 50.0), oracle.variance_exploding(0.01, 50.0)),
    "ve, horizon 4": (VE(0.2, 3.0, horizon=4.0), oracle.variance_exploding(0.2, 3.0, 4.0)),
    "ve, blurred": (
        VE(0.1, 8.0, zero_start=False, horizon=0.5),
        oracle.variance_exploding(0.1, 8.0, 0.5, start=0.1),
    ),
    "vp": (VP(), oracle.variance_preserving(oracle.linear_rate(0.1, 20.0))),
    "vp, horizon 3": (
        VP(0.2, 2.0, horizon=3.0),
        oracle.variance_preserving(oracle.linear_rate(0.2, 2.0, 3.0), horizon=3.0),
    ),
    "vp, falling rate": (
        VP(1.0, 0.5, horizon=0.25),
        oracle.variance_preserving(oracle.linear_rate(1.0, 0.5, 0.25), horizon=0.25),
    ),
    "vp, cosine": (VP.cosine(), oracle.variance_preserving(oracle.cosine_rate(0.008, 999.0))),
    "vp, cosine, horizon 3": (
        VP.cosine(0.02, beta_max=60.0, horizon=3.0),
        oracle.variance_preserving(oracle.cosine_rate(0.02, 60.0, 3.0), horizon=3.0),
    ),
    "sub-vp": (SubVP(), oracle.sub_variance_preserving(oracle.linear_rate(0.1, 20.0))),
    "sub-vp, horizon 2": (
        SubVP(0.5, 3.0, horizon=2.0),
        oracle.sub_variance_preserving(oracle.linear_rate(0.5, 3.0, 2.0), horizon=2.0),
    ),
    "sub-vp, cosine": (
        SubVP.cosine(beta_max=50.0),
        oracle.sub_variance_preserving(oracle.cosine_rate(0.008, 50.0)),
    ),
    "contractive ou": (ContractiveOU(2.0, 2.0), oracle.ornstein_uhlenbeck(2.0, 2.0)),
    "contractive ou, horizon 3": (
        ContractiveOU(0.7, 1.5, horizon=3.0),
        oracle.ornstein_uhlenbeck(0.7, 1.5, 3.0),
    ),
    "contractive vp": (
        ContractiveVP(0.01, 8.0),
        oracle.variance_preserving(oracle.linear_rate(0.01, 8.0), sign=1),
    ),
    "contractive vp, horizon 2": (
        ContractiveVP(0.3, 2.0, horizon=2.0),
        oracle.variance_preserving(oracle.linear_rate(0.3, 2.0, 2.0), sign=1, horizon=2.0),
    ),
    "contractive sub-vp": (
        ContractiveSubVP(0.01, 8.0),
        oracle.sub_variance_preserving(oracle.linear_rate(0.01, 8.0), sign=1),
    ),
    "contractive sub-vp, horizon 2": (
        ContractiveSubVP(1.0, 2.0, horizon=2.0),
        oracle.sub_variance_preserving(oracle.linear_rate(1.0, 2.0, 2.0), sign=1, horizon=2.0),
    ),
    "contractive sub-vp, cosine": (
        ContractiveSubVP.cosine(beta_max=6.0, horizon=0.7),
        oracle.sub_variance_preserving(oracle.cosine_rate(0.008, 6.0, 0.7), sign=1, horizon=0.7),
    ),
    "edm": (EDM(20.0), oracle.scaled_noise(20.0, 1.0)),
    "edm, contractive": (EDM(80.0, 0.9), oracle.scaled_noise(80.0, 0.9)),
    "rectified flow": (RectifiedFlow(), oracle.straight_lines()),
    "rectified flow, horizon 3": (RectifiedFlow(horizon=3.0), oracle.straight_lines(3.0)),
    "vp, tabulated": (
        VP(schedule=TabulatedSchedule.linear(1e-2, 0.3, 20, horizon=2.0)),
        oracle.variance_preserving(
            oracle.stepwise_rate(np.linspace(1e-2, 0.3, 20), 2.0), horizon=2.0
        ),
    ),
}

every_pair = pytest.mark.parametrize(("process", "sde"), FAMILY.values(), ids=[*FAMILY])

# One of each class and the variants that start or end elsewhere: for laws that take longer.
KINDS = {
    name: pair[0]
    for name, pair in FAMILY.items()
    if "," not in name or name in ("ve, blurred", "vp, cosine", "vp, tabulated", "edm, contractive")
}
# Whose class is the base of one that is there, or that differ by a schedule: their marginals and
# coefficients are tested with the others.
DERIVED = ("vp, cosine", "sub-vp", "contractive vp", "edm")


def each(names, slow):
    return pytest.mark.parametrize(
        "process",
        [
            pytest.param(FAMILY[name][0], id=name, marks=pytest.mark.slow if name in slow else ())
            for name in names
        ],
    )


every_process = each(FAMILY, FAMILY.keys() - KINDS.keys())
every_kind = each(KINDS, DERIVED)
