"""The second signal ends the process at once, whatever that is doing; Ctrl-C between loops is heard
by all processes."""

import signal
import time
from contextlib import suppress

import pytest

from tests.runtime.processes import free_port, start_python

DEAF = """
import contextlib, hashlib, sys
from ctrl_jax.runtime import start
from ctrl_jax.runtime.loop.signals import StopSignals, ending_at_signals
port, rank, processes, place = sys.argv[1:]
with ending_at_signals():
    if processes != "0":
        start("on", f"127.0.0.1:{port}", int(processes), int(rank), heartbeat_seconds=10)
    with StopSignals():
        pass
    with StopSignals() if place == "loop" else contextlib.nullcontext():
        print("deaf", flush=True)
        # Like a compilation: the main thread is not in Python for a minute.
        hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000_000)
"""
HEARD = """
import os, signal, sys, time
import jax
from ctrl_jax.runtime import start
from ctrl_jax.runtime.loop.signals import Terminated, ending_at_signals, stop_point
start("on", f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]), heartbeat_seconds=10)
try:
    with ending_at_signals():
        for k in range(3000):
            time.sleep(0.02)
            if k == 3 and sys.argv[2] == "1":
                os.kill(os.getpid(), signal.SIGINT)
                print("sent", flush=True)
            stop_point()
except Terminated as error:
    print("ended", k, flush=True)
"""
ALONE = """
import dataclasses, errno, sys
from ctrl_jax.runtime import command, start
from ctrl_jax.runtime.devices.distributed import barrier, on_the_first
module = sys.modules["ctrl_jax.runtime.run.command"]
module.GOODBYE = 1.0
start("on", f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]), heartbeat_seconds=10)
@dataclasses.dataclass(frozen=True)
class Nothing:
    "No options."
def run(config):
    try:
        on_the_first(lambda: {}["absent"])
    except KeyError:
        assert sys.argv[2] == "0"
    except RuntimeError as error:
        assert sys.argv[2] == "1" and "absent" in str(error)
    if sys.argv[2] == "0":
        raise OSError(errno.ENOSPC, "No space left on device", "a.png")
    barrier("never")
command(Nothing, run, [])
"""


@pytest.mark.parametrize(
    ("processes", "place", "signum"),
    [
        (0, "loop", signal.SIGTERM),
        pytest.param(0, "between", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(2, "loop", signal.SIGTERM, marks=pytest.mark.slow),
        (2, "between", signal.SIGINT),
    ],
)
def test_a_second_signal_ends_a_process_that_hears_nothing(processes, place, signum):
    port = str(free_port())
    started = [
        start_python("-c", DEAF, port, str(rank), str(processes), place)
        for rank in range(processes or 1)
    ]
    try:
        for process in started:
            assert process.stdout is not None and process.stdout.readline() == "deaf\n"
        time.sleep(0.5)  # it computes by now
        first = started[0]
        first.send_signal(signum)
        time.sleep(0.5)
        assert first.poll() is None
        first.send_signal(signum)
        first.wait(timeout=3)
        assert first.returncode == -signum
    finally:
        for process in started:
            process.kill()
            with suppress(ValueError):
                process.communicate()


def test_ctrl_c_between_loops_ends_all_processes_at_one_place():
    port = str(free_port())
    pair = [start_python("-c", HEARD, port, str(rank)) for rank in (0, 1)]
    try:
        results = [process.communicate(timeout=100) for process in pair]
    finally:
        for process in pair:
            process.kill()
    ended = [out.splitlines()[-1] for out, _ in results]
    assert ended[0] == ended[1] and ended[0].startswith("ended "), results
    assert "sent" in results[1][0] and [process.returncode for process in pair] == [0, 0]


def test_an_error_of_one_process_alone_ends_all():
    """JAX would wait at the end of that one for the others, which wait for it."""
    port = str(free_port())
    pair = [start_python("-c", ALONE, port, str(rank)) for rank in (0, 1)]
    try:
        (_, said), _ = (process.communicate(timeout=60) for process in pair)
    finally:
        for process in pair:
            process.kill()
    assert pair[0].returncode == 2 and pair[1].returncode != 0, said
    assert "error: [Errno 28] No space left on device: 'a.png'; free some space there" in said
