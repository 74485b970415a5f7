"""The main experiment as its users run it: results, resuming, sampling, their own data."""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.commands import sample
from ctrl_jax.metrics.frontier import Frontier
from ctrl_jax.runtime import Checkpoints, RunError, command, load, load_model, state_digest
from experiments.fine_tuning import success_threshold
from experiments.score_as_action import plots, report, value_networks
from experiments.score_as_action.__main__ import load as load_inputs
from experiments.score_as_action.__main__ import main, study_of
from experiments.score_as_action.config import Config
from experiments.score_as_action.over_seeds import measure, summarize
from tests.algorithms.diffusion.steering import EXACT
from tests.experiments.killed import check_killed_run
from tests.experiments.tiny import TINY, TINY_ANALYTIC
from tests.runtime.processes import LIMIT, free_port, start_python

REQUIRED = {
    "gold_success/before",
    "gold_success/after",
    "proxy_reward/before",
    "proxy_reward/after",
    "diversity/before",
    "diversity/after",
    "diversity/real",
    "kl/path",
    "kl/ideal",
    "reward_queries",
    "traces",
    "proxy/accuracy",
}


def run(folder: Path, *options: str, tiny: Sequence[str] = TINY) -> dict:
    os.chdir(folder.parent)
    found = command(Config, main, [*tiny, "--out", str(folder), *options])
    return json.loads((found / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    before = os.getcwd()
    folder = tmp_path_factory.mktemp("runs") / "a"
    results = run(folder)
    yield folder, results
    os.chdir(before)


def test_results(finished):
    folder, results = finished
    assert set(results["metrics"]) >= REQUIRED
    assert results["metrics"]["traces"] == 1
    assert results["metrics"]["reward_queries"] == 4 * 16
    assert len(results["digest"]) == 64 and results["seconds"] > 0
    for picture in ("samples.png", "curves.png", "frontier.png"):
        assert (folder / picture).stat().st_size > 1000
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    # One to the bit as users compile it: `make test-all`, and algorithms/diffusion/test_ratio.
    quick = jax.config.read("jax_disable_most_optimizations")
    assert rows[1]["ratio/max_deviation"] <= (1e-5 if quick else 0.0)
    assert rows[1]["ratio/rollout_deviation"] < 1e-4


def test_load_gives_the_trained_model(finished):
    process, score_fn = load(finished[0])
    x = jnp.zeros((3, 8, 8, 1))
    assert jax.eval_shape(score_fn, jnp.asarray(0.5), x).shape == x.shape
    model = load_model(finished[0])
    assert state_digest(model.params) == finished[1]["digest"]
    assert process.horizon == 1.0


def test_sampling_from_a_run(finished):
    folder, _ = finished
    out = command(sample.Config, sample.main, [str(folder), "--number", "10"])
    images = np.load(out / "samples.npz")["images"]
    assert images.shape == (10, 8, 8, 1) and np.isfinite(images).all()
    assert (out / "samples.png").exists()


@pytest.mark.slow  # the same loop is killed in runtime/loop
def test_a_killed_run_continues_bitwise(finished, tmp_path):
    out = tmp_path / "killed"
    line = [sys.executable, "-m", "experiments.score_as_action", *TINY, "--out", str(out)]
    check_killed_run(line, out, 1, finished[0])


SLOW = pytest.mark.slow


def test_success_of_rewards_on_plateaus():
    """Never none and never all of the base samples, wherever the quantile falls."""
    random = np.random.default_rng(0)
    half = np.array([0.3, 1.7], np.float32)[random.integers(0, 2, 4096)]
    rare = (random.random(4096) < 0.05).astype(np.float32)
    common = (random.random(4096) < 0.95).astype(np.float32)
    steps = np.searchsorted([0.7, 0.92], random.random(4096)).astype(np.float32)
    jitter = half * (1 + np.finfo(np.float32).eps * random.integers(-2, 3, 4096)).astype("f4")
    cases = ((half, 0.5), (rare, 0.05), (common, 0.95), (steps, 0.08), (jitter, 0.5))
    for rewards, expected in cases:
        found = np.mean(rewards > success_threshold(rewards, share=0.1))
        assert abs(found - expected) < 0.03, expected
    smooth = random.normal(size=4096).astype(np.float32)
    assert np.mean(smooth > success_threshold(smooth, share=0.1)) == pytest.approx(0.1, abs=1e-3)
    assert success_threshold(np.ones(5, np.float32), share=0.1) == 1.0


def test_words_are_those_of_the_reward():
    """Only a learned reward is a proxy, and only its annotator's verdict gold."""
    own, known = Config(reward="a:b"), Config(environment="gaussian")
    assert report.names(Config()) == ("gold_success", "proxy_reward")
    for config in (own, known):
        said = " ".join((*report.names(config), *report.titles(config), study_of(config).claim))
        assert not any(word in said for word in ("gold", "proxy", "preferences", "class"))


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(n, marks=SLOW) for n in ("ddpo", "value_gradient", "policy_gradient", "dpok")],
)
def test_other_algorithms(tmp_path, algorithm):
    options = ["--algorithm", algorithm, "--environment", "gaussian"]
    results = run(tmp_path / "a", *options, tiny=TINY_ANALYTIC)
    command(sample.Config, sample.main, [str(tmp_path / "a"), "--number", "50"])
    assert np.load(tmp_path / "a" / "samples" / "samples.npz")["samples"].shape == (50, 1)
    assert results["metrics"]["w2/tilted"] > 0 < results["metrics"]["w2/two_samples"]
    assert results["metrics"]["objective"] <= results["metrics"]["objective/optimal"] + 1.0


@SLOW
def test_own_data_reward_and_other_solver_steps(tmp_path, monkeypatch, capsys):
    images = np.random.default_rng(0).uniform(-1, 1, (64, 6, 6, 1)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", images=images)
    (tmp_path / "own_rewards.py").write_text("def brightness(x):\n    return x.mean((1, 2, 3))\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--data", "mine.npz", "--reward", "own_rewards:brightness"]
    results = run(tmp_path / "a", *options, "--evaluation-solver-steps", "3", "7")
    metrics = results["metrics"]
    assert 0.0 < metrics["success/before"] < 0.3
    assert metrics["diversity/real"] is None
    assert {"kl/path/after/steps=3", "success/before/steps=7"} <= set(metrics)
    # There is no annotator, and so no gold.
    assert "preferences" not in results["claim"]
    assert not any(name.startswith(("gold", "proxy")) for name in metrics)
    assert "gold" not in capsys.readouterr().out


@SLOW
def test_two_processes_do_what_two_devices_do(tmp_path, monkeypatch):
    """A pod's hosts run the same command and end with the same numbers as one machine."""
    monkeypatch.chdir(tmp_path)
    line = ["-m", "experiments.score_as_action", *TINY, "--pretraining.no-reuse"]
    together = [*line, "--out", "two", "--distributed", "on", "--processes", "2"]
    together += ["--coordinator", f"127.0.0.1:{free_port()}", "--process-id"]
    processes = [start_python(*together, str(rank)) for rank in range(2)]
    alone = start_python(*line, "--out", "one", JAX_NUM_CPU_DEVICES="2")
    for process in (*processes, alone):
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
    one, two = (json.loads(Path(name, "results.json").read_text()) for name in ("one", "two"))
    assert one["metrics"]["kl/path"] > 0
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, rel=1e-4), name


@SLOW
def test_comparison(tmp_path):
    options = ["--compare", "--seeds", "2", "--environment", "gaussian"]
    results = run(tmp_path / "a", *options, tiny=TINY_ANALYTIC)
    metrics = results["metrics"]
    for name in ("ppo", "value_gradient", "policy_gradient", "ddpo", "dpok"):
        assert f"{name}/queries" in metrics and f"{name}/point=3/kl" in metrics
        reached = int(metrics[f"{name}/seeds_reached"].split("/")[0])
        assert metrics[f"{name}/queries/is_lower_bound"] == (reached < 2)
        # A seed that never arrives counts with its whole budget.
        assert reached > 0 or metrics[f"{name}/queries"] == 4 * 16
    assert metrics["objective/optimal"] == pytest.approx(EXACT.mean_value(), rel=1e-5)
    assert (tmp_path / "a" / "queries.png").exists()


def nan_reward(x):
    return jnp.where(x.mean((1, 2, 3)) > -10, jnp.nan, 0.0)


def wrong_shape(x):
    return x.mean(axis=(1, 2))


def failing(x):
    return x.no_such_thing


def numpy_reward(x):
    return np.asarray(x).mean(axis=(1, 2, 3))


HERE = "tests.experiments.test_score_as_action"
MISTAKES = {
    "learning rate": (["--optimization.learning-rate", "nan"], "learning_rate: received nan"),
    "steps": (["--steps", "-5"], "steps: received -5"),
    "penalty": (["--penalty", "-1"], "penalty: received -1"),
    "infinite penalty": (["--penalty", "inf"], "penalty: received inf"),
    "ddpo with a penalty": (["--algorithm", "ddpo", "--penalty", "0.1"], "no KL penalty"),
    "unknown option": (["--learning_rat", "1"], "learning"),
    "unknown algorithm": (["--algorithm", "trpo"], "trpo"),
    "minibatches": (["--update.minibatches", "3"], "minibatches must divide the solver steps"),
    "clip": (["--clip", "0"], "clip: received 0"),
    "clip of no use": (["--algorithm", "value_gradient", "--clip", "0.1"], "clip: received 0.1"),
    "class": (["--target-class", "11"], "target_class: received 11; it must be one of the classes"),
    "seeds alone": (["--seeds", "3"], "add --compare"),
    "one algorithm compared": (["--compare", "--algorithm", "dpok"], "leave out this option"),
    "steps of a comparison": (
        ["--compare", "--evaluation-solver-steps", "9"],
        "--compare runs every algorithm",
    ),
    "mesh": (["--mesh.data", "64"], "mesh"),
    "data": (["--data", "nowhere.npz"], "data"),
    "reward's name": (["--reward", "nothing"], "module:function"),
    "reward's NaN": (["--reward", f"{HERE}:nan_reward"], "NaN or infinity"),
    "reward's shape": (["--reward", f"{HERE}:wrong_shape"], "it returned shape"),
    "reward that fails": (["--reward", f"{HERE}:failing"], "calling it on images fails"),
    "reward in numpy": (["--reward", f"{HERE}:numpy_reward"], "jax.numpy"),
    "data with an environment": (["--environment", "gaussian", "--data", "x.npz"], "its own data"),
    "network of no use": (["--environment", "gaussian"], "has an exact score and a known reward"),
    "value of no use": (["--algorithm", "ddpo"], "optimization.warmup: received 1; ddpo does not"),
    "network": (
        ["--model.network", "dit", "--model.patch", "3"],
        "DiT.patch: received 3; it must divide",
    ),
    "noise rate": (["--model.beta-max", "-1"], "beta_max: received -1.0; it must be above zero"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_clear_line(mistake, finished, tmp_path, monkeypatch, capsys):
    options, expected = MISTAKES[mistake]
    monkeypatch.chdir(finished[0].parent)
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    with pytest.raises(SystemExit) as stopped:
        command(Config, main, [*TINY, "--out", str(tmp_path / "a"), *options])
    printed = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(printed) == 1 and printed[0].startswith("error: ") and expected in printed[0]


def test_every_mark_of_the_frontier_is_in_its_legend(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "save", lambda figure, path: seen.append(figure))
    line = np.linspace(0.0, 1.0, 5)
    ideal = Frontier(line, line, line, np.full(5, 1000.0))
    for joined in (True, False):
        plots.draw_frontier(tmp_path / "a", ideal, {"ppo": [(0.1, 0.2), (0.3, 0.4)]}, joined=joined)
    (axis,), (other,) = (figure.axes for figure in seen)
    told = [text.get_text() for text in axis.get_legend().get_texts()]
    assert told == ["ideal", "1.5 x its path KL", "ppo", "after the last update"]
    assert [t.get_text() for t in other.get_legend().get_texts()] == told[:3]
    named = {handle.get_marker() for handle in axis.get_legend().legend_handles}
    assert {line.get_marker() for line in axis.lines} <= named


def stopped(config, study):
    """The main loop of a run that saved an update and was stopped by its reward."""
    with Checkpoints(study.run.checkpoints) as checkpoints:
        checkpoints.save(len(checkpoints.steps()) + 1, {"x": jnp.ones(2)}, study.run.record)
    raise RunError("stopped")


def test_a_run_goes_on_with_the_data_and_the_reward_it_was_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("experiments.score_as_action.__main__.make_task", stopped)
    images = np.random.default_rng(0).uniform(-1, 1, (64, 6, 6, 1)).astype(np.float32)
    np.savez("mine.npz", images=images)
    Path("own_bright.py").write_text("def brightness(x):\n    return x.mean((1, 2, 3))\n")
    line = [*TINY, "--data", "mine.npz", "--reward", "own_bright:brightness", "--out", "a"]

    def said(*options):
        with pytest.raises(SystemExit):
            command(Config, main, [*line, *options])
        return capsys.readouterr().err

    assert said().startswith("error: stopped")
    assert said("--resume", "strict").startswith("error: stopped")  # nothing changed: it goes on
    np.savez("mine.npz", images=-images)
    Path("own_bright.py").write_text("def brightness(x):\n    return -x.mean((1, 2, 3))\n")
    refused = said("--resume", "strict")
    assert "content of data: " in refused and "content of reward: " in refused
    assert "config." not in refused and refused.count("\n") == 1
    warned = said("--resume", "latest")
    assert warned.startswith("warning: ") and "content of reward: " in warned


def test_a_damaged_base_model_is_made_again(finished, tmp_path, monkeypatch, capsys):
    """The copy that later runs share, and the one of a run's own folder."""
    folder = tmp_path / "runs" / "pretrained"
    shutil.copytree(finished[0].parent / "runs" / "pretrained", folder)
    (cached,) = folder.iterdir()
    text = (cached / "model.json").read_text()
    (cached / "model.json").write_text(text.replace('"width": 16', '"width": 17'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.score_as_action.__main__.draw_base", stopped_after_the_task)
    with pytest.raises(SystemExit):
        command(Config, main, [*TINY, "--out", "a"])
    said = capsys.readouterr().err
    assert "the base model is damaged and is made again" in said and "error: enough" in said
    assert sorted(p.name for p in folder.iterdir()) == [cached.name, f"{cached.name}.corrupt"]
    assert (cached / "model.json").read_text() == text


def stopped_after_the_task(*_):
    raise RunError("enough")


def test_a_used_folder_is_refused(finished, capsys):
    before = (finished[0] / "results.json").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        command(Config, main, [*TINY, "--out", str(finished[0])])
    assert stopped.value.code == 2 and "--resume latest" in capsys.readouterr().err
    assert (finished[0] / "results.json").read_bytes() == before


def test_sampling_from_no_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(sample.Config, sample.main, [str(tmp_path)])
    assert stopped.value.code == 2 and "holds no trained model" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        command(Config, main, ["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    options = "--penalty --solver-steps --compare --resume --trace --value.epochs"
    for option in options.split():
        assert option in text
    assert jax.devices()


def test_the_table_over_seeds_by_hand():
    rows = [
        {"w2/tilted": 0.2, "objective": -1.1, "objective/optimal": -1.0},
        {"w2/tilted": 0.1, "objective": -1.3, "objective/optimal": -1.0},
    ]
    found = summarize(rows)
    assert (found["seeds"], found["w2/least"], found["w2/most"]) == (2, 0.1, 0.2)
    assert found["objective/missed"] == pytest.approx(0.2)


@SLOW
def test_a_seed_does_not_depend_on_the_seeds_beside_it():
    options = Config(environment="gaussian", algorithm="value_gradient")
    short = dataclasses.replace(
        options,
        run=dataclasses.replace(options.run, steps=2),
        solver_steps=5,
        update=dataclasses.replace(options.update, minibatches=5),
        optimization=dataclasses.replace(options.optimization, batch=16),
    )
    both = measure(short, (0, 1), number=128)
    alone = measure(short, (1,), number=128)
    assert both[0]["w2/tilted"] != both[1]["w2/tilted"]
    assert both[1]["w2/tilted"] == pytest.approx(alone[0]["w2/tilted"], rel=1e-4)
    assert summarize(both)["objective/missed"] > 0.1  # two updates are far from the optimum


@SLOW  # the network is the critic of a step in networks/test_anchored_value.py
def test_value_networks_side_by_side(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished[0].parent)  # where the base model is

    def both_seeds(config):
        study = study_of(config).begin(config, partial(load_inputs, config))
        rows.extend(value_networks.measure(config, study, (0, 1)))
        return study.folder

    rows = []
    options = ["--value-network", "anchored", "--out", str(tmp_path / "a")]
    command(Config, both_seeds, [*TINY, *options])
    found = value_networks.summarize(rows)
    assert rows[0]["reward"] != rows[1]["reward"] and np.isfinite([*found.values()]).all()
    apart = abs(rows[0]["success"] - rows[1]["success"])
    assert found["success/error"] == pytest.approx(apart / 2)
