"""The benchmarks run, and compare like with like."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import harness, rollout_update, sampling
from ctrl_jax.algorithms import Batch

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_lists_every_benchmark_with_its_claim():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"{'sampling':16} {sampling.CLAIM}" in run.stdout
    assert f"{'rollout_update':16} {rollout_update.CLAIM}" in run.stdout


def test_an_unknown_benchmark_is_one_line_and_status_2():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        "benchmarks: no benchmark is called 'speed'; choose from sampling, rollout_update, "
        "continuous_rl, preference_lm, pipeline, fine_tune, core_devices, faults, full_disk, "
        "flips, all."
    ]


def only_jax(case):
    kept = [c for c in case.contenders if c.build.__name__ in ("ours", "by_hand", "from_host")]
    return harness.Case(case.name, kept[:2])


@pytest.mark.parametrize("module", [sampling, rollout_update])
def test_a_quick_run_writes_both_files(module, tmp_path, capsys):
    cases = [only_jax(case) for case in list(module.cases(quick=True))[:1]]
    name = module.__name__.split(".")[-1]
    result = harness.run(name, module.CLAIM, cases, quick=True, out=tmp_path)
    assert json.loads((tmp_path / f"{name}.json").read_text()) == result
    assert (tmp_path / f"{name}.md").read_text() == capsys.readouterr().out.removesuffix("\n")
    ours, *peers = result["cases"][0]["rows"]
    assert ours["seconds"] > 0 and ours["compile_seconds"] > 0 and ours["memory_bytes"] > 0
    assert all(peer["ratio_min"] <= peer["ratio"] <= peer["ratio_max"] for peer in peers)


def absent():
    raise ModuleNotFoundError("No module named 'torch'")


def failing():
    raise RuntimeError("no C++ compiler\nand a long trace")


def test_a_peer_that_is_absent_or_fails_is_a_note_and_ours_is_an_error():
    def noop():
        return harness.Runner(lambda: sum(range(1000)))

    def contender(build):
        return harness.Contender(build.__name__, build, {})

    case = harness.Case("case", [contender(b) for b in (noop, absent, failing)])
    rows = harness.measure(case, rounds=3, budget=0.01, advance=lambda text: None)
    assert [row.note for row in rows] == [
        "",
        "not installed (pip install ctrl_jax[peers])",
        "did not run: RuntimeError: no C++ compiler",
    ]
    assert len(rows[0].seconds) == 3 and rows[1].ratio is None
    with pytest.raises(RuntimeError, match="no C"):
        harness.measure(
            harness.Case("case", [contender(failing)]),
            rounds=3,
            budget=0.01,
            advance=lambda text: None,
        )


def test_the_hand_written_loop_draws_our_samples():
    key, params, x_0, grid = sampling.problem(batch=4, steps=8)
    drawn = sampling.sample_ours(params, key, x_0, grid)
    np.testing.assert_allclose(
        drawn, sampling.sample_by_hand(params, key, x_0, grid, True), rtol=1e-5, atol=1e-5
    )


def test_the_sampling_port_takes_our_step():
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_sampling

    key, params, x_0, grid = sampling.problem(batch=4, steps=8)
    weights, x, times = torch_sampling.load(*jax.device_get((params, x_0, grid)))
    for i, (t, dt) in enumerate(times):
        noise = jax.random.normal(jax.random.fold_in(key, i), x_0.shape)
        noise = torch.from_numpy(np.array(noise))
        x = torch_sampling.step(weights, x, float(t), float(dt), noise)
    drawn = sampling.sample_ours(params, key, x_0, grid)
    np.testing.assert_allclose(drawn, x.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "network", "lean"),
    [
        ("ddpo", "perceptron", False),
        ("ddpo", "perceptron", True),
        pytest.param("ddpo", "mlp", False, marks=pytest.mark.slow),
        pytest.param("ppo", "mlp", False, marks=pytest.mark.slow),
        pytest.param("ddpo", "dit", False, marks=pytest.mark.slow),
        pytest.param("ddpo", "unet", False, marks=pytest.mark.slow),
    ],
)
def test_the_rollout_port_computes_our_epoch(algorithm, network, lean):
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_networks, torch_rollout

    size = {"algorithm": algorithm, "network": network, "batch": 4, "steps": 10, "tiny": True}
    _, _, _, _, made = rollout_update.set_up(algorithm, network, 10, True, lean)
    state, ours = jax.jit(made.step)(made.init(jax.random.key(0)), Batch(jnp.ones(4)))
    given = {k: torch.from_numpy(np.array(v)) for k, v in rollout_update.draws(**size).items()}
    problem, policy, reference, value = rollout_update.port(**size, lean=lean)
    theirs = torch_rollout.epoch(problem, policy, reference, value, given)
    for name, number in theirs.items():
        np.testing.assert_allclose(number, ours[name], rtol=2e-3, atol=1e-5, err_msg=name)
    moved = torch_networks.leaves(torch_networks.load(jax.device_get(state.policy.params)))
    for mine, other in zip(moved, policy.leaves, strict=True):
        # Adam turns a gradient that is all rounding into a step of either sign: a few may differ.
        assert float((mine.detach() - other.detach()).abs().mean()) < 3e-6
