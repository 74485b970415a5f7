"""What every algorithm promises, over the table of all of them; each is compiled once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms import Algorithm, Control, Learner, RunState, ahead
from ctrl_jax.algorithms.base import apply_gradient
from ctrl_jax.runtime.checkpoints.checkpoints import Checkpoints
from tests.algorithms.laws import AVERAGE_DECAY, CHEAP, LAWS, LIKE_ANOTHER
from tests.runtime.processes import run_python

ROUNDING = ("ratio/rollout_deviation", "ratio/rollout_deviation_mean")
"""Metrics that are rounding itself: they have no digits to agree in."""


class Compiled(NamedTuple):
    """An algorithm, its program, what was traced, and a batch."""

    algorithm: Algorithm
    step: Any
    traced: Any
    batch: Any

    def start(self, seed: int = 0) -> RunState:
        return self.algorithm.init(jax.random.key(seed))

    def run(self, state: RunState, updates: int) -> RunState:
        for _ in range(updates):
            state, _ = self.step(state, self.batch)
        return state


def compile_case(name: str) -> Compiled:
    algorithm, batch = LAWS[name]()
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    traced = jax.jit(algorithm.step, donate_argnums=0).trace(state, batch)
    return Compiled(algorithm, traced.lower().compile(), traced, batch)


@pytest.fixture(scope="module")
def compile_once() -> Callable[[str], Compiled]:
    return functools.cache(compile_case)


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n in LIKE_ANOTHER else ()) for n in LAWS],
)
def compiled(request, compile_once) -> Compiled:
    return compile_once(request.param)


def bits(tree: Any) -> Any:
    """The leaves on the host, keys as their data."""

    def leaf(value):
        key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(value) if key else value)

    return jax.tree.map(leaf, tree)


def spoil(batch: Any) -> Any:
    """A batch with NaN for every number."""

    def leaf(value):
        return np.full_like(value, np.nan) if np.issubdtype(value.dtype, np.floating) else value

    return jax.tree.map(leaf, jax.device_get(batch))


def test_the_state_keeps_its_types_so_that_one_trace_serves_all_steps(compiled):
    """And metrics are scalars. The compiled program below would refuse any other state."""
    state, metrics = compiled.traced.out_info
    start = jax.eval_shape(compiled.algorithm.init, jax.random.key(0))
    assert jax.tree.structure(state) == jax.tree.structure(start)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(start), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert isinstance(metrics, dict) and all(m.shape == () for m in metrics.values())


def test_the_host_is_never_called(compiled):
    text = str(compiled.traced.jaxpr)
    assert "callback" not in text and "infeed" not in text and "outfeed" not in text


def test_the_state_is_donated_and_all_is_finite(compiled):
    """No two leaves share a buffer, or donating them would fail."""
    state = compiled.start()
    for update in range(3):
        old = state
        state, metrics = compiled.step(state, compiled.batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
        assert int(state.update) == update + 1
        chex.assert_tree_all_finite((state.learners, state.average, metrics))
        # Of those with an importance ratio: it starts at one bit for bit, moved as the policy has.
        assert metrics.get("ratio/max_deviation", 0.0) == 0.0
        assert metrics.get("ratio/rollout_deviation", 0.0) <= 1e-4
    assert bool(metrics["update/finite"])
    assert int(metrics["update/skipped"]) == int(metrics["update/skipped_in_a_row"]) == 0


def test_something_is_learned_and_the_reference_of_a_policy_stays(compiled):
    """And the average follows, which is what is used where there is one."""
    state = compiled.start()
    before = bits(state)
    once = compiled.run(state, 1)
    average = bits(once.average)
    after = bits(compiled.run(once, 1))
    for name, learner in after.learners.items():
        moved = jax.tree.map(lambda a, b: (a != b).any(), learner, before.learners[name])
        assert any(jax.tree.leaves(moved.params)), name
    if "policy" not in after.learners:
        return
    chex.assert_trees_all_equal(after.reference, before.reference)
    policy = after.learners["policy"].params
    if average is not None:
        policy = jax.tree.map(
            lambda a, p: AVERAGE_DECAY * a + (1 - AVERAGE_DECAY) * p, average, policy
        )
    chex.assert_trees_all_close(after.params, policy, rtol=1e-6, atol=1e-7)


def test_a_skipped_update_changes_nothing_but_key_and_counters(compiled):
    state = compiled.run(compiled.start(), 1)
    before, bad = bits(state), spoil(compiled.batch)
    for repeat in (1, 2):
        state, metrics = compiled.step(state, bad)
        assert not bool(metrics["update/finite"])
        assert int(metrics["update/skipped"]) == int(metrics["update/skipped_in_a_row"]) == repeat
    after = bits(state)
    kept = {"key": before.key, "update": before.update, "skips": before.skips}
    chex.assert_trees_all_equal(after._replace(**kept), before)
    assert int(after.update) == int(before.update) + 2
    state, metrics = compiled.step(state, compiled.batch)
    assert int(state.skips.total) == 2 and int(state.skips.in_a_row) == 0
    assert bool(metrics["update/finite"])


def test_the_next_rollout_can_be_made_before_the_step_is_taken(compiled):
    """It has the key and the number that the step will leave, so the same noise and window."""
    if not isinstance(compiled.algorithm, Control):
        pytest.skip("it has no rollout of its own")
    state = compiled.start()
    before = bits(ahead(state))
    after = bits(compiled.run(state, 1))
    chex.assert_trees_all_equal((before.key, before.update), (after.key, after.update))


def test_a_run_cut_in_two_is_the_run(compiled, tmp_path):
    """Through a checkpoint on disk, bit for bit."""
    state = compiled.run(compiled.start(), 2)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, state)
        checkpoints.wait()
        target = jax.eval_shape(compiled.algorithm.init, jax.random.key(0))
        restored = checkpoints.restore(target).state
    straight = compiled.run(state, 2)
    chex.assert_trees_all_equal(bits(compiled.run(restored, 2)), bits(straight))


@pytest.mark.parametrize(
    "name", [n if n in CHEAP else pytest.param(n, marks=pytest.mark.slow) for n in LAWS]
)
def test_seeds_side_by_side_are_runs_of_their_own(name, compile_once):
    """Fused otherwise, so rounding differs: 1e-4 after two steps."""
    compiled = compile_once(name)
    seeds = (3, 4)
    starts = [compiled.start(seed) for seed in seeds]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    together = jax.jit(jax.vmap(compiled.algorithm.step, (0, None)))
    for _ in range(2):
        states, metrics = together(states, compiled.batch)
    for i, alone in enumerate(starts):
        for _ in range(2):
            alone, expected = compiled.step(alone, compiled.batch)
        found, reached = jax.tree.map(lambda leaf, i=i: leaf[i], (metrics, states))
        for name in ROUNDING:
            expected.pop(name, None), found.pop(name, None)
        chex.assert_trees_all_close(bits(found), bits(expected), rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_close(bits(reached), bits(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_eight_devices_agree_with_one():
    status, out, err = run_python("-m", "tests.algorithms.sharded_laws", JAX_NUM_CPU_DEVICES="8")
    assert status == 0, err[-4000:]
    assert out.split() == ["agreed"] * len(LAWS)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("rate", [1e300, 3e38])
def test_a_step_beyond_the_largest_number_is_not_taken(rate):
    """The gradient is finite; what the step size makes of it is not."""
    optimizer = optax.sgd(rate)
    params = {"slope": jnp.full(3, 2.0), "unmoved": jnp.zeros(2)}
    gradient = {"slope": jnp.full(3, -5.0), "unmoved": jnp.zeros(2)}
    learner = Learner(params, optimizer.init(params))
    moved, finite = jax.jit(lambda learner: apply_gradient(learner, gradient, optimizer))(learner)
    assert not finite
    chex.assert_trees_all_equal(moved.params, params)


def test_an_optimizer_whose_memory_overflows_is_not_moved():
    """Adagrad adds up squares: once they overflow it would rest for ever, all parameters finite. An
    infinity with which an optimizer begins, such as a best loss so far, forbids nothing."""
    update: Any = lambda updates, best, params: (updates, best)  # noqa: E731
    best = optax.GradientTransformation(lambda params: jnp.inf, update)
    optimizer = optax.chain(optax.adagrad(1e-3), best)
    params = {"w": jnp.ones(3)}
    learner = Learner(params, optimizer.init(params))
    step = jax.jit(lambda learner, g: apply_gradient(learner, {"w": g}, optimizer))
    large = jnp.array([1.5e19, 0.0, 0.0])  # its square is a number, twice that is none
    once, finite = step(learner, large)
    assert finite
    twice, finite = step(once, large)
    assert not finite
    chex.assert_trees_all_equal(twice, once)
