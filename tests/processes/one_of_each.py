"""One process of each kind, for laws that cost too much on the whole family."""

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
