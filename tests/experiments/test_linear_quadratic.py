"""The experiments of continuous-time policy optimization, as their users run them."""

import json
import shutil

import numpy as np
import pytest

from ctrl_jax.environments import LinearGaussian
from ctrl_jax.runtime import command, read_metrics, validate
from experiments.continuous_control.methods import Curves, Training
from experiments.continuous_control.results import distances, verdict
from experiments.linear_quadratic.__main__ import Config, main, make_environment, suboptimality
from experiments.pair_trading import __main__ as pair_trading
from experiments.verdicts import mean_and_error

TINY = """
--no-progress --steps 4 --time-steps 0.5 0.1 --seeds 2 --training.batch 8 --training.draws 4
--training.epochs 2 --training.value-epochs 2 --training.horizon 2
--methods cppo_sqrt_kl ppo
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    command(Config, main, [*TINY, "--out", str(folder)])
    return folder, json.loads((folder / "results.json").read_text())


def test_what_a_run_leaves(finished):
    folder, results = finished
    metrics = results["metrics"]
    for name in ("cppo_sqrt_kl", "ppo"):
        for dt in ("0.5", "0.1"):
            key = f"suboptimality/{name}/dt={dt}"
            assert np.isfinite(metrics[key]) and metrics[key] > 0
            assert np.isfinite(metrics[f"{key}/stderr"])
            # Four updates: better than the first policy, far from the best.
            assert metrics[key] < 1
    assert metrics["environment_time"] == 8 * 4 * 2 and metrics["transitions_used"] == 8 * 4 * 4
    assert len(results["digest"]) == 64
    # Four updates reach the optimum at no step; the steps are named, largest first.
    assert metrics["missed_at/cppo_sqrt_kl"] == [0.5, 0.1]
    for picture in ("curves.png", "steps.png", "estimators.png"):
        assert (folder / picture).stat().st_size > 1000


def test_the_curves_end_in_the_results(finished):
    """One line per update: environment time 8 * 2 each, and the mean over seeds."""
    folder, results = finished
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["environment_time"] for line in lines] == [16.0, 32.0, 48.0, 64.0]
    key = "suboptimality/ppo/dt=0.1"
    np.testing.assert_allclose(lines[-1][key], results["metrics"][key], rtol=1e-5)


def test_what_was_trained_is_found_again(finished, tmp_path):
    """One of four trainings is lost; the run that goes on makes it again, and the same results."""
    folder, results = finished
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / "results.json").unlink()
    (lost,) = (tmp_path / "a" / "checkpoints").glob("ppo-dt=0.1-*")
    shutil.rmtree(lost)
    command(Config, main, [*TINY, "--out", str(tmp_path / "a"), "--resume", "latest"])
    again = json.loads((tmp_path / "a" / "results.json").read_text())
    assert again["digest"] == results["digest"] and again["metrics"] == results["metrics"]
    lines = [(f / "metrics.jsonl").read_text() for f in (folder, tmp_path / "a")]
    assert lines[0] == lines[1]


def test_the_defaults_are_accepted():
    validate(Config())
    validate(pair_trading.Config())


def test_who_missed_the_optimum_where():
    """Means over two seeds, .01 the limit; what exploded has missed."""
    scores = {"a": [[0.5, 0.02], [0.5, 0.004]], "b": [[1.0, 0.005], [1.0, 0.005]]}
    runs = {
        0.1: {name: Curves(np.asarray(values), {}, {}) for name, values in scores.items()},
        0.01: {"a": Curves(np.asarray([[1.0, np.inf], [1.0, 0.0]]), {}, {})},
    }
    metrics = distances(runs, Training(batch=3, horizon=2.0, draws=5))
    assert metrics["missed_at/a"] == [0.1, 0.01] and metrics["missed_at/b"] == []
    assert metrics["environment_time"] == 12.0 and metrics["transitions_used"] == 30
    assert verdict(metrics) == "a misses 1% at 0.1, 0.01; b misses 1% at no step"


def test_the_difference_quotient_is_the_noisier(finished):
    """Its variance grows by more than 2 from h = .5 to .1 (1 / h gives 5, less terms of order 1);
    the pathwise form has none of it."""
    metrics = finished[1]["metrics"]
    assert metrics["estimators/difference/dt=0.1"] > 2 * metrics["estimators/pathwise/dt=0.1"]
    assert metrics["estimators/difference/slope"] < metrics["estimators/pathwise/slope"]


def test_the_score_of_a_policy():
    environment = make_environment()
    first = suboptimality(environment, LinearGaussian(-0.3, 0.2, 0.8))
    np.testing.assert_allclose(first, 1.0, rtol=1e-6)
    best = suboptimality(environment, environment.optimal_linear_policy())
    np.testing.assert_allclose(best, 0.0, atol=1e-6)
    assert np.isinf(suboptimality(environment, LinearGaussian(5.0, 0.0, 1.0)))
    # Two values a and b: the mean, and |a - b| / 2.
    np.testing.assert_allclose(mean_and_error([1.0, 3.0]), (2.0, 1.0))


def test_pair_trading(tmp_path):
    """The optimum scores 0, the first policy 1."""
    options = [*TINY, "--time-steps", "0.25", "--methods", "cpg_difference"]
    command(pair_trading.Config, pair_trading.main, [*options, "--out", str(tmp_path / "a")])
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert np.isfinite(results["metrics"]["suboptimality/cpg_difference/dt=0.25"])
    np.testing.assert_allclose(results["metrics"]["slope/optimal"], -16.0, rtol=1e-6)
    for picture in ("curves.png", "steps.png"):
        assert (tmp_path / "a" / picture).stat().st_size > 1000
    market = pair_trading.make_environment()
    scores = [
        pair_trading.suboptimality(market, policy)
        for policy in (pair_trading.first_policy(), market.optimal_linear_policy())
    ]
    np.testing.assert_allclose(scores, [1.0, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--seeds", "1"], "seeds: received 1"),
        (["--time-steps", "0.1", "-1"], "time_steps"),
        (["--time-steps", "1.5"], "two steps at least"),
        (["--time-steps", "0.3"], "time_steps: received 0.3; it must go into training.horizon"),
        (["--time-steps", "1e-9"], "time_steps: received 1e-09; training.horizon = 2.0 must hold"),
        (["--training.trace", "1"], "training.trace"),
        (["--methods", "sac"], "methods"),
        (["--training.draws", "0"], "training.draws"),
        (["--mesh.model", "2"], "mesh (data, model): received (None, 2)"),
    ],
)
def test_mistakes_are_one_clear_line(options, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(Config, main, [*TINY, "--out", str(tmp_path / "a"), *options])
    assert stopped.value.code == 2 and expected in capsys.readouterr().err
