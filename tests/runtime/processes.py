"""Running Python in processes of its own, with this repository importable."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).with_name("toy.py")
LIMIT = 900
"""Seconds that a process may take: none takes two minutes alone, but a machine may be shared."""


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, on the CPU, with more variables."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **variables}


def start_python(*args: str, stdin: int | None = None, **variables: str) -> subprocess.Popen[str]:
    """Starts a Python process whose stdout and stderr are read as text."""
    return subprocess.Popen(
        [sys.executable, *args],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )


def run_python(*args: str, **variables: str) -> tuple[int, str, str]:
    """Runs a Python process to its end: status, stdout, stderr."""
    process = start_python(*args, stdin=None, **variables)
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def run_in_two(*args: str, devices: int = 2) -> None:
    """Runs a command to its end in two processes over the loopback, each with so many devices."""
    line = [*args, "--distributed", "on", "--processes", "2"]
    line += ["--coordinator", f"127.0.0.1:{free_port()}", "--process-id"]
    both = [start_python(*line, str(n), JAX_NUM_CPU_DEVICES=str(devices)) for n in range(2)]
    for process in both:
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err[-4000:]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
