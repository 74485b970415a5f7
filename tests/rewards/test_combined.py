"""Sums of rewards, each scaled by its own spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.rewards import combined

GROUPS = jnp.array([0, 0, 1, 1, 2, 2])
PARTS = {
    "large": np.array([100.0, 300.0, 0.0, 0.0, 50.0, 0.0]),
    "small": jnp.array([0.2, 0.1, 0.4, 0.6, 0.0, 9.0]),
}
PRESENT = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
WEIGHTS = {"large": 0.5, "small": 2.0}


def test_the_plain_sum_counts_nothing():
    (values, parts), zero_spread = combined(PARTS, WEIGHTS)
    np.testing.assert_allclose(values, 0.5 * PARTS["large"] + 2 * PARTS["small"], rtol=1e-6)
    np.testing.assert_array_equal(parts["large"], PARTS["large"])
    assert zero_spread == {}


def test_each_by_its_group():
    """By hand: two values of a group become -1 and 1, a constant or a single one 0."""
    scale = jax.jit(
        lambda parts: combined(parts, WEIGHTS, scale="group", groups=GROUPS, present=PRESENT)
    )
    (values, parts), zero_spread = scale(PARTS)
    expected = [-0.5 + 2, 0.5 - 2, -2, 2, 0, 0]
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_array_equal(parts["small"], PARTS["small"])
    assert {name: float(number) for name, number in zero_spread.items()} == {"large": 2, "small": 1}


def test_one_by_its_group_and_one_as_it_is():
    scale = {"large": "group", "small": "none"}
    (values, _), zero_spread = combined(PARTS, WEIGHTS, scale=scale, groups=GROUPS)
    np.testing.assert_allclose(values[:4], [-0.1, 0.7, 0.8, 1.2], atol=1e-5)
    assert {name: float(number) for name, number in zero_spread.items()} == {"large": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": {}}, "weights: received .*of which there are none"),
        ({"weights": {"large": 1.0}}, "weights: received .*names of the parts, large, small"),
        ({"weights": WEIGHTS | {"small": np.nan}}, "weights: small: received nan"),
        ({"scale": "std"}, "scale: large: received 'std'"),
        ({"scale": {"large": "group"}}, "scale: received .*; it must have the names of the parts"),
        ({"parts": PARTS | {"small": np.ones((6, 1))}}, r"parts: small: .*one shape, \(batch,\)"),
        ({"parts": PARTS | {"small": np.ones(5)}}, r"parts: small: .*one shape, \(batch,\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes(change, message):
    given = {"parts": PARTS, "weights": WEIGHTS} | change
    with pytest.raises(ValueError, match=message):
        combined(given.pop("parts"), given.pop("weights"), **given)
