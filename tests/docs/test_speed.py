"""The ratios that the README quotes are those of the committed results."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUOTED = {
    "| sampling, 500 steps, batch 4096 | diffrax's `diffeqsolve`, vmapped |": (
        "sampling",
        "samples, batch 4096",
        "diffrax, vmapped diffeqsolve + VirtualBrownianTree",
    ),
    "| sampling, 500 steps, batch 4096 | `torch.compile` |": (
        "sampling",
        "samples, batch 4096",
        "torch.compile",
    ),
    "| DDPO, small DiT, rollout and update | PyTorch, same arithmetic |": (
        "rollout_update",
        "ddpo, dit, batch 16",
        "PyTorch eager, same arithmetic",
    ),
    "| CPPO to 1 % of the gap | stable-baselines3's PPO |": (
        "continuous_rl",
        "time to 1 % of the starting gap",
        "stable-baselines3 PPO",
    ),
    "| DPO step, small Llama | TRL's DPOTrainer |": (
        "preference_lm",
        "Llama, vocabulary 8192",
        "TRL's DPOTrainer",
    ),
}


@pytest.mark.parametrize("row", QUOTED)
def test_ratio_is_that_of_the_results(row):
    benchmark, case, contender = QUOTED[row]
    path = ROOT / "benchmarks" / "results" / "cpu-2-cores" / f"{benchmark}.json"
    cases = {case["name"]: case["rows"] for case in json.loads(path.read_text())["cases"]}
    ratio = next(r["ratio"] for r in cases[case] if r["contender"] == contender)
    assert f"{row} {ratio:.3g} |" in (ROOT / "README.md").read_text()
