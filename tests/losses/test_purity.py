"""The pure losses load neither networks, solvers, optimizers nor checkpoints."""

from tests.test_floors import loaded_by


def test_importing_losses_loads_nothing_heavy():
    loaded = loaded_by("from ctrl_jax.losses import path_log_ratio, policy, preference, value")
    assert "ctrl_jax.losses" in loaded
    heavy = {"flax", "orbax", "optax", "diffrax", "ctrl_jax.networks", "ctrl_jax.algorithms"}
    assert not loaded & heavy
