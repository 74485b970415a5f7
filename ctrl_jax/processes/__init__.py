"""Forward SDEs, their reversal, network parameterizations, time grids and contraction."""

from ctrl_jax.processes import consistency_function, contraction, grids
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.processes.base import LinearProcess, Marginal, ReverseSDE
from ctrl_jax.processes.edm import EDM
from ctrl_jax.processes.ou import OU, ContractiveOU
from ctrl_jax.processes.prediction import Prediction
from ctrl_jax.processes.ratio_score import DataPoints, RatioScore, score_from_points
from ctrl_jax.processes.rectified_flow import RectifiedFlow, flow_noise_level
from ctrl_jax.processes.schedules import CosineSchedule, LinearSchedule, NoiseSchedule
from ctrl_jax.processes.sub_vp import ContractiveSubVP, SubVP
from ctrl_jax.processes.tabulated_schedule import TabulatedSchedule
from ctrl_jax.processes.ve import VE
from ctrl_jax.processes.vp import VP, ContractiveVP

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
    "Prediction",
    "RatioScore",
    "RectifiedFlow",
    "ReverseSDE",
    "SubVP",
    "TabulatedSchedule",
    "consistency_function",
    "contraction",
    "flow_noise_level",
    "grids",
    "parameterization",
    "score_from_points",
]
