"""One run in a folder: the lock, the dead who no longer hold it, and disks without locks."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from ctrl_jax.runtime import RunWarning
from ctrl_jax.runtime.run import lock
from tests.runtime.processes import environment, run_python

HOLD = """
import sys, time
from pathlib import Path
from ctrl_jax.runtime.run import lock
lock.take(Path(sys.argv[1]))
print("held", flush=True)
if len(sys.argv) == 2:
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def released():
    yield
    lock.release()


def left_by_another_machine(folder, count=0):
    words = {"host": "elsewhere", "boot": "another", "pid": 7, "count": count}
    (folder / lock.WORDS).write_text(json.dumps(words))


def test_a_run_under_way_is_refused_and_one_that_was_killed_is_not(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, os.fspath(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        rule = rf"out: received '{tmp_path}'; a run is under way in it .process {process.pid} of "
        with pytest.raises(ValueError, match=rule):
            lock.take(tmp_path)
        process.kill()
    assert (tmp_path / lock.WORDS).exists()
    lock.take(tmp_path)
    assert json.loads((tmp_path / lock.WORDS).read_text())["pid"] == os.getpid()
    lock.take(tmp_path)  # it is ours
    lock.release()
    assert not [*tmp_path.iterdir()]


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

        def lockf(*_):
            raise OSError(errno.ENOLCK, "no locks here")

        monkeypatch.setattr(fcntl, "lockf", lockf)
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


def test_a_lock_that_is_removed_while_it_is_awaited_is_taken_anew(tmp_path, monkeypatch):
    """Of a run that ended between our opening its file and our locking it."""
    path, calls = tmp_path / lock.NAME, []
    lockf = fcntl.lockf

    def slow(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            path.unlink()
        return lockf(*arguments)

    monkeypatch.setattr(fcntl, "lockf", slow)
    lock.take(tmp_path)
    assert len(calls) == 2 and path.exists()
