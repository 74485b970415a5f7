"""What compiled steps say to other devices: what they must, and nothing in a rollout."""

import pytest

from tests.runtime.processes import run_python

CASES = {
    "MLP": ("grpo",),
    "decoder": (),
    "MLP ppo, dpo": ("ppo", "dpo"),
    "DiT": ("ppo", "grpo", "dpo"),
    "UNet": ("ppo", "grpo", "dpo"),
    "MMDiT": ("ppo", "grpo", "dpo"),
}
QUICK = ("MLP", "decoder")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_devices_say_no_more_than_they_must(name):
    status, out, err = run_python(
        "-m",
        "tests.algorithms.sharded_collectives",
        name.split()[0],
        *CASES[name],
        JAX_NUM_CPU_DEVICES="8",
    )
    assert status == 0, err[-4000:]
    assert out.split() == ["agreed"] * max(len(CASES[name]), 1)
