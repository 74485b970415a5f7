"""Devices that need not be there: a TPU slice by its name, or a number of CPU devices.

With the package libtpu, of the extra `tpu`, a TPU's compiler runs on any machine. It is asked for
devices by name alone: nothing is computed on them.
"""

import contextlib
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from ctrl_jax._checks import refuse

MOST_CPU = 4096
"""CPU devices that may be asked for: each takes threads and memory."""
_NAME = re.compile(r"cpu:\d{1,9}|v\d\w*:\d{1,9}(x\d{1,9}){1,2}")
_OFFLINE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""So that libtpu looks for no TPU, and several of it run beside each other."""


def choose_cpu(number: int | None = None) -> None:
    """Tell JAX to compute on the CPU, before its first use; of no effect after that.

    Args:
        number: of devices that the CPU is taken for.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_platforms", "cpu")
        if number:
            jax.config.update("jax_num_cpu_devices", number)


def described_devices(topology: str) -> Sequence[Any]:
    """Return the devices of a TPU slice, or so many of the CPU.

    Call before any other use of JAX, which is told to compute on the CPU.

    Args:
        topology: v5e:4x4, v6e:16x16 and others by libtpu's names, or cpu:8.

    Raises:
        ValueError: the name is of another form or of no slice, libtpu is not installed, or JAX has
            started with fewer CPU devices.
    """
    rule = "it must name a TPU slice or a number of CPU devices"
    repair = "give one such as v5e:4x4, v6e:16x16, v5p:2x2x1 or cpu:8"
    if not _NAME.fullmatch(topology):
        raise refuse("topology", topology, rule, repair)
    kind, size = topology.split(":")
    if kind == "cpu":
        return _of_cpu(int(size), topology)
    if importlib.util.find_spec("libtpu") is None:
        rule = "libtpu is not installed, which has the compiler"
        raise refuse("topology", topology, rule, 'run pip install "ctrl_jax[tpu]", or give cpu:8')
    for name, value in _OFFLINE.items():
        os.environ.setdefault(name, value)
    choose_cpu()  # libtpu's being there makes JAX try a TPU first
    from jax.experimental import topologies

    sides = [*map(int, size.split("x")), 1][:3]
    # libtpu takes a host to have 2 x 2 chips, which smaller slices have not.
    small = {"chips_per_host_bounds": sides} if sides in ([1, 1, 1], [1, 2, 1], [2, 1, 1]) else {}
    try:
        return topologies.get_topology_desc(topology, "tpu", **small).devices
    except jax.errors.JaxRuntimeError as error:
        rule = f"libtpu knows no such slice ({str(error).splitlines()[0][:160]})"
        raise refuse("topology", topology, rule, repair) from error


def _of_cpu(number: int, topology: str) -> Sequence[Any]:
    if not 0 < number <= MOST_CPU:
        raise refuse("topology", topology, f"devices are from 1 to {MOST_CPU}", "give cpu:8")
    choose_cpu(number)
    found = jax.devices("cpu")
    if len(found) < number:
        rule = f"JAX has started with {len(found)} CPU devices"
        raise refuse("topology", topology, rule, "set JAX_NUM_CPU_DEVICES before")
    return found[:number]
