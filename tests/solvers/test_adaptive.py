"""Adaptive flow: exact transport of quantiles, flags, and independence of batch-mates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.solvers import sample_adaptive
from ctrl_jax.solvers.adaptive import flow
from tests.solvers.gaussian import MEAN, ORACLE, PROCESS, VARIANCE, exact_score

KEY, END = jax.random.key(0), 0.01


def transported(x):
    """The solution of the flow for Gaussian data: quantile to quantile."""
    (a, a_end), (v, v_end) = (
        [f(np.array(t)) for t in (1.0, END)] for f in (ORACLE.scale, ORACLE.variance)
    )
    ratio = np.sqrt((a_end**2 * VARIANCE + v_end) / (a**2 * VARIANCE + v))
    return a_end * MEAN + (np.asarray(x, float) - a * MEAN) * ratio


@pytest.fixture(scope="module")
def solve():
    def run(x, max_steps):
        return flow(PROCESS, exact_score, x, end=END, tolerance=1e-5, max_steps=max_steps)

    return jax.jit(run, static_argnums=1)


def test_quantiles_are_transported(solve):
    x_0 = jnp.linspace(-3.0, 3.0, 8).reshape(4, 2)
    found = solve(x_0, 4096)
    np.testing.assert_allclose(found.states, transported(x_0), atol=1e-4)
    assert found.ok.all() and (found.steps > 3).all()


def test_failures_are_flagged_for_their_examples_only(solve):
    x_0 = jnp.linspace(-3.0, 3.0, 8).reshape(4, 2).at[1, 0].set(jnp.nan)
    found = solve(x_0, 4096)
    np.testing.assert_array_equal(found.ok, [True, False, True, True])
    kept = jnp.asarray([0, 2, 3])
    np.testing.assert_allclose(found.states[kept], transported(x_0)[kept], atol=1e-4)
    assert not solve(x_0, 3).ok.any(), "out of steps"


def test_batch_mates_do_not_matter(solve):
    """Each example has its own steps: a far mate changes neither its end nor their number."""
    calm = jnp.full((4, 2), 0.3, jnp.float32)
    mixed = calm.at[1:].set(40.0)
    alone, among = solve(calm, 4096), solve(mixed, 4096)
    np.testing.assert_allclose(alone.states[0], among.states[0], rtol=1e-6)
    assert alone.steps[0] == among.steps[0] != among.steps[1]


def test_gradients_are_the_flows():
    def end(x):
        return flow(PROCESS, exact_score, x, end=END, tolerance=1e-5).states

    slope = jax.jit(jax.grad(lambda x: end(x).sum()))(jnp.ones((2, 2)))
    np.testing.assert_allclose(slope, transported(2.0) - transported(1.0), rtol=1e-3)


def test_samples_start_where_samples_do_and_conditions_are_passed_on():
    label = jnp.asarray([0.0, 1.0])

    def score_fn(t, x, label):
        return exact_score(t, x - label[:, None])

    found = sample_adaptive(KEY, PROCESS, score_fn, (2, 3), end=END, conditions=(label,))
    start_key, _ = jax.random.split(KEY)
    x_0 = jax.random.normal(start_key, (2, 3))
    assert found.states.dtype == jnp.float32
    # The shift by the label is of the state at every time: the flow sees it as data that move.
    np.testing.assert_allclose(found.states[0], transported(x_0)[0], atol=2e-3)
    assert (found.states[1] > transported(x_0)[1]).all()


def test_errors_at_the_door():
    with pytest.raises(ValueError, match=r"tolerance: received .*; it must be above zero"):
        sample_adaptive(KEY, PROCESS, exact_score, (2, 1), tolerance=0.0)
    with pytest.raises(
        ValueError, match=r"end: received 1.0; it must lie in \[0, horizon\) = \[0, 1.0\);"
    ):
        sample_adaptive(KEY, PROCESS, exact_score, (2, 1), end=1.0)
