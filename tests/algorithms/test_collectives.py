"""What compiled steps say to other devices: what they must, and nothing in a rollout."""

import pytest

from tests.runtime.processes import run_python

CASES = {
    "MLP, decoder": ("MLP:grpo", "decoder"),
    "MLP": ("MLP:ppo", "MLP:dpo"),
    "DiT": ("DiT:ppo", "DiT:grpo", "DiT:dpo"),
    "UNet": ("UNet:ppo", "UNet:value_gradient", "UNet:grpo", "UNet:dpo"),
    "MMDiT": ("MMDiT:ppo", "MMDiT:value_gradient", "MMDiT:grpo", "MMDiT:dpo"),
}


@pytest.mark.parametrize(
    "name", [n if n == "MLP, decoder" else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_devices_say_no_more_than_they_must(name):
    status, out, err = run_python(
        "-m", "tests.algorithms.sharded_collectives", *CASES[name], JAX_NUM_CPU_DEVICES="8"
    )
    assert status == 0, err[-4000:]
    assert out.split() == ["agreed"] * len(CASES[name])
