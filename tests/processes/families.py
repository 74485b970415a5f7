"""Every process that laws are tested on."""

from ctrl_jax.processes import VP

PROCESSES = {"VP": VP(0.1, 20.0), "VP, horizon 3": VP(0.2, 2.0, horizon=3.0)}
