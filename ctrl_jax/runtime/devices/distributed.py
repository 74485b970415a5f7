"""Starting JAX on one process or on many.

The same command runs on a laptop and on every host of a pod. `auto` joins the other processes
where the environment says there are any, `on` insists, `off` never does. The coordinator is
not authenticated: use it on trusted networks only. Where its address is stated, it listens on
that address and on no other.
"""

import glob
import importlib.util
import json
import os
import signal
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from ctrl_jax._checks import check_choice, check_count, refuse
from ctrl_jax._errors import RunError
from ctrl_jax.runtime.devices.second_signal import hear_once

Mode = Literal["auto", "on", "off"]


def start(
    mode: Mode = "auto",
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    heartbeat_seconds: int = 100,
) -> bool:
    """Join the other processes of this run, before any other use of JAX.

    Args:
        mode: "auto" joins where the environment (Slurm, Open MPI, TPU, JAX's own variables) or
            the arguments name other processes, "on" insists, "off" never joins.
        coordinator: `host:port` of process 0; with it, `processes` and `process_id` are needed
            and nothing is detected. Process 0 listens on this address only.
        processes: number of processes.
        process_id: this process, from 0.
        heartbeat_seconds: after so long without a sign of life from one process the others stop.

    Returns:
        Whether this process has joined.

    Raises:
        ValueError: arguments contradict each other, or "on" where nothing is found.
    """
    check_choice("distributed", mode, ("auto", "on", "off"))
    check_count("heartbeat_seconds", heartbeat_seconds)
    explicit = (coordinator, processes, process_id)
    _check_explicit(mode, *explicit)
    if mode == "off" or jax.distributed.is_initialized():
        return jax.distributed.is_initialized()
    if coordinator is None and mode == "auto" and not _environment_has_processes():
        return False
    try:
        jax.distributed.initialize(
            *explicit,
            heartbeat_timeout_seconds=heartbeat_seconds,
            cluster_detection_method="deactivate" if coordinator else None,
            coordinator_bind_address=coordinator if process_id == 0 else None,
        )
    except (ValueError, RuntimeError) as error:
        rule = f"the processes could not be joined ({error})"
        repair = "give --coordinator, --processes and --process-id, or --distributed off"
        raise refuse("distributed", mode, rule, repair) from error
    hear_once(signal.SIGTERM)  # JAX listens for it from now on
    return True


def _check_explicit(mode: str, coordinator, processes, process_id) -> None:
    given = [value is not None for value in (coordinator, processes, process_id)]
    received = (coordinator, processes, process_id)
    names = "coordinator, processes, process_id"
    if any(given) and mode == "off":
        raise refuse(names, received, "they do not apply with distributed off", "remove them")
    if any(given) and not all(given):
        raise refuse(names, received, "all three or none are needed", "give the missing ones")
    if not any(given):
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isdecimal() and len(port) < 6 and int(port) < 2**16):
        raise refuse("coordinator", coordinator, "it must be host:port", "give e.g. 10.0.0.1:1234")
    check_count("processes", processes)
    check_count("process_id", process_id, least=0)
    if process_id >= processes:
        rule = f"it must be below processes = {processes}"
        raise refuse("process_id", process_id, rule, f"give 0 to {processes - 1}")


def _environment_has_processes() -> bool:
    """Return whether a launcher started several processes, or this is a host of a TPU slice."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ:
        return True
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if os.environ.get(name, "1").isdigit() and int(os.environ.get(name, "1")) > 1:
            return True
    if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    wanted = os.environ.get("JAX_PLATFORMS", "tpu")
    return bool(chips) and "tpu" in wanted and importlib.util.find_spec("libtpu") is not None


def broadcast_text(text: str) -> str:
    """Give every process the text of process 0.

    Args:
        text: any text; that of process 0 counts.

    Returns:
        The text of process 0.
    """
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils

    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    # A program is compiled for every size: few sizes.
    buffer = np.zeros(max(256, 1 << (length - 1).bit_length()), np.uint8)
    buffer[: min(length, data.size)] = data[:length]
    told = np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8)
    return told[:length].tobytes().decode()


def on_the_first(do: Callable[[], Any]) -> Any:
    """Do something on process 0 alone, such as looking at a disk that shows others less, or later.

    Args:
        do: called on process 0; returns plain JSON.

    Returns:
        What it returned there, on every process.

    Raises:
        ValueError: it raised one there, or an OSError, which the first process raises as it is.
        RunError: it raised one there, or any other error, which the first raises as it is.
    """
    if jax.process_count() == 1:
        return do()
    told: dict[str, Any] = {}
    mine: Exception | None = None
    if jax.process_index() == 0:
        try:
            told = {"found": do()}
            json.dumps(told)
        except Exception as error:  # whatever it is, the others wait to hear of it
            mine = error
            told = {"error": [not isinstance(error, ValueError | OSError), str(error)]}
    told = json.loads(broadcast_text(json.dumps(told)))
    if mine is not None:
        raise mine
    if "error" in told:
        ended, said = told["error"]
        raise (RunError if ended else ValueError)(said)
    return told["found"]


def worst(rank: int) -> int:
    """Return the largest of a small whole number over all processes.

    Args:
        rank: this process's.
    """
    if jax.process_count() == 1:
        return rank
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(rank))))


def barrier(name: str) -> None:
    """Wait until every process is here.

    Args:
        name: the same on every process.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
