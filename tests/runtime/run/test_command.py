"""Commands: help from docstrings, and one clear line for every mistake."""

import contextlib
import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import jax.numpy as jnp
import pytest
import tyro
from jax.errors import JaxRuntimeError

from ctrl_jax.rewards import RewardUnavailable
from ctrl_jax.runtime import (
    Checkpoints,
    Run,
    RunError,
    RunInterrupted,
    RunOptions,
    check_fraction,
    check_positive,
    command,
    enable_compilation_cache,
    load_callable,
    open_run,
    prepare,
    read_json,
)
from ctrl_jax.runtime.loop.signals import Terminated
from ctrl_jax.runtime.run.arguments import memory_savers


@dataclasses.dataclass(frozen=True)
class Config:
    """A claim, in a sentence."""

    learning_rate: float = 1e-3
    """Step size of the optimizer, per update."""

    clip: float = 0.2
    """Clipping of the ratio, a fraction."""

    run: Annotated[RunOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: RunOptions(steps=7)
    )

    def validate(self) -> None:
        check_positive("--learning-rate", self.learning_rate)
        check_fraction("--clip", self.clip)


def test_common_flags_have_no_prefix():
    text = "--out d --seed 3 --resume latest --mesh.data 2 --mesh.model 1 --distributed off"
    config = command(Config, lambda c: c, args=[*text.split(), "--no-progress"])
    assert (config.run.out, config.run.seed, config.run.resume) == ("d", 3, "latest")
    assert (config.run.mesh.data, config.run.distributed, config.run.steps) == (2, "off", 7)
    assert not config.run.progress


def test_a_preset_gives_the_defaults_and_options_change_them():
    preset = Config(learning_rate=0.5, run=RunOptions(steps=3))
    config = command(Config, lambda c: c, args=["--clip", "0.1"], default=preset)
    assert config == dataclasses.replace(preset, clip=0.1)


def test_help_shows_docstrings(capsys):
    with pytest.raises(SystemExit) as stop:
        command(Config, lambda c: c, args=["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "A claim, in a sentence." in text and "Step size of the optimizer" in text
    assert "--mesh.data" in text and "--resume" in text


@pytest.mark.parametrize(
    ("module", "program", "usage"),
    [
        ("experiments.contraction.__main__", None, "usage: python -m experiments.contraction "),
        ("ctrl_jax.commands.sample", None, "usage: python -m ctrl_jax.commands.sample "),
        ("ctrl_jax.commands.__main__", "ctrl-jax sample", "usage: ctrl-jax sample "),
        (None, None, "usage: train.py "),
    ],
)
def test_help_calls_the_program_as_it_was_started(module, program, usage, monkeypatch, capsys):
    main = ModuleType("__main__")
    main.__spec__ = None if module is None else ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit):
        command(Config, lambda c: c, args=["--help"], program=program)
    assert capsys.readouterr().out.startswith(usage)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--learning-rate nan", "--learning-rate: received nan; it must be a finite number"),
        ("--learning-rate -1", "it must be above zero"),
        ("--learning-rate fast", "Error parsing --learning-rate"),
        (
            "--learning-rat 1",
            "error: Unrecognized options: --learning-rat, 1; perhaps --learning-rate",
        ),
        ("--learning-rate", "Missing value for argument '--learning-rate'"),
        ("--clip 1.5", "it must lie in [0, 1]"),
        ("--steps -5", "steps: received -5; it must be a whole number of at least 1"),
        ("--resume yes", "Expected one of ('never', 'latest', 'strict')"),
        ("--seed -1", "seed: received -1"),
        (f"--seed {2**32}", "seed: received 4294967296; it must be at most 4294967295"),
        (f"--seed {10**23}", "it must be at most 4294967295; give a smaller one"),
        (f"--steps {10**23}", "it must be at most 2147483647; give a smaller one"),
        (f"--mesh.data {10**23}", "mesh.data: received 1"),
        (f"--heartbeat-seconds {10**23}", "heartbeat_seconds: received 1"),
        ("--mesh.data 0", "mesh.data: received 0"),
        ("--precision float16", "invalid choice 'float16'"),
        ("stray", "error: Unrecognized options: stray; --help lists the options\n"),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command(Config, lambda c: pytest.fail("ran"), args=args.split())
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("saved", [True, False])
def test_a_signal_between_updates_ends_a_command_with_a_line(tmp_path, monkeypatch, capsys, saved):
    """While a model is loaded, pictures are drawn, or samples are measured."""
    monkeypatch.chdir(tmp_path)

    def run(config):
        run = open_run("toy", {}, out="a", resume="never", seed=0)
        if saved:
            with Checkpoints(run.folder / "stage") as checkpoints:
                checkpoints.save(1, {"x": jnp.ones(2)})
        with contextlib.suppress(Exception):  # such as that of a user's reward
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it was swallowed")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        command(Config, run, args=[])
    assert stop.value.code == 128 + signal.SIGTERM
    onward = "continue with the same command and --out a --resume latest"
    assert capsys.readouterr().err == (
        f"stopped by SIGTERM; {onward if saved else 'nothing is saved yet in a'}\n"
    )
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "a" / ".lock").exists()


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("a: received 1;\nb"), 2, "error: a: received 1;; b"),
        (RunError("stopped"), 2, "error: stopped"),
        (RunInterrupted("saved", 15), 143, "saved"),
        (RewardUnavailable("nobody answers"), 75, "error: nobody answers"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT"),
        (Terminated(), 143, "stopped by SIGTERM"),
        (FileNotFoundError(2, "No such file", "x"), 2, "error: [Errno 2] No such file: 'x'"),
    ],
)
def test_errors_of_a_run(error, status, line, capsys):
    def run(config):
        raise error

    with pytest.raises(SystemExit) as stop:
        command(Config, run, args=[])
    assert stop.value.code == status
    assert capsys.readouterr().err.splitlines()[0].startswith(line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("8 GiB"), "error: there is not enough memory (8 GiB); what helps: --precis"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9"), "error: there is not enough memory (RESOURCE_EXH"),
        (OverflowError("int too large"), "error: a number is too large for what it counts (int t"),
        (
            OSError(28, "No space", "/a/b"),
            "error: [Errno 28] No space: '/a/b'; free some space t",
        ),
    ],
)
def test_what_the_machine_cannot_do_is_one_line(error, line, capsys):
    def run(config):
        raise error

    with pytest.raises(SystemExit) as stop:
        command(Config, run, args=[])
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(line)


def fail(error: Exception, config: Config) -> None:
    raise error


@pytest.mark.parametrize(
    "run",
    [
        lambda config: jnp.zeros(2**45).block_until_ready(),
        # As a TPU's compiler says it.
        partial(
            fail, JaxRuntimeError("RESOURCE_EXHAUSTED: compile error.\nUsed 20G of 15.75G hbm.")
        ),
        partial(fail, JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY")),
    ],
)
def test_want_of_memory_names_the_options_of_the_command(run, capsys):
    @dataclasses.dataclass(frozen=True)
    class Large(Config):
        batch: int = 8
        remat: bool = False
        samples: int = 8

        def validate(self) -> None:
            if self.run.mesh.model != 1:
                raise ValueError("mesh.model: received 2; no; no")

    with pytest.raises(SystemExit) as stop:
        command(Large, run, args=["--samples", "10000", "--precision", "bfloat16", "--steps=9999"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    helps = (
        "what helps: a smaller --samples, --remat, a smaller --batch, more devices by --mesh.data"
    )
    assert said.startswith("error: there is not enough memory (")
    assert helps in said and "mesh.model" not in said and "bfloat16" not in said


@pytest.mark.parametrize(
    ("name", "helps"),
    [
        ("fine_tune", {"--chunks auto", "--remat", "a smaller --batch", "--fully-sharded"}),
        ("prefer", {"--optimization.remat", "a larger --optimization.accumulate"}),
        ("sample", {"a smaller --batch", "--precision bfloat16"}),
    ],
)
def test_what_needs_less_memory_is_found_in_every_command(name, helps):
    module = importlib.import_module(f"ctrl_jax.commands.{name}")
    assert helps <= dict(memory_savers(module.Config)).keys()


def refused(
    *args: str,
    error: Exception = ValueError("no"),  # noqa: B008
    before: Callable[[Run], Any] = lambda run: None,
    out: str | None = "runs/a",
) -> None:
    """A command that makes its folder, or opens it, and is refused afterwards."""

    def run(config):
        run = open_run("toy", {"a": args}, out=out, resume=config.run.resume, seed=0)
        before(run)
        raise error

    with pytest.raises(SystemExit):
        command(Config, run, args=args)


def save(run):
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(len(checkpoints.steps()) + 1, {"x": jnp.ones(2)})


def test_a_refused_command_leaves_nothing(tmp_path, monkeypatch):
    """So that the corrected one is not refused for its folder."""
    monkeypatch.chdir(tmp_path)
    for out in ("runs/a", None):
        refused(out=out, before=lambda run: (run.folder / "reference.npz").write_bytes(b"1"))
        refused(out=out, error=MemoryError())
        assert not [*tmp_path.iterdir()]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    refused(out="mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_came_of_a_command_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(before=save)
    assert read_json("runs/a/config.json")["config"] == {"a": []}
    refused("--resume", "latest")
    assert read_json("runs/a/config.json")["config"] == {"a": []}
    refused("--resume", "latest", before=save)
    assert read_json("runs/a/config.json")["config"] == {"a": ["--resume", "latest"]}
    refused(error=RunError("went wrong"), out="runs/b")
    assert read_json("runs/b/config.json")["config"] == {"a": []}


def test_a_stage_of_a_refused_command_is_found_again(tmp_path, monkeypatch):
    def stage(run):
        with Checkpoints(run.folder / "stage-1") as checkpoints:
            checkpoints.save(1, {"x": jnp.ones(2)})

    monkeypatch.chdir(tmp_path)
    refused(before=stage)
    assert [p.name for p in (tmp_path / "runs" / "a").iterdir()] == ["stage-1"]


def test_bugs_keep_their_traceback_and_the_variable_shows_it(monkeypatch):
    def bug(config):
        raise TypeError("a bug")

    def mistake(config):
        raise ValueError("a mistake")

    with pytest.raises(TypeError):
        command(Config, bug, args=[])
    monkeypatch.setenv("CTRL_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a mistake"):
        command(Config, mistake, args=[])


def test_errors_from_elsewhere_say_how_to_see_more(capsys):
    with pytest.raises(SystemExit):
        command(Config, lambda c: Path("/nonexistent/x").read_text(), args=[])
    err = capsys.readouterr().err
    assert "CTRL_JAX_TRACEBACK=1" in err and err.count("\n") == 1


def test_functions_are_loaded_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "class A:\n    @staticmethod\n    def f(x):\n        return x + 1\nnumber = 3\n"
    )
    (tmp_path / "my_broken.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "my_crash.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_callable("my_rewards:A.f")(1) == 2
    for spec, message in {
        "my_rewards": "form module:function",
        "my_rewards:": "form module:function",
        "my rewards:f": "form module:function",
        "my_absent:f": "no module 'my_absent'",
        "my_rewards.sub:f": "importing it fails|no module",
        "my_rewards.py:g": "leave .py out: my_rewards:g",
        "my_rewards:g": "has no 'g'",
        "my_rewards:number": "is a int, not a function",
        "my_broken:f": "No module named 'not_installed_anywhere'",
        "my_crash:f": "ZeroDivisionError",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_callable(spec)


def test_the_compilation_cache_belongs_to_the_user(tmp_path, monkeypatch):
    import jax

    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        path = enable_compilation_cache()
        assert path == tmp_path / "ctrl_jax"
        assert path.stat().st_mode & 0o777 == 0o700
        assert jax.config.values["jax_compilation_cache_dir"] == str(path)
        path.chmod(0o777)
        with pytest.raises(ValueError, match="others may write"):
            enable_compilation_cache()
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(ValueError, match="not a link"):
            enable_compilation_cache(tmp_path / "link")
        monkeypatch.setattr("os.getuid", lambda: 12345)
        with pytest.raises(ValueError, match="another user"):
            enable_compilation_cache(tmp_path / "ctrl_jax")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_compilation_cache_that_cannot_be_made_is_one_line_with_a_repair(tmp_path, monkeypatch):
    """As in a container: a home in which nothing can be made, and a user who has none."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot be made .*file.*; .*--no-compilation-cache"):
        enable_compilation_cache()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(ValueError, match=r"cannot be made .*home.*; set XDG_CACHE_HOME"):
        enable_compilation_cache()


def test_prepare_builds_the_mesh():
    mesh = prepare(RunOptions(compilation_cache=False, distributed="off"))
    assert mesh.axis_names == ("data", "model")
