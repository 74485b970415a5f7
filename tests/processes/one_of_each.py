"""One process of each kind, for laws that cost too much on the whole family.

Of what is not about processes a few are quick; all are in the slow tests.
"""

import pytest

from tests.processes.family import FAMILY

NAMES = (
    "ou, horizon 2.5",
    "ve",
    "vp, cosine",
    "vp",
    "sub-vp, horizon 2",
    "contractive ou",
    "contractive vp",
    "contractive sub-vp",
    "edm, contractive",
    "rectified flow",
)
PROCESSES = {name: FAMILY[name][0] for name in NAMES}
FEW = ("ou, horizon 2.5", "vp", "contractive sub-vp", "edm, contractive", "rectified flow")
few_by_name = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in NAMES]
)
