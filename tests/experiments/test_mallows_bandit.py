"""The bandit: its numbers, its descent against NumPy, and the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.runtime import RunOptions, command
from experiments.mallows_bandit.__main__ import KNOWN, Config, known, main, summarize
from experiments.mallows_bandit.plots import draw_frontier
from experiments.mallows_bandit.problem import (
    LOSERS,
    LOSSES,
    REWARDS,
    WINNERS,
    Descent,
    evaluate,
    gradients,
    make_descent,
    make_losses,
    start,
)
from tests.oracles import bandit as oracle

PHI = 0.05
TINY = """
--no-progress --steps 20 --losses dpo mallows_phi --betas 0.1 1 --random-starts 2
""".split()  # noqa: SIM905


def descend(names, betas, *, rate, steps, random_starts=0):
    losses = [make_losses(PHI)[name] for name in names]
    state = start(jax.random.key(0), len(names), len(betas), random_starts)
    return make_descent(losses, betas, rate)(state, steps).logits


def test_the_data():
    assert list(zip(WINNERS + 1, LOSERS + 1, strict=True)) == oracle.PAIRS
    np.testing.assert_allclose(REWARDS, [15.5, 16.5, 16.5, 14.95, 1.03])


def test_rewards_and_divergences():
    # Uniform; all on the second arm; halves on the first two.
    logits = np.zeros((1, 1, 5, 3))
    logits[0, 0, 1, 1], logits[0, 0, :2, 2] = 800.0, 800.0
    _, reward, kl = evaluate(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(reward[0, 0], [12.896, 16.5, 16.0])
    np.testing.assert_allclose(kl[0, 0], [0, np.log(5), np.log(2.5)], atol=1e-12)


def test_the_descent_is_that_of_numpy():
    """For as long as no two arms meet: there the slope of the Mallows link jumps, and rounding
    decides on which side of the tie a step ends."""
    names, betas, rate, steps = ("dpo", "mallows_theta", "mallows_phi"), (0.05, 0.5), 0.05, 200
    first = np.array([2.0, 0.5, -0.5, 1.2, -2.0])
    state = start(jax.random.key(0), len(names), len(betas), 0)
    shift = jnp.asarray(first, jnp.float32)[None, None, :, None]
    losses = [make_losses(PHI)[name] for name in names]
    found = make_descent(losses, betas, rate)(state._replace(logits=state.logits + shift), steps)
    for i, name in enumerate(names):
        for j, beta in enumerate(betas):
            expected = oracle.descend(name, first, beta, PHI, rate, steps)
            assert np.diff(np.sort(expected)).min() > 0.01
            np.testing.assert_allclose(found.logits[i, j, :, 0], expected, atol=2e-6)


def test_rest_is_where_the_gradient_is_zero():
    """Smoothed labels have a minimum at finite logits: its gradient by NumPy."""
    betas = (0.5, 1.0)
    logits = descend(["dpo_smoothed"], betas, rate=1.0, steps=20_000)[0, :, :, 0]
    for beta, x in zip(betas, np.asarray(logits, np.float64), strict=True):
        assert np.abs(oracle.gradient("dpo_smoothed", np.zeros(5), beta, PHI)).max() > 0.05
        assert np.abs(oracle.gradient("dpo_smoothed", x, beta, PHI)).max() < 1e-6


def test_float32_does_not_stall():
    """A slope that moves no logit of 60 by itself moves it when many steps are summed up."""
    betas, rate, steps = (0.05,), 5e-3, 1000
    losses = [make_losses(PHI)["dpo"]]
    first = np.array([120.0, 60.0, 60.0, 0.0, -120.0])
    state = start(jax.random.key(0), 1, 1, 0)
    state = state._replace(logits=jnp.asarray(first, jnp.float32).reshape(1, 1, 5, 1))
    slope = oracle.gradient("dpo", first, 0.05, PHI)
    stuck = np.float32(first) - np.float32(rate * slope) == np.float32(first)
    assert stuck.any()
    found = make_descent(losses, betas, rate)(state, steps).logits[0, 0, :, 0]
    expected = oracle.descend("dpo", first, 0.05, PHI, rate, steps) - first
    np.testing.assert_allclose(np.asarray(found) - first, expected, rtol=0.02, atol=1e-5)


@pytest.mark.slow
def test_every_cell_of_the_table(tmp_path):
    options = "--no-progress --losses dpo mallows_phi --random-starts 0".split()  # noqa: SIM905
    folder = command(Config, main, [*options, "--out", str(tmp_path / "a")])
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    for name, value in KNOWN.items():
        np.testing.assert_allclose(metrics[name], value, atol=0.01, err_msg=name)


def test_known_values_stand_beside_what_they_are_of():
    assert known(Config()) == KNOWN
    some = known(Config(losses=("dpo",), betas=(0.05, 0.2)))
    assert set(some) == {f"{x}/dpo/beta=0.05" for x in ("reward", "kl", "probability_of_A1")}
    for other in (
        Config(dispersion=0.5),
        Config(learning_rate=0.1),
        Config(run=RunOptions(steps=9)),
    ):
        assert not known(other)


def test_every_cell_stands_under_its_name():
    """Two arms share the policy; the random starts are summed up without the uniform one."""
    config = Config(losses=("dpo", "ipo"), betas=(0.1, 0.5))
    share = np.array([[[0.1, 0.2, 0.4]], [[0.5, 0.7, 0.8]]]) * np.array([[1.0], [0.5]])
    rest = np.zeros_like(share)
    policy = np.stack([share, 1 - share, rest, rest, rest], axis=2)
    logits = jnp.asarray(np.log(np.maximum(policy, 1e-30)), jnp.float32)
    metrics = summarize(config, Descent(logits, jnp.zeros_like(logits)))
    for i, name in enumerate(config.losses):
        for j, beta in enumerate(config.betas):
            key, p = f"{name}/beta={beta:g}", share[i, j]
            reward = 15.5 * p + 16.5 * (1 - p)
            assert metrics[f"probability_of_A1/{key}"] == pytest.approx(p[0], rel=1e-5)
            assert metrics[f"reward/{key}"] == pytest.approx(reward[0], rel=1e-6)
            assert metrics[f"reward/{key}/starts_mean"] == pytest.approx(reward[1:].mean())
            error = abs(reward[1] - reward[2]) / 2  # of two: half their distance
            assert metrics[f"reward/{key}/starts_stderr"] == pytest.approx(error, rel=1e-4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    command(Config, main, [*TINY, "--out", str(folder)])
    return folder, json.loads((folder / "results.json").read_text())


def test_what_a_run_leaves(finished):
    folder, results = finished
    metrics = results["metrics"]
    for name in ("dpo", "mallows_phi"):
        for beta in ("0.1", "1"):
            key = f"{name}/beta={beta}"
            # Twenty steps: above the uniform policy's 12.896, far from the best arm.
            assert 12.896 < metrics[f"reward/{key}"] < 14
            assert 0 < metrics[f"kl/{key}"] < 0.1
            for metric in ("reward", "kl"):
                assert np.isfinite(metrics[f"{metric}/{key}/starts_mean"])
                assert metrics[f"{metric}/{key}/starts_stderr"] > 0
    assert results["expected"] == {}  # none is known after twenty steps
    assert len(results["digest"]) == 64
    assert (folder / "frontier.png").stat().st_size > 1000


def test_every_loss_prefers_what_won():
    """The worst arm loses all its pairs: its logit goes down most under every loss.

    But discopop's, which rises at equal answers and falls only beyond.
    """
    losses = list(make_losses(PHI).values())
    logits = start(jax.random.key(0), len(losses), 1, 0).logits
    slopes = jax.jit(lambda x: gradients(x, losses, (0.5,)))(logits)[:, 0, :, 0]
    for name, slope in zip(LOSSES, slopes, strict=True):
        if name == "discopop":
            assert slope[4] < 0
            continue
        assert int(jnp.argmax(slope)) == 4 and slope[4] > 0 and slope[0] < 0, name
    np.testing.assert_allclose(jnp.sum(slopes, axis=1), 0.0, atol=1e-5)


def test_the_picture_has_room_for_every_loss(tmp_path):
    ends = np.zeros((len(LOSSES), 2, 3)), np.ones((len(LOSSES), 2, 3))
    draw_frontier(tmp_path / "a.png", LOSSES, (0.1, 1.0), (ends[0][..., 0], ends[1][..., 0]), ends)
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--losses", "ppo"], "losses: received 'ppo'"),
        (["--losses", "dpo", "dpo"], "each once"),
        (["--betas", "-1"], "betas: received -1.0"),
        (["--dispersion", "2"], "dispersion: received 2.0"),
        (["--dispersion", "0"], "dispersion: received 0.0"),
        (["--random-starts", "-1"], "random_starts: received -1"),
        (["--learning-rate", "nan"], "learning_rate: received nan"),
    ],
)
def test_mistakes_are_one_clear_line(options, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(Config, main, [*TINY, "--out", str(tmp_path / "a"), *options])
    assert stopped.value.code == 2 and expected in capsys.readouterr().err
