"""The processes that are compared, and which is the contractive twin of which."""

from typing import NamedTuple

from ctrl_jax.processes import (
    OU,
    VE,
    VP,
    ContractiveOU,
    ContractiveSubVP,
    ContractiveVP,
    LinearProcess,
    SubVP,
)


class Member(NamedTuple):
    """A process and its color."""

    process: LinearProcess
    color: str


# Parameters as the paper reports them; the same noise rate as the twin's in "slow".
FAMILY = {
    "ou": Member(OU(1.0, 1.0, horizon=3.0), "#E69F00"),
    "contractive ou": Member(ContractiveOU(1.0, 1.0, horizon=3.0), "#D55E00"),
    "ve": Member(VE(0.01, 50.0), "#999999"),
    "vp": Member(VP(0.1, 20.0), "#56B4E9"),
    "vp, slow": Member(VP(0.01, 8.0), "#88CCEE"),
    "contractive vp": Member(ContractiveVP(0.01, 8.0), "#0072B2"),
    "sub-vp": Member(SubVP(0.1, 20.0), "#66C2A5"),
    "sub-vp, slow": Member(SubVP(0.01, 8.0), "#A6D854"),
    "contractive sub-vp": Member(ContractiveSubVP(0.01, 8.0), "#007A53"),
}
PROCESSES: dict[str, LinearProcess] = {name: member.process for name, member in FAMILY.items()}
COLORS = {name: member.color for name, member in FAMILY.items()}
TWINS = (  # contractive, plain
    ("contractive ou", "ou"),
    ("contractive vp", "vp"),
    ("contractive vp", "vp, slow"),
    ("contractive sub-vp", "sub-vp"),
    ("contractive sub-vp", "sub-vp, slow"),
)
