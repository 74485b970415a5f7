"""`ctrl-jax fine-tune` on a run of ours: every algorithm, stops, rewards on the host."""

import json
import shutil
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from ctrl_jax.commands.__main__ import main
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import load_inputs
from ctrl_jax.commands.fine_tuning.method import WITH_VALUE, Algorithm
from ctrl_jax.commands.fine_tuning.steps import Fixed, one_program
from ctrl_jax.commands.fine_tuning.training import abstract_state, placed
from ctrl_jax.commands.fine_tuning.value import Unit, reward_of
from ctrl_jax.models import DiffusionSpec
from ctrl_jax.rewards import soft_jpeg_size
from ctrl_jax.runtime import load_model, make_mesh, save_model, validate

SMALL = "--solver-steps 4 --steps 2 --batch 8 --evaluation.number 8 --evaluation.every 1"
SMALL += " --evaluation.checkpoint-every 1 --no-progress --no-compilation-cache"
SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine_tune_run") / "digits"
    spec = DiffusionSpec(width=16, depth=1)
    params = spec.make_network(SHAPE).init(jax.random.key(0))
    save_model(folder / "model", spec, SHAPE, params)
    return folder


def fine_tune(model, out, *options):
    given = ("--model", str(model), "--reward", "jpeg_size:-1", "--out", str(out))
    assert main(["fine-tune", *given, *SMALL.split(), *options]) == 0
    return json.loads((out / "results.json").read_text())["metrics"]


OPTIONS = {
    "grpo": ("--window", "2", "--mask", "0.1"),
    "mallows_theta": ("--dispersion", "0.5"),
    "mallows_phi": ("--dispersion", "0.5"),
    "dpok": ("--penalty", "0.1"),
    "value_gradient": ("--value.network", "anchored"),
}


WITHOUT_VALUE = ("value_gradient", "--value.network", "none")


@pytest.mark.parametrize("line", [*((name,) for name in get_args(Algorithm)), WITHOUT_VALUE])
def test_every_algorithm_is_made_of_its_options(line, model):
    algorithm, soft = line[0], "" if line != WITHOUT_VALUE else "soft_"
    given = ("--model", str(model), "--reward", f"{soft}jpeg_size:-1", "--algorithm", *line)
    own = OPTIONS.get(algorithm, ()) if line != WITHOUT_VALUE else ()
    config = tyro.cli(Config, args=[*given, *SMALL.split(), *own])
    validate(config)
    mesh = make_mesh()
    inputs = load_inputs(config, mesh)
    fixed = Fixed(placed(inputs, mesh), Unit(0.0, 1.0))
    state = abstract_state(config, inputs, fixed.frozen)
    batch = inputs.batch(np.zeros(config.places, int), config.together)
    moved, metrics = jax.eval_shape(one_program(config, inputs), state, batch, fixed)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    assert {"reward/mean", f"reward/{soft}jpeg_size/mean", "update/finite"} <= metrics.keys()
    assert ("value" in state.learners) == (algorithm in WITH_VALUE and line != WITHOUT_VALUE)
    assert jax.tree.leaves(state.reference) == []  # what is frozen is held elsewhere, once


def test_the_rewards_that_are_differentiated_are_those_that_are_counted(model):
    rewards = ("--reward", "soft_jpeg_size:-2", "--reward", f"jax:{__name__}:bright:0.5")
    line = ("--model", str(model), *rewards, "--algorithm", *WITHOUT_VALUE, *SMALL.split())
    config = tyro.cli(Config, args=[*line])
    mesh = make_mesh()
    inputs = load_inputs(config, mesh)
    fixed = Fixed(placed(inputs, mesh), Unit(0.0, 1.0))
    x = 0.5 * jax.random.normal(jax.random.key(0), (16, *SHAPE))  # in two pieces
    reward_fn = reward_of(config, inputs, fixed.frozen)

    def expected(x):
        pictures = inputs.subject.decode(fixed.frozen, x)
        return -2 * soft_jpeg_size(pictures) + 0.5 * bright(pictures)

    for found, wanted in (
        (reward_fn(x), expected(x)),
        *((jax.grad(lambda x, f=f: f(x).sum())(x) for f in (reward_fn, expected)),),
    ):
        assert jnp.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def bright(pictures):
    return pictures.mean(axis=(1, 2, 3)) ** 2


def test_a_budget_of_divergence_ends_a_run_that_then_stays_ended(model, tmp_path, capsys):
    options = ("--algorithm", "grpo", "--kl-budget", "1e-6")
    metrics = fine_tune(model, tmp_path / "out", *options)
    assert metrics["updates"] == 1 and metrics["reward_queries"] == 8 and metrics["traces"] == 1
    assert metrics["kl/path/before"] < 1e-6 < metrics["kl/path/after"]
    said = f"stopped after update 1: path KL {metrics['kl/path/after']:.4g} > --kl-budget 1e-06"
    assert said in capsys.readouterr().out
    before, after = load_model(model), load_model(tmp_path / "out")
    assert before.shape == after.shape and before.spec == after.spec
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params, after.params)
    assert 0 < max(jax.tree.leaves(moved)) < 0.01
    again = fine_tune(model, tmp_path / "out", *options, "--resume", "latest")
    assert again == metrics | {"traces": 0}


def test_rewards_on_the_host_meanwhile_and_bitwise_resume(model, tmp_path, monkeypatch):
    (tmp_path / "host_of_tests.py").write_text(HOST)
    monkeypatch.syspath_prepend(tmp_path)
    given = ("--algorithm", "ddpo", "--reward", "host_of_tests:dark:0.01", "--overlap")
    given += ("--held-out-reward", "soft_jpeg_size")
    metrics = fine_tune(model, tmp_path / "out", *given)
    assert metrics["traces"] == 1
    found = {name.split("/")[1] for name in metrics if name.startswith(("reward/", "held_out/"))}
    assert found == {"mean", "jpeg_size", "dark", "soft_jpeg_size"}
    total = 0.01 * metrics["reward/dark/mean/after"] - metrics["reward/jpeg_size/mean/after"]
    np.testing.assert_allclose(metrics["reward/mean/after"], total, rtol=1e-5)
    shutil.copytree(tmp_path / "out", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/checkpoints/2")
    again = fine_tune(model, tmp_path / "stopped", *given, "--resume", "latest")
    assert again == metrics
    results = [json.loads((tmp_path / o / "results.json").read_text()) for o in ("out", "stopped")]
    assert results[0]["digest"] == results[1]["digest"]


HOST = """
def dark(images, prompts, records):
    assert images.dtype == "uint8" and set(prompts) == {""}
    return -images.mean(axis=(1, 2, 3))
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "reward: received (); there must be a reward"),
        ("--algorithm grpo --trace 0.5", "trace: received 0.5; grpo does not use it"),
        ("--algorithm ddpo --value.width 8", "value.width: received 8; ddpo has no value network"),
        ("--value.network none", "value.network: received 'none'; ppo needs one"),
        (
            "--algorithm value_gradient --value.network none",
            "value.network: received 'none'; the reward 'jpeg_size:-1' has no derivative",
        ),
        (
            "--algorithm value_gradient --value.network none --value.width 8",
            "value.width: received 8; there is no value network",
        ),
        ("--algorithm grpo --clip 0.1 --mask 0.2", "mask: received 0.2; it stands in the place"),
        ("--algorithm grpo --window 2 --window-range 5 5", "window_range: received (5, 5)"),
        ("--window-placed fixed", "window_placed: received 'fixed'; there is no window"),
        ("--noise-level 2", "noise_level: received 2.0; the steps of --solver exponential"),
        ("--adapters.rank 0", "adapters.rank: received 0; there would be nothing to train"),
        ("--guidance 3", "guidance: received 3.0; a run of ours has no prompts"),
        ("--prompts prompts.txt", "prompts: received 'prompts.txt'; a run of ours has no use"),
        ("--algorithm mallows_phi", "prompts: dispersion: received None; Mallows losses weigh"),
        ("--lora_rank 3", "perhaps --adapters.rank"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(options, message, model, tmp_path, capsys):
    reward = ("--reward", "jpeg_size:-1") if options else ()
    given = ("--model", str(model), "--out", str(tmp_path / "out"), *reward)
    with pytest.raises(SystemExit) as stop:
        main(["fine-tune", *given, *options.split()])
    error = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()
