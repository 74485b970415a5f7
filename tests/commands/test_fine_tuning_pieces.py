"""A batch in pieces is the batch."""

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
