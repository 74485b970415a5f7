"""Metrics files and signs of life."""

import sys
import types

import numpy as np
import pytest

from ctrl_jax.runtime import MetricsLog, progress, read_metrics, tensorboard_adapter, wandb_adapter


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


def test_a_fresh_start_empties_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(0, {"loss": 1.0})
    with MetricsLog(path):
        pass
    assert path.read_text() == ""


def test_adapters_receive_every_line(tmp_path, monkeypatch):
    seen = []
    writer = types.SimpleNamespace(add_scalar=lambda *args: seen.append(args))
    fake_board = types.SimpleNamespace(SummaryWriter=lambda folder: writer)
    fake_run = types.SimpleNamespace(log=lambda metrics, step: seen.append((step, metrics)))
    fake_wandb = types.SimpleNamespace(init=lambda **kwargs: fake_run)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake_board)
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb)
    adapters = (tensorboard_adapter(tmp_path), wandb_adapter(project="p"))
    with MetricsLog(tmp_path / "m.jsonl", adapters=adapters) as log:
        log.write(4, {"loss": np.float32(2)})
    assert seen == [("loss", 2.0, 4), (4, {"loss": 2.0})]


def test_a_missing_adapter_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install tensorboardX"):
        tensorboard_adapter("x")
    with pytest.raises(ValueError, match="pip install wandb"):
        wandb_adapter()


def test_plain_lines_where_there_is_no_terminal(capsys):
    with progress(100, "training", every_seconds=0.0) as show:
        show(50, {"loss": 0.25, "update/finite": True, "bad": float("nan")})
        show(100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("training: 50/100") and lines[0].endswith("loss 0.25")
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
