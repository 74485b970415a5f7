"""Forward SDEs, their reversal, network parameterisations, time grids and contraction."""

from ctrl_jax.processes import consistency, contraction, grids, parameterisation, reuse
from ctrl_jax.processes.edm import EDM
from ctrl_jax.processes.linear import LinearProcess, Marginal, ReverseSDE
from ctrl_jax.processes.ornstein_uhlenbeck import OU, ContractiveOU
from ctrl_jax.processes.ratio_score import DataPoints, RatioScore, ratio_score
from ctrl_jax.processes.schedules import CosineSchedule, LinearSchedule, NoiseSchedule
from ctrl_jax.processes.sub_variance_preserving import ContractiveSubVP, SubVP
from ctrl_jax.processes.variance_exploding import VE
from ctrl_jax.processes.variance_preserving import VP, ContractiveVP

__all__ = [
    "EDM",
    "OU",
    "VE",
    "VP",
    "ContractiveOU",
    "ContractiveSubVP",
    "ContractiveVP",
    "CosineSchedule",
    "DataPoints",
    "LinearProcess",
    "LinearSchedule",
    "Marginal",
    "NoiseSchedule",
    "RatioScore",
    "ReverseSDE",
    "SubVP",
    "consistency",
    "contraction",
    "grids",
    "parameterisation",
    "ratio_score",
    "reuse",
]
