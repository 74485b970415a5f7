"""One run in a folder: the lock, the dead who no longer hold it, and disks without locks."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ctrl_jax.runtime import RunWarning
from ctrl_jax.runtime.run import lock
from tests.runtime.processes import environment, run_python, start_python

HOLD = """
import os, sys, time
from pathlib import Path
from ctrl_jax.runtime.run import lock
lock.BEAT = 0.05
lock.take(Path(sys.argv[1]))
if "read" in sys.argv:
    (Path(sys.argv[1]) / lock.NAME).read_bytes()
if "fork" in sys.argv and os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(600)
if "fork" not in sys.argv:
    print("held", flush=True)
if "and ends" not in sys.argv:
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def released():
    yield
    lock.release()


def left_by_another_machine(folder, count=0):
    words = {"host": "elsewhere", "boot": "another", "pid": 7, "count": count}
    (folder / lock.WORDS).write_text(json.dumps(words))


@contextmanager
def held(folder, *how: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds the lock of a folder, and what it says."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, os.fspath(folder), *how],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def refused(folder, process):
    rule = rf"out: received '{folder}'; a run is under way in it .process {process.pid} of "
    with pytest.raises(ValueError, match=rf"{rule}.*; wait until it ends, or give another --out"):
        lock.take(folder)


def test_a_run_under_way_is_refused_and_one_that_was_killed_is_not(tmp_path):
    """Also where it has opened the file of its lock again: POSIX's lock would go by that."""
    with held(tmp_path, "read") as (process, said):
        assert said == "held"
        refused(tmp_path, process)
    assert (tmp_path / lock.WORDS).exists()
    lock.take(tmp_path)
    assert json.loads((tmp_path / lock.WORDS).read_text())["pid"] == os.getpid()
    lock.take(tmp_path)  # it is ours
    lock.release()
    assert not [*tmp_path.iterdir()]


def without_locks(*_):
    raise OSError(errno.ENOLCK, "no locks here")


@pytest.mark.parametrize("known", [True, False], ids=["locks", "no locks"])
def test_a_stalled_run_of_this_machine_is_no_dead_one(tmp_path, monkeypatch, known):
    """Its count stands still for longer than that of a dead one may, and nobody waits for it."""
    monkeypatch.setattr(lock, "STILL", 0.3)
    if not known:
        monkeypatch.setattr(fcntl, "flock", without_locks)
    with held(tmp_path) as (process, _):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        refused(tmp_path, process)
        process.kill()
        process.wait()
        if known:
            lock.take(tmp_path)
            return
        with pytest.warns(RunWarning, match="is it alive"):
            lock.take(tmp_path)


def test_a_fork_of_a_killed_run_keeps_no_lock(tmp_path):
    with held(tmp_path, "fork") as (process, fork):
        try:
            refused(tmp_path, process)
            process.kill()
            process.wait()
            lock.take(tmp_path)
        finally:
            os.kill(int(fork), signal.SIGKILL)


def test_a_folder_has_one_lock_by_any_name(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run").mkdir()
    lock.take(tmp_path / "run")
    lock.take(tmp_path / "link")
    assert len(lock._held) == 1


TOGETHER = """
import dataclasses, sys, time
from ctrl_jax.runtime import command, open_run
@dataclasses.dataclass(frozen=True)
class Nothing:
    "No options."
def run(config):
    print("ready", flush=True)
    sys.stdin.readline()
    open_run("toy", {}, out=sys.argv[1], resume=sys.argv[2], seed=0)
    print("runs", flush=True)
    sys.stdin.readline()
command(Nothing, run, args=[])
"""


@pytest.mark.parametrize("resume", ["never", "latest"])
def test_of_two_that_start_at_once_one_runs(tmp_path, resume):
    out = os.fspath(tmp_path / "run")
    pair = [start_python("-c", TOGETHER, out, resume, stdin=subprocess.PIPE) for _ in range(2)]
    try:
        for process in pair:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in pair:
            print(file=process.stdin, flush=True)
        deadline = time.monotonic() + 60
        while all(process.poll() is None for process in pair) and time.monotonic() < deadline:
            time.sleep(0.01)
        (lost,) = [process for process in pair if process.poll() is not None]
        (won,) = [process for process in pair if process is not lost]
        ended = {process: process.communicate("\n", timeout=60) for process in (lost, won)}
    finally:
        for process in pair:
            process.kill()
    assert (won.returncode, *ended[won]) == (0, "runs\n", "")
    assert lost.returncode == 2 and ended[lost][0] == "" and ended[lost][1].count("\n") == 1
    busy = rf"a run is under way in it( .process {won.pid} of .*)?; wait until it ends"
    told = (
        rf"error: out: received '{out}'; ({busy}|it holds the config.json of a run; give another)"
    )
    assert re.match(told, ended[lost][1]), ended[lost][1]


def test_a_process_that_ends_leaves_no_lock(tmp_path):
    status, _, err = run_python("-c", HOLD, os.fspath(tmp_path), "and ends")
    assert status == 0, err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("known", [True, False], ids=["locks", "no locks"])
@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
def test_a_run_on_another_machine_is_told_by_its_count(tmp_path, monkeypatch, known, alive):
    """Whether the disk knows locks at all, or keeps them to one machine."""
    left_by_another_machine(tmp_path)
    monkeypatch.setattr(lock, "STILL", 0.3)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if alive:
            left_by_another_machine(tmp_path, len(looks))
        else:
            clock.append(clock[-1] + seconds)

    clock = [0.0]
    monkeypatch.setattr(lock.time, "sleep", sleep)
    monkeypatch.setattr(lock.time, "monotonic", lambda: clock[-1])
    if not known:
        monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.warns(RunWarning, match=r"a run on elsewhere was here last; is it alive\? 0.3 s"):
        if alive:
            with pytest.raises(ValueError, match=r"under way in it .process 7 of elsewhere"):
                lock.take(tmp_path)
            return
        lock.take(tmp_path)
    assert sum(looks) == pytest.approx(0.3)


def test_the_count_goes_on_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    lock.take(tmp_path)
    while json.loads((tmp_path / lock.WORDS).read_text())["count"] < 2:
        pass
    lock.release()
    assert not lock._held


def test_of_a_folder_that_was_moved_the_next_ones_lock_stays(tmp_path, monkeypatch):
    """Another run took the name that this one had: neither its lock nor its words are ours."""
    monkeypatch.setattr(lock, "BEAT", 0.02)
    folder = tmp_path / "a"
    folder.mkdir()
    lock.take(folder)
    folder.rename(tmp_path / "b")
    folder.mkdir()
    with held(folder) as (process, _):
        for _ in range(20):
            time.sleep(0.02)
            assert json.loads((folder / lock.WORDS).read_text())["pid"] == process.pid
        lock.release()
        refused(folder, process)


def test_a_lock_that_is_removed_while_it_is_awaited_is_taken_anew(tmp_path, monkeypatch):
    """Of a run that ended between our opening its file and our locking it."""
    path, calls = tmp_path / lock.NAME, []
    flock = fcntl.flock

    def slow(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            path.unlink()
        return flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", slow)
    lock.take(tmp_path)
    assert len(calls) == 2 and path.exists()
