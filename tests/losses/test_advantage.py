"""Advantages against double loops and at the two ends of the trace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import advantage
from tests.oracles import advantages as oracle


@pytest.fixture
def trajectory():
    rng = np.random.default_rng(0)
    values, running = rng.normal(size=(2, 7, 3)).astype(np.float32)
    return values, running, rng.normal(size=3).astype(np.float32)


def compute(trajectory, trace):
    values, running, terminal = (jnp.asarray(x) for x in trajectory)
    return advantage.generalized(values, running, terminal, trace=trace)


@pytest.mark.parametrize("trace", [0.0, 0.5, 0.9, 1.0])
def test_generalized_against_a_double_loop(trajectory, trace):
    values, running, terminal = trajectory
    expected = oracle.generalized(values, running, terminal, trace)
    np.testing.assert_allclose(compute(trajectory, trace), expected, rtol=1e-5, atol=1e-6)


def test_trace_zero_is_the_difference_quotient(trajectory):
    values, running, terminal = trajectory
    expected = np.vstack([values[1:], terminal]) + running - values
    np.testing.assert_allclose(compute(trajectory, 0.0), expected, rtol=1e-6, atol=1e-7)


def test_trace_one_telescopes_to_the_return(trajectory):
    values, running, terminal = trajectory
    expected = oracle.returns_to_go(running, terminal) - values
    np.testing.assert_allclose(compute(trajectory, 1.0), expected, rtol=1e-5, atol=1e-6)


def test_returns_to_go(trajectory):
    _, running, terminal = trajectory
    found = advantage.returns_to_go(jnp.asarray(running), jnp.asarray(terminal))
    np.testing.assert_allclose(found, oracle.returns_to_go(running, terminal), rtol=1e-5, atol=1e-6)


def test_the_exact_value_of_a_deterministic_path_leaves_no_advantage():
    running = jnp.asarray([[1.0], [2.0], [4.0]])
    values = advantage.returns_to_go(running, jnp.asarray([8.0]))
    np.testing.assert_allclose(values[:, 0], [15.0, 14.0, 12.0])
    advantages = advantage.generalized(values, running, jnp.asarray([8.0]), trace=0.9)
    np.testing.assert_array_equal(advantages, 0.0)


def test_jit_vmap_grad_and_independence_of_examples(trajectory):
    values, running, terminal = map(jnp.asarray, trajectory)
    plain = compute(trajectory, 0.9)
    jitted = jax.jit(lambda *a: advantage.generalized(*a, trace=0.9))
    np.testing.assert_allclose(jitted(values, running, terminal), plain, rtol=1e-6, atol=1e-6)
    twice = [np.stack([x, 2 * x]) for x in trajectory]
    doubled = jax.jit(jax.vmap(lambda *a: advantage.generalized(*a, trace=0.9)))(*twice)
    np.testing.assert_allclose(doubled[1], 2 * plain, rtol=1e-5, atol=1e-6)
    slope = jax.jit(jax.grad(lambda r: advantage.generalized(values, running, r, trace=0.9)[0, 0]))(
        terminal
    )
    np.testing.assert_allclose(slope, [0.9**6, 0.0, 0.0], rtol=1e-6)


def constants():
    """Rewards that are the same for all, plain and up to their last digits."""
    ulp = np.finfo(np.float32).eps
    jitter = np.random.default_rng(1).integers(-2, 3, 256)
    plain = [np.full(n, v, np.float32) for n, v in ((192, 1.0), (256, 0.7), (100, 5.3), (7, -3e8))]
    return [*plain, np.float32(0.7) * (1 + ulp * jitter).astype(np.float32), np.zeros(5, "f4")]


def test_what_has_no_spread_has_no_advantage():
    def both(values):
        groups = jnp.asarray(np.arange(values.size) // 7)
        return advantage.standardized(values), advantage.standardized(values, groups=groups)

    given = [jnp.asarray(values) for values in constants()]
    for found in (
        *jax.jit(lambda given: [both(values) for values in given])(given),
        both(given[1]),
    ):
        np.testing.assert_array_equal(found, np.zeros_like(found))


def test_a_small_spread_beside_a_large_mean_is_one():
    """A group of rounding beside one of signal, and padding: each is judged by itself."""
    values = jnp.asarray([7.0, 7.0, 1000.0, 1000.1, 1e-9, 3e-9, 1e30])
    groups, weights = jnp.asarray([0, 0, 1, 1, 2, 2, 0]), jnp.asarray([1.0] * 6 + [0.0])
    standardized = jax.jit(advantage.standardized)
    found = standardized(values, weights=weights, groups=groups)
    np.testing.assert_allclose(found, [0, 0, -1, 1, -1, 1, 0], rtol=1e-3)
    # Of differences of larger numbers the rounding of those counts.
    np.testing.assert_array_equal(standardized(values[4:6], scale=jnp.ones(())), 0.0)


def test_a_reward_that_is_no_number_is_not_hidden():
    found = advantage.standardized(jnp.asarray([1.0, jnp.nan, 1.0]))
    assert not np.isfinite(found).any()


@pytest.mark.parametrize("trace", [2.0, -1.0, float("nan")])
def test_a_trace_out_of_range_is_refused(trajectory, trace):
    with pytest.raises(ValueError, match="trace: received"):
        compute(trajectory, trace)


@pytest.mark.parametrize(("dtype", "mean", "std"), [("bfloat16", 5.0, 0.5), ("float16", 3e4, 3e3)])
def test_half_precision_has_a_spread(dtype, mean, std):
    """Of bfloat16 sixteen units in the last place are an eighth; squares of float16 overflow."""
    values = np.random.default_rng(0).normal(mean, std, 64).astype(jnp.dtype(dtype))
    exact = values.astype(np.float64)
    found = jax.jit(advantage.standardized)(jnp.asarray(values))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, (exact - exact.mean()) / exact.std(), atol=1e-5)
    step = np.nextafter(values[0], values[0] + values[0])
    rounded = np.where(np.arange(64) % 2, values[0], step)
    np.testing.assert_array_equal(advantage.standardized(jnp.asarray(rounded)), 0.0)


def test_no_example_has_no_spread(unchecked):
    nothing: list[Any] = [[], jnp.zeros(0)]
    for none in nothing:
        with pytest.raises(ValueError, match=r"values: received float32\[0\]; there must be"):
            advantage.standardized(none)


@pytest.mark.parametrize("by", ["group", "batch", "none"])
def test_scaled_by_hand(by):
    """Groups 3 ± 1, 10 ± 4, a constant, and a padding row that would be the largest."""
    values = jnp.array([2.0, 4.0, 6.0, 14.0, 0.1, 0.1, 99.0])
    groups = jnp.array([5, 5, 0, 0, 7, 7, 5])
    weights = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    found = jax.jit(lambda v: advantage.scaled(v, by=by, weights=weights, groups=groups))(values)
    std = {"group": [1.0, 4.0], "batch": [np.std(values[:6])] * 2, "none": [1.0, 1.0]}[by]
    expected = [-1 / std[0], 1 / std[0], -4 / std[1], 4 / std[1], 0.0, 0.0, 0.0]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.values[4:], 0.0)
    assert float(found.zero_spread) == 1


def test_a_batch_of_constants_has_no_scale():
    values = jnp.array([7.0, 7.0, 7.0, 7.0])
    for by in ("group", "batch", "none"):
        found = advantage.scaled(values, by=by, groups=jnp.array([0, 0, 1, 1]))
        np.testing.assert_array_equal(found.values, 0.0)
        assert float(found.zero_spread) == 2
    assert float(advantage.scaled(values).zero_spread) == 1


def test_another_scale_is_refused():
    with pytest.raises(ValueError, match="by: received 'std'"):
        advantage.scaled(jnp.ones(2), by="std")
