"""What the steps of control promise beside the laws of all algorithms: ratio, flags, padding."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Algorithm,
    Batch,
    Critic,
    DiffusionControl,
    PolicyUpdate,
    Surrogate,
    ValueUpdate,
    make_control,
    make_ddpo,
    skip,
)
from ctrl_jax.algorithms.diffusion.actor_critic import generalized_advantage
from ctrl_jax.algorithms.diffusion.ddpo import standardize
from ctrl_jax.algorithms.diffusion.policy_update import clipped
from ctrl_jax.processes import grids
from ctrl_jax.rewards import weighted
from ctrl_jax.solvers import ExponentialEuler
from tests.algorithms.diffusion.steering import (
    CURVATURE,
    PROCESS,
    TARGET,
    WITH_CRITIC,
    WITHOUT_CRITIC,
    affine_policy,
    make_algorithm,
    make_setting,
    one_prompt,
    quadratic_value,
)

STEPS, BATCH = 4, 8
NAMES = [*WITH_CRITIC, *WITHOUT_CRITIC]


def build(name, problem=None, *, value=None, epochs=1, chunks=1, average_decay=0.0, **own):
    """Two minibatches; `value` is the `ValueUpdate`, `own` are options of the algorithm's own."""
    penalty = 0.0 if name == "ddpo" else 2.5
    problem = problem or make_setting(STEPS, penalty=penalty).problem
    critic = Critic(quadratic_value(problem), optax.adam(1e-2), value or ValueUpdate(minibatches=2))
    update = PolicyUpdate(epochs, own.pop("minibatches", 2), chunks, average_decay)
    return make_algorithm(
        name, problem, affine_policy(problem), optax.adam(1e-2), critic, update, **own
    )


def nearly(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def without_keys(state):
    return state._replace(key=jax.random.key_data(state.key))


class Programs(NamedTuple):
    """One algorithm, its step, and the two programs that the step is made of."""

    algorithm: Algorithm
    step: Callable
    collect: Callable
    learn: Callable


@functools.cache
def programs(name: str) -> Programs:
    """Traced where they are first called, and once for all tests."""
    algorithm = build(name)
    parts = map(jax.jit, (algorithm.step, algorithm.collect, algorithm.learn))
    return Programs(algorithm, *parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_holds_a_critic_where_there_is_one_and_no_average(name):
    state = jax.eval_shape(build(name).init, jax.random.key(0))
    assert (state.value is None) == (name in WITHOUT_CRITIC)
    assert state.average is None, "it is asked for"


@pytest.mark.slow
def test_chunks_change_nothing_but_the_order_of_sums():
    """Gradient accumulation equals the whole minibatch."""
    ends = []
    for chunks in (1, 2):
        algorithm = build("ppo", chunks=chunks, epochs=2, trace=0.5)
        ends.append(jax.jit(algorithm.step)(algorithm.init(jax.random.key(3)), one_prompt(BATCH)))
    (whole, whole_metrics), (parts, parts_metrics) = ends
    # Adam's first steps divide by the gradient's own size, so rounding may reach 1e-5 of a step.
    nearly(whole.policy.params, parts.policy.params, rtol=1e-4, atol=1e-5)
    nearly(whole_metrics, parts_metrics, rtol=1e-4, atol=1e-5)
    assert parts_metrics["ratio/max_deviation"] == 0.0


@pytest.mark.parametrize(
    ("chunks", "old"),
    [pytest.param(1, "rollout", marks=pytest.mark.slow), (STEPS, "rollout"), (1, "scored")],
)
def test_the_first_gradient_is_that_of_the_log_density(chunks, old):
    """sum_i A grad log p(x_{i+1} | x_i), in units of the noise: A z . grad mu gain / std."""
    problem = make_setting(STEPS, penalty=0.0).problem
    policy, update = affine_policy(problem), PolicyUpdate(1, 1, chunks, old=old)
    algorithm = make_ddpo(problem, policy, optax.sgd(1.0), update=update)
    state, batch = algorithm.init(jax.random.key(6)), one_prompt(BATCH)

    @jax.jit
    def both(state):
        rollout = algorithm.collect(state, batch)
        rewards = problem.rewards(rollout)
        moved, metrics = algorithm.learn(state, rollout, rewards)
        shift = jax.vmap(lambda k: k.action_gain / k.std)(problem.kernel())[:, None, None]

        def surrogate(params):
            times = problem.forward_times()[:-1]
            mean = jax.vmap(lambda t, x: policy.apply(params, t, x))(times, rollout.states[:-1])
            advantages = standardize(rewards, batch)[None, :, None]
            return jnp.mean(jnp.sum(advantages * shift * rollout.noise * mean, axis=2))

        return moved.policy.params, metrics, jax.grad(surrogate)(state.policy.params)

    moved, metrics, gradient = both(state)
    for name, start in state.policy.params.items():
        np.testing.assert_allclose(moved[name] - start, gradient[name], rtol=2e-5, atol=1e-6)
    assert metrics["ratio/max_deviation"] <= 1e-5
    assert metrics["ratio/rollout_deviation_mean"] <= metrics["ratio/rollout_deviation"] <= 1e-5


@pytest.mark.slow
def test_the_clip_fraction_counts_the_ratios_beyond_the_clip():
    """The policy has moved after a minibatch: no ratio is within 1e-7 then, and all within 1e3."""
    fractions = []
    for clip in (1e-7, 1e3):
        algorithm = build("ppo", clip=clip, minibatches=1, epochs=2, control_variate=False)
        _, metrics = jax.jit(algorithm.step)(algorithm.init(jax.random.key(4)), one_prompt(BATCH))
        fractions.append(float(metrics["ppo/clip_fraction"]))
    assert 0.3 < fractions[0] <= 0.5, "the first of two passes is at ratio one"
    assert fractions[1] == 0.0


def test_a_reward_that_is_nan_is_flagged_and_changes_nothing():
    algorithm, _, collect, learn = programs("ppo")
    good, bad = np.zeros(BATCH, np.float32), np.zeros(BATCH, np.float32)
    bad[3] = np.nan
    start = algorithm.init(jax.random.key(0))
    rollout = collect(start, one_prompt(BATCH))
    first, metrics = learn(start, rollout, good)
    assert bool(metrics["reward/finite"])
    state, without = first, jax.jit(skip)
    for repeat in (1, 2):
        left_out, counts = without(state)
        state, metrics = learn(state, rollout, bad)
        assert not bool(metrics["reward/finite"])
        assert float(metrics["update/finite"]) == 0.0
        assert int(state.skips.total) == int(state.skips.in_a_row) == repeat
        nearly(state.policy, first.policy, rtol=0, atol=0)
        nearly(state.value, first.value, rtol=0, atol=0)
        chex.assert_trees_all_equal(
            jax.random.key_data(left_out.key), jax.random.key_data(state.key)
        )
        chex.assert_trees_all_equal(left_out._replace(key=state.key), state)
        chex.assert_trees_all_equal(counts, {name: metrics[name] for name in counts})
    state, metrics = learn(state, rollout, good)
    assert bool(metrics["reward/finite"])
    assert (int(state.skips.total), int(state.skips.in_a_row)) == (2, 0)
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(state.policy.params), jax.tree.leaves(first.policy.params), strict=True
        )
    )


def test_states_that_overflow_are_not_blamed_on_the_reward():
    algorithm, step, _, _ = programs("ppo")
    state = algorithm.init(jax.random.key(0))
    steep = state.policy.params | {"slope": np.full(STEPS, 1e30, np.float32)}
    learners = state.learners | {"policy": state.policy._replace(params=steep)}
    _, metrics = step(state._replace(learners=learners), one_prompt(BATCH))
    assert not bool(metrics["states/finite"])
    assert bool(metrics["reward/finite"])
    assert int(metrics["update/skipped"]) == 1


def with_reward(reward_fn):
    problem = make_setting(STEPS).problem
    return DiffusionControl(
        problem.process,
        problem.reference,
        reward_fn,
        (1,),
        problem.grid,
        2.5,
        start_std=problem.start_std,
    )


@pytest.mark.parametrize(
    ("reward_fn", "shape"), [(lambda x: x, r"\(8, 1\)"), (lambda x: x.mean(), r"\(\)")]
)
def test_a_reward_of_another_shape_is_refused_when_traced(reward_fn, shape):
    algorithm = build("ppo", with_reward(reward_fn))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    message = rf"rewards' shape: received {shape}; .* one value per example, shape \(8,\)"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(algorithm.step, state, one_prompt(BATCH))


def test_a_step_is_learning_from_what_was_collected():
    """The same program, so bit for bit."""
    problem = make_setting(STEPS).problem
    algorithm, batch = build("dpok", problem), one_prompt(BATCH)
    state = jax.eval_shape(algorithm.init, jax.random.key(5))

    def composed(state, batch):
        rollout = algorithm.collect(state, batch)
        return algorithm.learn(state, rollout, problem.rewards(rollout))

    one, other = (str(jax.make_jaxpr(f)(state, batch)) for f in (algorithm.step, composed))
    assert one == other


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("ppo", "ddpo") else pytest.mark.slow) for n in NAMES]
)
def test_two_programs_with_rewards_between_them_are_one(name):
    """The rewards are NumPy's. One program is fused otherwise, so rounding differs; the ratio
    starts at exactly one in both."""
    problem, batch = make_setting(STEPS, penalty=0.0).problem, one_prompt(BATCH)
    algorithm, step, collect, learn = programs(name)
    one = two = algorithm.init(jax.random.key(5))
    for _ in range(2):
        one, expected = step(one, batch)
        rollout = collect(two, batch)
        ends = np.asarray(rollout.states[-1])
        rewards = -CURVATURE / 2 * (ends[:, 0] - TARGET) ** 2
        np.testing.assert_allclose(rewards, problem.rewards(rollout), rtol=1e-6)
        two, metrics = learn(two, rollout, rewards)
        assert float(metrics["ratio/max_deviation"]) == 0.0
        for found in (metrics, expected):
            assert found.pop("ratio/rollout_deviation") < 1e-4
        chex.assert_trees_all_close(metrics, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(without_keys(one), without_keys(two), rtol=1e-4, atol=1e-5)


def parts_of_a_reward():
    """Of 6 rows; what is said of padding does not count."""
    known = jnp.where(jnp.arange(BATCH) < 6, 1.0, jnp.nan)
    return weighted({"near": (lambda x: -(x[:, 0] ** 2), 2.0), "one": (lambda x: known, 0.5)})


def test_parts_of_a_reward_are_in_the_metrics():
    problem = with_reward(parts_of_a_reward())
    algorithm, batch = build("dpok", problem), Batch(jnp.asarray([1.0] * 6 + [0.0] * 2))
    state = algorithm.init(jax.random.key(5))

    @jax.jit
    def both(state):
        rollout = algorithm.collect(state, batch)
        return rollout, algorithm.learn(state, rollout, problem.scored(rollout))[1]

    rollout, metrics = both(state)
    near = -(np.asarray(rollout.states[-1][:6, 0], float) ** 2)
    expected = {"near/mean": near.mean(), "near/std": near.std(), "one/mean": 1.0, "one/std": 0.0}
    expected |= {"mean": 2 * near.mean() + 0.5, "std": 2 * near.std()}
    found = {name: metrics[f"reward/{name}"] for name in expected}
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    assert jax.eval_shape(algorithm.step, state, batch)[1].keys() == metrics.keys()


def test_rewards_from_outside_are_checked_and_padding_has_none():
    algorithm, _, collect, learn = programs("dpok")
    state, batch = algorithm.init(jax.random.key(0)), Batch(jnp.asarray([1.0] * 6 + [0.0] * 2))
    rollout = collect(state, batch)
    with pytest.raises(ValueError, match=r"rewards' shape: received \(8, 1\)"):
        learn(state, rollout, np.zeros((8, 1)))
    rewards = np.asarray([1.0] * 6 + [np.nan] * 2)
    _, metrics = learn(state, rollout, rewards)
    assert bool(metrics["update/finite"]) and float(metrics["reward/mean"]) == 1.0


def test_a_problem_without_rewards_of_its_own_is_collected_and_not_stepped():
    problem = eqx.tree_at(lambda p: p.reward_fn, make_setting(STEPS).problem, None)
    algorithm = build("dpok", problem)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    rollout = jax.eval_shape(algorithm.collect, state, one_prompt(BATCH))
    jax.eval_shape(algorithm.learn, state, rollout, jnp.ones(BATCH))
    with pytest.raises(ValueError, match=r"reward_fn: received None; .* call collect and learn"):
        jax.eval_shape(algorithm.step, state, one_prompt(BATCH))


def test_a_surrogate_of_values_needs_a_critic():
    problem = make_setting(STEPS).problem
    policy, optimizer = affine_policy(problem), optax.sgd(1.0)
    reads = Surrogate(lambda rows, score, log_ratio: log_ratio, gradient_at="mean")
    with pytest.raises(ValueError, match=r"critic: received None; .* gradient at 'mean'"):
        make_control(problem, policy, optimizer, reads, None)
    advantage_fn = generalized_advantage(0.9)
    update = PolicyUpdate(minibatches=2)
    made = make_control(problem, policy, optimizer, clipped(0.2), advantage_fn, update=update)
    with pytest.raises(ValueError, match=r"critic: received None; this advantage reads values"):
        jax.eval_shape(made.step, jax.eval_shape(made.init, jax.random.key(0)), one_prompt(BATCH))


@pytest.mark.parametrize("name", ["ppo", pytest.param("dpok", marks=pytest.mark.slow)])
def test_padding_changes_no_metric(name):
    """Six trajectories, alone and followed by two rows of weight zero: the same noise, the same
    minibatches, the same metrics."""
    algorithm, step, _, _ = programs(name)
    alone = padded = algorithm.init(jax.random.key(0))
    for _ in range(2):
        alone, metrics = step(alone, one_prompt(6))
        padded, metrics_padded = step(padded, Batch(jnp.asarray([1.0] * 6 + [0.0] * 2)))
        assert metrics.keys() == metrics_padded.keys()
        for key, expected in metrics.items():
            np.testing.assert_allclose(
                metrics_padded[key], expected, rtol=1e-5, atol=1e-5, err_msg=key
            )
    nearly(without_keys(alone), without_keys(padded), rtol=1e-4)


def advantages(rewards, weights=None, prompts=None):
    """What `standardize` makes of lists."""
    weights = jnp.asarray([1] * len(rewards) if weights is None else weights, jnp.float32)
    batch = Batch(weights, prompts=None if prompts is None else jnp.asarray(prompts))
    return jax.jit(standardize)(jnp.asarray(rewards, jnp.float32), batch)


def test_weights_are_repetitions():
    """A trajectory of weight two moves the mean like two trajectories."""
    twice = advantages([1, 2, 6], weights=[1, 1, 2])
    repeated = advantages([1, 2, 6, 6])
    np.testing.assert_allclose(twice, repeated[:3], rtol=1e-6)


def test_standardize_by_hand():
    # Prompt 0: rewards 1, 3: mean 2, std 1. Prompt 1: 10, 10, 16: mean 12, std sqrt 8.
    expected = [-1.0, -2 / 8**0.5, 1.0, -2 / 8**0.5, 4 / 8**0.5]
    found = advantages([1, 10, 3, 10, 16], prompts=[0, 1, 0, 1, 1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # One prompt: 1, 3 and a padding row that must not count.
    found = advantages([1, 3, 99], weights=[1, 1, 0])
    np.testing.assert_allclose(found[:2], [-1.0, 1.0], rtol=1e-5)


def test_standardize_keeps_its_digits_when_rewards_are_large():
    rewards = [1000.0, 1000.2, 1000.4, 1000.6]
    alone, by_prompt = advantages(rewards), advantages(rewards, prompts=[0] * 4)
    np.testing.assert_allclose(by_prompt, alone, rtol=1e-3)


def test_a_single_trajectory_of_a_prompt_has_no_advantage():
    found = advantages([3, 5], prompts=[0, 1])
    np.testing.assert_allclose(found, 0.0, atol=1e-5)


def test_bad_settings_are_refused():
    problem = make_setting(STEPS).problem
    with pytest.raises(
        ValueError, match=r"minibatches: received 3; .* divide the 4 steps learned from"
    ):
        build("ppo", minibatches=3)
    with pytest.raises(ValueError, match="value's minibatches: received 6; there are 5 grid point"):
        build("ppo", value=ValueUpdate(minibatches=6))
    for penalty in (2.5, jnp.asarray(2.5)):
        steered = DiffusionControl(
            problem.process, problem.reference, problem.reward_fn, (1,), problem.grid, penalty
        )
        with pytest.raises(ValueError, match=r"penalty: received 2\.5; DDPO has no KL penalty"):
            make_ddpo(steered, affine_policy(steered), optax.sgd(1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PolicyUpdate(epochs=0), "epochs: received 0"),
        (lambda: PolicyUpdate(minibatches=0), "minibatches: received 0"),
        (lambda: PolicyUpdate(average_decay=-0.1), "average_decay: received -0.1"),
        (lambda: ValueUpdate(epochs=-1), "epochs: received -1"),
        (lambda: build("ppo", trace=1.5), "trace: received 1.5"),
        (lambda: build("policy_gradient", trace=float("nan")), "trace: received nan"),
        (lambda: build("ddpo", clip=0.0), "clip: received 0.0"),
        (lambda: build("dpok", clip=float("nan")), "clip: received nan"),
    ],
)
def test_a_bad_option_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("value_gradient", "trace"),
        ("value_gradient", "clip"),
        ("policy_gradient", "clip"),
        ("policy_gradient", "control_variate"),
        ("ddpo", "trace"),
        ("dpok", "control_variate"),
    ],
)
def test_no_algorithm_takes_an_option_that_it_ignores(name, option):
    ignored: Any = {option: 0.5}
    with pytest.raises(TypeError, match=option):
        build(name, **ignored)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"solver": ExponentialEuler(eta=0.0)}, "solver: .* Gaussian steps with noise"),
        ({"grid": jnp.asarray([0.0, 1.0, 1.0])}, "grid: .* increasing times"),
        ({"grid": jnp.asarray([0.0])}, "at least two increasing times"),
        ({"penalty": -1.0}, "penalty: received -1.0; it must be zero or above"),
        ({"penalty": float("nan")}, "penalty: received nan; it must be a finite number"),
    ],
)
def test_a_bad_problem_is_named(changed, message):
    good = {
        "process": PROCESS,
        "reference": Model(lambda key: (), lambda params, t, x: -x),
        "reward_fn": lambda x: x[:, 0],
        "shape": (1,),
        "grid": grids.uniform(PROCESS, 4),
        "penalty": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        DiffusionControl(**(good | changed))
