"""The pure losses load neither networks, solvers nor checkpoints (a fresh interpreter each)."""

import pytest

from tests.test_floors import loaded_by


@pytest.mark.parametrize("module", ["policy", "preference", "value"])
def test_importing_a_loss_loads_nothing_heavy(module):
    loaded = loaded_by(f"import ctrl_jax.losses.{module}")
    assert "ctrl_jax.losses" in loaded
    assert not loaded & {"flax", "orbax", "diffrax", "ctrl_jax.networks"}
