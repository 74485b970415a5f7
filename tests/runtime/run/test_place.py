"""A folder that cannot be written to: one line, before anything is loaded, and a repair that works.

Disks that are read-only or full are file systems in memory, which only root may mount; what asks
for others' rights or a quota is said by a stand-in for the system.
"""

import dataclasses
import errno
import importlib
import os
import re
import subprocess
import tempfile
from contextlib import contextmanager

import jax.numpy as jnp
import pytest

from ctrl_jax.commands.__main__ import main
from ctrl_jax.runtime import Checkpoints, RunError, RunOptions, open_run
from ctrl_jax.runtime.run import lock
from ctrl_jax.runtime.run.folders import forget
from ctrl_jax.runtime.run.place import check_place
from experiments.study import Study
from tests.runtime.processes import start_python

FINE_TUNE = ("fine-tune", "--model", "m", "--prompts", "p.txt", "--reward", "jpeg_size:-1")
PREFER = ("prefer", "--model", "m", "--data", "d.jsonl")
NOWHERE_TO = (
    r"out: received '{}'; nothing can be written there \(\[Errno {}\] .*: '{}'\); {}"
    "give another --out"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    forget()
    lock.release()


@contextmanager
def disk(folder, options):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root's rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def said(capsys, command, out):
    """The line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        main([*command, "--out", os.fspath(out), "--distributed", "off"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1, error
    return error.strip()


@pytest.fixture(params=[FINE_TUNE, PREFER], ids=lambda command: command[0])
def command(request, monkeypatch):
    """A command whose inputs are known to be loaded, and are none."""

    def load(*_, **__):
        raise ValueError("it loads")

    module = importlib.import_module(f"ctrl_jax.commands.{request.param[0].replace('-', '_')}")
    place = module if hasattr(module, "load_inputs") else module.training
    monkeypatch.setattr(place, "load_inputs", load)
    return request.param


def test_a_file_in_the_way(tmp_path, command, capsys):
    (tmp_path / "file").touch()
    told = "error: out: received 'file'; it must be a folder; give another --out"
    assert said(capsys, command, "file") == told
    told = f"error: out: received 'file/run'; {tmp_path}/file is no folder; give another --out"
    assert said(capsys, command, "file/run") == told
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert said(capsys, command, "another").startswith("error: it loads")


def test_a_folder_of_a_run(tmp_path, command, capsys):
    """It would be refused afterwards too, when all is loaded."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").touch()
    told = "it holds the config.json of a run; give another --out, or --resume latest"
    assert said(capsys, command, "a") == f"error: out: received 'a'; {told}"


def test_a_read_only_disk(tmp_path, command, capsys):
    with disk(tmp_path / "disk", "ro") as folder:
        told = NOWHERE_TO.format(folder / "a" / "run", errno.EROFS, folder, "")
        assert re.fullmatch(f"error: {told}", said(capsys, command, folder / "a" / "run"))


def test_a_full_disk(tmp_path, command, capsys):
    with disk(tmp_path / "disk", "size=4k") as folder:
        (folder / "x").write_bytes(bytes(4096))
        repair = "free some space there, or "
        told = NOWHERE_TO.format(folder / "run", errno.ENOSPC, folder, repair)
        assert re.fullmatch(f"error: {told}", said(capsys, command, folder / "run"))
        (folder / "x").unlink()
        assert said(capsys, command, folder / "run").startswith("error: it loads")
        assert not [*folder.iterdir()]


def test_a_study_looks_first_too(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config:
        run: RunOptions

    study = Study("toy", "a", "b", "c", 1)
    (tmp_path / "file").touch()
    config = Config(RunOptions(out="file/run", compilation_cache=False, distributed="off"))
    with pytest.raises(ValueError, match=r"received 'file/run'; .*/file is no folder"):
        study.begin(config, load=lambda mesh: pytest.fail("it loads"))


@pytest.mark.parametrize(("number", "space"), [(errno.EACCES, ""), (errno.EDQUOT, "free some")])
def test_rights_and_quotas(tmp_path, monkeypatch, number, space):
    def refuses(dir):
        raise OSError(number, os.strerror(number), os.fspath(dir / "a1b2c3"))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuses)
    repair = "free some space there, or " if space else ""
    with pytest.raises(ValueError, match=NOWHERE_TO.format("a", number, tmp_path, repair)):
        check_place("a", "never")
    with pytest.raises(ValueError, match=rf"out: received 'runs'; .*{tmp_path}"):
        check_place(None, "never")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_shows_only_when_the_folder_is_opened(tmp_path, monkeypatch, number):
    """Such as the lock that another user's run has left."""

    def refuses(*_, **__):
        raise OSError(number, os.strerror(number), os.fspath(tmp_path / "a" / lock.NAME))

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(ValueError, match=r"out: received 'a'; .*\.lock'\); .*give another --out"):
        open_run("toy", {}, out="a", resume="never", seed=0)


@pytest.mark.parametrize(
    ("number", "repair"),
    [
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make that disk writable again"),
        (errno.EACCES, "let that folder be written to"),
    ],
)
def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch, number, repair):
    def refuses(*_):
        raise OSError(number, os.strerror(number))

    with Checkpoints(tmp_path / "a") as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
        checkpoints.wait()
        monkeypatch.setattr(checkpoints, "_write", refuses)
        told = rf"step 2 could not be written to {tmp_path}/a \(.*{os.strerror(number)}\); .*"
        told += rf"good steps on disk: \[1\]; {repair} and continue with --resume latest"
        with pytest.raises(RunError, match=told):
            checkpoints.save(2, {"x": jnp.ones(2)})


TURNS = """
import dataclasses, subprocess, sys
import jax
from ctrl_jax.runtime import Checkpoints, LoopOptions, command, train
from tests.runtime import toy
sys.modules["ctrl_jax.runtime.run.command"].GOODBYE = 1.0
@dataclasses.dataclass(frozen=True)
class Nothing:
    "No options."
def run(config):
    with Checkpoints(f"{sys.argv[1]}/checkpoints") as checkpoints:
        def batches(k):
            if k == 3:
                checkpoints.wait()
                subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
            return toy.batches(k)
        options = LoopOptions(progress=False, checkpoint_every=2)
        train(toy.step, toy.init(jax.random.key(0)), batches, steps=6, checkpoints=checkpoints,
              options=options)
command(Nothing, run, [])
"""


def test_a_disk_that_turns_read_only_while_a_run_goes_on(tmp_path):
    """As Linux does with one that has errors. Orbax's threads would hold the process."""
    with disk(tmp_path / "disk", "rw") as folder:
        process = start_python("-c", TURNS, os.fspath(folder))
        try:
            _, error = process.communicate(timeout=100)
        finally:
            process.kill()
        told = rf"error: .*could not be written to {folder}/checkpoints .*good steps on disk: "
        told += r"\[2\]; make that disk writable again and continue"
        assert process.returncode == 2 and re.match(told, error), error
