"""The processes that are compared, and which is the contractive twin of which."""

import functools

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


# Parameters as the paper reports them; the same noise rate as the twin's in "slow".
@functools.cache
def family() -> dict[str, LinearProcess]:
    """Return the processes; made when they are asked for, since making one starts JAX."""
    return {
        "ou": OU(1.0, 1.0, horizon=3.0),
        "contractive ou": ContractiveOU(1.0, 1.0, horizon=3.0),
        "ve": VE(0.01, 50.0),
        "vp": VP(0.1, 20.0),
        "vp, slow": VP(0.01, 8.0),
        "contractive vp": ContractiveVP(0.01, 8.0),
        "sub-vp": SubVP(0.1, 20.0),
        "sub-vp, slow": SubVP(0.01, 8.0),
        "contractive sub-vp": ContractiveSubVP(0.01, 8.0),
    }


COLORS = {
    "ou": "#E69F00",
    "contractive ou": "#D55E00",
    "ve": "#999999",
    "vp": "#56B4E9",
    "vp, slow": "#88CCEE",
    "contractive vp": "#0072B2",
    "sub-vp": "#66C2A5",
    "sub-vp, slow": "#A6D854",
    "contractive sub-vp": "#007A53",
}
TWINS = (  # contractive, plain
    ("contractive ou", "ou"),
    ("contractive vp", "vp"),
    ("contractive vp", "vp, slow"),
    ("contractive sub-vp", "sub-vp"),
    ("contractive sub-vp", "sub-vp, slow"),
)
