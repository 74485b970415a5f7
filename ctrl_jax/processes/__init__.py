"""Forward SDEs, their reversal, network parameterisations and time grids."""

from ctrl_jax.processes import grids, parameterisation
from ctrl_jax.processes.linear import LinearProcess, Marginal, ReverseSDE
from ctrl_jax.processes.variance_preserving import VP

__all__ = ["VP", "LinearProcess", "Marginal", "ReverseSDE", "grids", "parameterisation"]
