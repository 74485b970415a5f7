"""Runtime: the folder of a run, the training loop, checkpoints, the mesh.

Besides commands the only floor that touches devices and clocks. Orbax, matplotlib, rich and tyro
are imported where they are used, so that importing this package costs little more than JAX.
"""

import importlib
from typing import Any

from ctrl_jax._checks import (
    check_choice,
    check_count,
    check_fraction,
    check_non_negative,
    check_positive,
    check_unused,
    refuse,
)
from ctrl_jax._errors import MissingCheckpointError, RunError, RunInterrupted, RunWarning
from ctrl_jax._records import read_json, write_json_atomic
from ctrl_jax.runtime.checkpoints.checkpoints import Checkpoints, Restored
from ctrl_jax.runtime.checkpoints.digests import state_digest
from ctrl_jax.runtime.checkpoints.step_folders import finished_steps
from ctrl_jax.runtime.devices.distributed import start
from ctrl_jax.runtime.devices.memory import (
    MemoryPlan,
    device_memory,
    fitting_chunks,
    memory_plan,
)
from ctrl_jax.runtime.devices.mesh import (
    MeshOptions,
    check_batch,
    make_mesh,
    on_mesh,
    own_part,
    replicate,
    shard_batch,
)
from ctrl_jax.runtime.loop.adapters import make_adapters, tensorboard_adapter, wandb_adapter
from ctrl_jax.runtime.loop.compilation import CountTraces, enable_compilation_cache, jit_step
from ctrl_jax.runtime.loop.logs import MetricsLog, read_metrics
from ctrl_jax.runtime.loop.progress import progress
from ctrl_jax.runtime.loop.training import LoopOptions, train
from ctrl_jax.runtime.run.callables import load_callable
from ctrl_jax.runtime.run.command import command, validate
from ctrl_jax.runtime.run.contents import content_digest, digests_of
from ctrl_jax.runtime.run.folders import Run, open_run, write_results
from ctrl_jax.runtime.run.options import RunOptions, check_small_run, prepare
from ctrl_jax.runtime.run.versions import versions

__all__ = [
    "Checkpoints",
    "CountTraces",
    "LoopOptions",
    "MemoryPlan",
    "MeshOptions",
    "MetricsLog",
    "MissingCheckpointError",
    "OutsideStep",
    "Restored",
    "Run",
    "RunError",
    "RunInterrupted",
    "RunOptions",
    "RunWarning",
    "check_batch",
    "check_choice",
    "check_count",
    "check_fraction",
    "check_non_negative",
    "check_positive",
    "check_small_run",
    "check_unused",
    "command",
    "content_digest",
    "device_memory",
    "digests_of",
    "enable_compilation_cache",
    "finished_steps",
    "fitting_chunks",
    "in_flight",
    "jit_step",
    "load",
    "load_callable",
    "load_model",
    "make_adapters",
    "make_mesh",
    "memory_plan",
    "on_mesh",
    "open_run",
    "own_part",
    "prepare",
    "progress",
    "read_json",
    "read_metrics",
    "refuse",
    "replicate",
    "save_model",
    "shard_batch",
    "start",
    "state_digest",
    "tensorboard_adapter",
    "train",
    "train_outside",
    "validate",
    "versions",
    "wandb_adapter",
    "write_json_atomic",
    "write_results",
]


# These need the networks, and so Flax, or algorithms: imported when somebody asks for them.
_LATE = {
    "load": "saved_models",
    "load_model": "saved_models",
    "save_model": "saved_models",
    "OutsideStep": "loop.outside",
    "in_flight": "loop.outside",
    "train_outside": "loop.outside",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
