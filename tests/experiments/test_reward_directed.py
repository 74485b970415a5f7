"""The experiment of reward-directed diffusion, as its users run it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.runtime import command
from experiments.directed_tasks import forward_process, make_task
from experiments.reward_directed import few_points
from experiments.reward_directed.__main__ import Config, main
from experiments.reward_directed.claims import Row, against_fine_tuning, one_point
from experiments.reward_directed.methods import METHODS, Training, network_evaluations

TINY = """
--no-progress --steps 2 --seeds 2 --points 16 --samples 60 --other-steps 2 --tasks swiss_roll
--methods q_ratio dpok --few 1 --training.batch 8 --training.q-epochs 1
--training.fine-tuning-epochs 1 --training.pretraining-steps 2 --training.pretraining-batch 8
""".split()  # noqa: SIM905


def run(folder, options):
    command(Config, main, [*TINY, *options, "--out", str(folder)])
    return json.loads((folder / "results.json").read_text())["metrics"]


def test_what_a_run_leaves(tmp_path):
    metrics = run(tmp_path / "a", ["--methods", "q_ratio", "--few"])
    for name in ("distance", "reward", "objective"):
        assert np.isfinite(metrics[f"{name}/swiss_roll/q_ratio/sde/steps=2"])
        assert np.isfinite(metrics[f"{name}/swiss_roll/q_ratio/sde/steps=2/stderr"])
    assert metrics["reward_queries"] == 16
    assert {claim["holds"] for claim in metrics["claims"]} <= {"yes", "level", "no"}
    for file in ("swiss_roll.png", "curves.png", "metrics.jsonl"):
        assert (tmp_path / "a" / file).stat().st_size > 100


@pytest.mark.slow
def test_what_a_run_with_every_method_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(few_points, "UPDATES", 2)
    metrics = run(
        tmp_path / "a", ["--tasks", "mixture_1d", "--solver-steps", "2", "--methods", *METHODS]
    )
    runs = [("q_ratio", "flow"), *((name, "sde") for name in METHODS)]
    for name, sampler in runs:
        assert np.isfinite(metrics[f"distance/mixture_1d/{name}/{sampler}/steps=2"])
    assert any(claim["name"] == "one point" for claim in metrics["claims"])
    for picture in ("mixture_1d.png", "steps.png", "few_points.png"):
        assert (tmp_path / "a" / picture).stat().st_size > 1000


def test_a_verdict_can_be_no():
    """Distances of .5 and .1 with small errors, and the other way round."""

    def row(method, distance):
        values = {"distance": distance + np.asarray([-0.01, 0.01]), "objective": np.zeros(2)}
        return Row("t", method, "sde", 10, values)

    verdicts = [
        against_fine_tuning([row("q_ratio", mine), row("dpok", 0.3)], "t", 10, "q_ratio")[0].holds
        for mine in (0.5, 0.3, 0.1)
    ]
    assert verdicts == ["no", "level", "yes"]
    best = few_points.Law(np.asarray([1.43, 1.43]), np.asarray([0.357, 0.357]))
    wrong = few_points.Law(np.ones(2), np.asarray([0.01, 0.01]))
    for law, holds in ((best, "yes"), (wrong, "no")):
        assert one_point({"1": law}, few_points.one_point_limit())[0].holds == holds


def test_the_limit_of_one_point_is_the_data_mean():
    """To the discretization, whose last step leaves its own noise."""
    limit = few_points.one_point_limit()
    assert abs(float(limit.mean) - 1.0) < 0.01 and float(limit.variance) < 0.02


def test_budgets_are_equal():
    """As many reward queries, and network evaluations within a tenth."""
    costs = [network_evaluations(name, Training(), 10) for name in ("q_ratio", "ddpo")]
    assert abs(costs[0] / costs[1] - 1) < 0.1


def test_the_digits_given_their_label():
    """The estimate is the score of the label's own points: at a small time it points at them."""
    task = make_task("digits", 0)
    assert task.labels is not None and task.classes == 10
    image = jnp.asarray(task.points[:1])
    label = jnp.asarray(task.labels[:1])
    t = jnp.asarray(5e-3)
    scale, std = forward_process().marginal(t)
    right, wrong = (
        (image * scale + std**2 * task.ratio()(t, scale * image, c)) / scale
        for c in (label, (label + 1) % 10)
    )
    assert float(abs(right - image).max()) < 1e-3 < float(abs(wrong - image).max())
    measured = task.measure(task.ideal, task.ideal_labels)
    assert measured["label accuracy"] > 0.95 and measured["distance"] < 1e-4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tasks", "cats"], "tasks"),
        (["--methods", "sac"], "methods"),
        (["--solver-steps", "7"], "multiple of 5"),
        (["--few", "0"], "few"),
        (["--training.temperature", "-1"], "training.temperature"),
    ],
)
def test_mistakes_are_one_clear_line(options, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(Config, main, [*TINY, "--out", str(tmp_path / "a"), *options])
    assert stopped.value.code == 2 and expected in capsys.readouterr().err
