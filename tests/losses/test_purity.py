"""The pure losses load neither networks nor checkpoints (a fresh interpreter each)."""

import pytest

from tests.test_floors import loaded_by


@pytest.mark.parametrize("module", ["policy", "value"])
def test_importing_a_loss_loads_neither_flax_nor_orbax(module):
    loaded = loaded_by(f"import ctrl_jax.losses.{module}")
    assert "ctrl_jax.losses" in loaded
    assert not loaded & {"flax", "orbax", "ctrl_jax.networks"}
