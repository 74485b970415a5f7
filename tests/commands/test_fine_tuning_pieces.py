"""A batch in pieces is the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.commands.fine_tuning.pieces import in_pieces


@pytest.mark.parametrize(
    ("size", "devices", "at_once"),
    [(6, 1, 6), (32, 1, 8), (32, 4, 32), (64, 4, 32), (12, 1, 6), (22, 2, 2), (17, 1, 1)],
)
def test_rows_keep_their_places_and_pieces_fit(size, devices, at_once):
    seen = []

    def function(x):
        seen.append(x.shape[0])
        return 2 * x[:, :2]

    x = jnp.arange(size * 3.0).reshape(size, 3)
    np.testing.assert_array_equal(in_pieces(function, x, devices), 2 * x[:, :2])
    assert {*seen} == {at_once}


def test_differentiated_one_piece_at_a_time_is_in_memory():
    """Eight times the rows, in eight pieces, must not keep eight times as much in between."""

    def function(x):
        wide = jnp.tile(x, (1, 4096))
        for _ in range(4):
            wide = jnp.sin(wide * jnp.roll(wide, 1, axis=1))
        return wide.sum(axis=1)

    def temporaries(size):
        step = jax.jit(jax.grad(lambda x: in_pieces(function, x).sum()))
        plan = step.lower(jax.ShapeDtypeStruct((size, 3), jnp.float32)).compile()
        found = plan.memory_analysis()
        assert found is not None
        return found.temp_size_in_bytes

    assert temporaries(64) < 2 * temporaries(8)
