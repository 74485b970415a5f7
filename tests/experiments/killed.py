"""A run that is killed in its main loop and continued, as a machine that fails does it."""

import json
import signal
import subprocess
import time
from pathlib import Path

import jax
import pytest

from tests.runtime.processes import LIMIT, environment


def check_killed_run(line: list[str], out: Path, step: int, finished: Path) -> None:
    """SIGKILL after the checkpoint of an update; the resumed run ends with the same bits.

    Args:
        line: the command, with its folder `out`, which has run to its end in `finished`.
        out: the folder.
        step: the update.
        finished: the folder of the run that nobody killed.
    """
    quick = int(jax.config.read("jax_disable_most_optimizations"))
    variables = environment(JAX_DISABLE_MOST_OPTIMIZATIONS=str(quick))  # as `finished` was compiled
    place = {"cwd": out.parent, "env": variables}
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, **place)
    deadline = time.monotonic() + LIMIT
    while not (out / "checkpoints" / str(step)).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (out / "results.json").exists():
        pytest.skip("the run ended before it could be killed")
    subprocess.run([*line, "--resume", "latest"], check=True, **place)
    resumed, results = (json.loads((f / "results.json").read_text()) for f in (out, finished))
    assert resumed["digest"] == results["digest"]
    assert resumed["metrics"] == {**results["metrics"], "traces": resumed["metrics"]["traces"]}
    assert (out / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
