"""Consistency models beside DDIM, as their users run them."""

import json

import numpy as np
import pytest

from ctrl_jax.runtime import command
from experiments import datasets
from experiments.consistency import evaluation, tasks
from experiments.consistency.__main__ import Config, main

TINY = """
--no-progress --steps 8 --pretraining-steps 8 --batch 32 --width 8 --depth 1 --samples 128
--evaluations 1 2 --first-levels 4 --doublings 1
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    command(Config, main, [*TINY, "--data", "swiss_roll", "--out", str(folder)])
    return folder, json.loads((folder / "results.json").read_text())


def test_results(finished):
    folder, results = finished
    for measure in ("sliced W2", "W2"):
        floor = results["metrics"][f"swiss_roll/{measure}/true data"]
        for name in ("ddim", "distillation", "training"):
            for steps in (1, 2):
                assert results["metrics"][f"swiss_roll/{measure}/{name}/{steps}"] > floor > 0
    assert len(results["digest"]) == 64 and results["seconds"] > 0
    for picture in ("quality.png", "samples-swiss_roll.png"):
        assert (folder / picture).stat().st_size > 1000
    for stage, last in (("score", 8), ("distillation", 8), ("training", 8)):
        rows = (folder / f"swiss_roll-{stage}.jsonl").read_text().splitlines()
        assert json.loads(rows[-1])["step"] == last


def test_a_finished_run_is_found_again(finished):
    folder, results = finished
    options = [*TINY, "--data", "swiss_roll", "--out", str(folder), "--resume", "latest"]
    command(Config, main, options)
    again = json.loads((folder / "results.json").read_text())
    assert again["digest"] == results["digest"] and again["metrics"] == results["metrics"]


@pytest.mark.slow
def test_digits(tmp_path):
    command(Config, main, [*TINY, "--data", "digits", "--out", str(tmp_path / "a")])
    metrics = json.loads((tmp_path / "a" / "results.json").read_text())["metrics"]
    assert (
        metrics["digits/Fréchet, features/ddim/1"] > metrics["digits/Fréchet, features/true data"]
    )


def test_the_roll_and_the_times_of_many_evaluations():
    points = tasks.draw_roll(np.random.default_rng(0), 5000)
    radius = np.linalg.norm(points, axis=1)
    # The angle runs from 1.5 pi to 4.5 pi and the radius with it, give or take five stds of .25.
    assert radius.min() > datasets.ROLL_SCALE * (1.5 * np.pi - 1.25)
    assert radius.max() < datasets.ROLL_SCALE * (4.5 * np.pi + 1.25)
    task = tasks.make_task("swiss_roll", 64)
    times = np.asarray(evaluation.later_times(task, 4))
    assert times.shape == (3,) and (np.diff(times) < 0).all()
    assert task.end < times[-1] and times[0] < task.process.horizon
    assert evaluation.later_times(task, 1).shape == (0,)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--evaluations", "2", "1"], "they must increase"),
        (["--average-decay", "1"], "never move"),
        (["--resume", "strict"], "--resume latest"),
        (["--huber", "0"], "huber: received 0"),
    ],
)
def test_mistakes_are_one_clear_line(options, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(Config, main, [*TINY, "--out", str(tmp_path / "a"), *options])
    assert stopped.value.code == 2 and expected in capsys.readouterr().err
