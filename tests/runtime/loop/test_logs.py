"""Metrics files and signs of life."""

import shutil
import sys
import types

import numpy as np
import pytest

from ctrl_jax.runtime import (
    MetricsLog,
    RunError,
    RunOptions,
    RunWarning,
    make_adapters,
    progress,
    read_metrics,
    tensorboard_adapter,
    wandb_adapter,
)


def test_lines_are_appended_with_null_for_nan(tmp_path):
    path = tmp_path / "sub" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(1, {"loss": np.float32(0.5), "bad": float("nan")})
    assert path.read_text() == '{"step": 1, "loss": 0.5, "bad": null}\n'


def test_resume_cuts_the_file_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for k in range(1, 8):
            log.write(k, {"loss": 1 / 3 * k})
    whole = path.read_text()
    with open(path, "a") as file:
        file.write('{"step": 8, "lo')
    with MetricsLog(path, start=5) as log:
        assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]
        for k in (6, 7):
            log.write(k, {"loss": 1 / 3 * k})
    assert path.read_text() == whole


def test_lines_that_the_disk_changed_are_said(tmp_path, recwarn):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(1, {"loss": 1 / 3})
        known = log.digest
        log.write(2, {"loss": 0.5})
    with MetricsLog(path, start=1, digest=known) as log:
        assert log.digest == known
    assert not recwarn
    path.write_text(path.read_text().replace("0.33", "0.32"))
    with pytest.warns(RunWarning, match="lines were changed or lost on disk; what is left"):
        MetricsLog(path, start=1, digest=known).close()
    path.write_text("")
    with pytest.warns(RunWarning, match="lines were changed"):
        MetricsLog(path, start=1, digest=known).close()


def test_a_fresh_start_empties_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(0, {"loss": 1.0})
    with MetricsLog(path):
        pass
    assert path.read_text() == ""


def test_adapters_receive_every_line(tmp_path, monkeypatch):
    seen = []
    nothing = lambda: None  # noqa: E731
    writer = types.SimpleNamespace(add_scalar=lambda *args: seen.append(args), flush=nothing)
    fake_board = types.SimpleNamespace(SummaryWriter=lambda folder: writer)
    fake_run = types.SimpleNamespace(log=lambda metrics, step: seen.append((step, metrics)))
    fake_wandb = types.SimpleNamespace(init=lambda **kwargs: fake_run)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake_board)
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb)
    adapters = (tensorboard_adapter(tmp_path), wandb_adapter(project="p"))
    with MetricsLog(tmp_path / "m.jsonl", adapters=adapters) as log:
        log.write(4, {"loss": np.float32(2), "none": None, "word": "x", "row": np.zeros(2)})
    assert seen == [("loss", 2.0, 4), (4, {"loss": 2.0})]


def test_a_logger_never_stops_a_run(tmp_path):
    """Its first exception is said; the lines are written, and it is asked again."""
    seen = []

    def fails(step, metrics):
        seen.append(step)
        raise ConnectionError("no network")

    with (
        pytest.warns(RunWarning) as said,
        MetricsLog(tmp_path / "m.jsonl", adapters=[fails]) as log,
    ):
        for k in range(1, 4):
            log.write(k, {"loss": 1.0})
    assert [row["step"] for row in read_metrics(tmp_path / "m.jsonl")] == seen == [1, 2, 3]
    (only,) = said
    assert "it fails (ConnectionError: no network); the run goes on" in str(only.message)


def test_adapters_by_name(tmp_path, monkeypatch):
    """Weights & Biases gets the same run again for the same folder; what cannot start is said."""
    started = []

    def init(**kwargs):
        started.append(kwargs)
        return types.SimpleNamespace(log=lambda *args, **kwargs: None, finish=lambda: None)

    def no_writer(folder):
        raise OSError(f"no room in {folder}")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=no_writer))
    config = {"rate": 0.1}
    for _ in range(2):
        with pytest.warns(RunWarning, match="--log tensorboard: it fails .OSError: no room in"):
            found = make_adapters(("wandb", "tensorboard"), tmp_path / "a", config)
        assert len(found) == 1
    assert started[0] == started[1] and started[0]["name"] == "a"
    assert started[0]["config"] == config and started[0]["dir"] == str(tmp_path / "a")
    make_adapters(("wandb",), tmp_path / "b", config)
    assert started[2]["id"] != started[0]["id"]
    assert make_adapters((), tmp_path, config) == ()


@pytest.mark.parametrize("move", [lambda p: p.rename(p.with_name("b")), shutil.rmtree])
def test_a_file_that_vanished_is_an_error(tmp_path, move):
    log = MetricsLog(tmp_path / "a" / "m.jsonl")
    log.write(1, {"loss": 1.0})
    log.flush()
    move(tmp_path / "a")
    log.write(2, {"loss": 1.0})
    with pytest.raises(RunError, match=r"m.jsonl is no longer there: its folder was moved or rem"):
        log.flush()
    with pytest.raises(RunError):
        log.close()
    log.close()


def test_a_missing_adapter_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'ctrl_jax\[tensorboard\]'"):
        tensorboard_adapter("x")
    with pytest.raises(ValueError, match=r"log: received 'wandb'; wandb is not installed; run pip"):
        wandb_adapter()
    with pytest.raises(ValueError, match="log: received 'wandb'"):
        RunOptions(log=("wandb",)).validate()


def test_plain_lines_where_there_is_no_terminal(capsys):
    with progress(100, "training", every_seconds=0.0) as show:
        show(50, {"loss": 0.25, "update/finite": True, "bad": float("nan")})
        show(100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("training: 50/100") and lines[0].endswith("loss 0.25")
    metrics = {n: 0.5 for n in ("advantage", "kl/path", "loss", "p", "reward/mean", "x")}
    with progress(100, "training", every_seconds=0.0) as show:
        show(50, metrics | {"rows": np.zeros(3), "none": None})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("reward/mean 0.5 loss 0.5 kl/path 0.5 advantage 0.5")
    with progress(100, "training") as show:
        show(50)
    with progress(100, "training", enabled=False) as show:
        show(100)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(2, "training") as show:
        show(1, {"loss": 0.25})
        show(2)
    assert "training" in capsys.readouterr().err
