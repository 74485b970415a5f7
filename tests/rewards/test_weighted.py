"""Sums of rewards whose parts are seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.rewards import weighted

X = jnp.array([[1.0, 2.0], [3.0, 5.0]])


def test_the_sum_and_its_parts():
    label = jnp.array([4.0, 8.0])
    reward = weighted({"first": (lambda x, c: x[:, 0], 2.0), "label": (lambda x, c: c, -0.5)})
    values, parts = jax.jit(reward.scored)(X, label)
    np.testing.assert_array_equal(values, [0.0, 2.0])
    np.testing.assert_array_equal(values, reward(X, label))
    np.testing.assert_array_equal(parts["first"], [1.0, 3.0])
    np.testing.assert_array_equal(parts["label"], label)
    slope = jax.grad(lambda x: jnp.sum(reward(x, label)))(X)
    np.testing.assert_array_equal(slope, [[2.0, 0.0], [2.0, 0.0]])


def test_half_precision_is_summed_in_float32():
    reward = weighted({"one": (lambda x: x[:, 0], 1.0), "small": (lambda x: x[:, 1], 2.0**-9)})
    found = reward(jnp.array([[1.0, 1.0]], jnp.bfloat16))
    assert found.dtype == jnp.float32 and float(found[0]) == 1 + 2.0**-9


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({}, r"weighted: received {}; at least one weight must differ"),
        ({"a": (len, 0.0)}, r"weighted: received {'a': 0.0}; at least one weight must differ"),
        ({"a": (len, np.nan)}, r"weighted: the weight of a: received nan; .*finite number"),
        ({"a/b": (len, 1.0)}, r"weighted: received 'a/b'; a name must be of letters"),
        ({"a": len}, r"weighted: a: received .*; it must be a reward function and its weight"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes(rewards, message):
    with pytest.raises(ValueError, match=message):
        weighted(rewards)


def test_a_part_of_another_shape():
    with pytest.raises(ValueError, match=r"the shape of a: received \(2, 2\); .*shape \(2,\)"):
        weighted({"a": (lambda x: x, 1.0)})(X)
