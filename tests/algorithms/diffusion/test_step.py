"""What `step` promises whatever the algorithm: one trace, no host, donation, flags, and padding."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch, DiffusionControl, UpdateConfig, make_ddpo
from ctrl_jax.algorithms.diffusion.terminal_reward import standardize
from ctrl_jax.processes import grids
from ctrl_jax.solvers import ExponentialEuler
from tests.algorithms.diffusion.steering import (
    PROCESS,
    WITH_CRITIC,
    WITHOUT_CRITIC,
    affine_policy,
    cosine,
    make_algorithm,
    make_setting,
    one_prompt,
    quadratic_value,
)

STEPS, BATCH = 4, 8
NAMES = [*WITH_CRITIC, *WITHOUT_CRITIC]


def build(name, problem=None, **options):
    penalty = 0.0 if name == "ddpo" else 2.5
    problem = problem or make_setting(STEPS, penalty=penalty).problem
    config = UpdateConfig(**{"minibatches": 2, "value_minibatches": 2, **options})
    return make_algorithm(
        name,
        problem,
        affine_policy(problem),
        quadratic_value(problem),
        optax.adam(1e-2),
        optax.adam(1e-2),
        config,
    )


def nearly(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def without_keys(state):
    return state._replace(key=jax.random.key_data(state.key))


@pytest.fixture(scope="module", params=NAMES)
def compiled(request):
    """One algorithm, its step compiled with donation, and how often it was traced."""
    algorithm = build(request.param)
    traces = []

    def step(state, batch):
        traces.append(1)
        return algorithm.step(state, batch)

    return request.param, algorithm, jax.jit(step, donate_argnums=0), traces


def test_one_trace_donated_buffers_and_a_stable_state(compiled):
    _, algorithm, step, traces = compiled
    state = algorithm.init(jax.random.key(0))
    shapes = jax.eval_shape(lambda s: s, state)
    for update in range(3):
        old = state
        state, metrics = step(state, one_prompt(BATCH))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old)), "the state is not donated"
        assert int(state.update) == update + 1
        assert all(m.shape == () for m in metrics.values())
        assert all(np.isfinite(float(m)) for m in metrics.values()), metrics
    assert len(traces) == 1
    assert jax.eval_shape(lambda s: s, state) == shapes


def test_the_compiled_step_never_calls_the_host(compiled):
    name, algorithm, step, traces = compiled
    if name not in ("ppo", "ddpo"):
        pytest.skip("the others are made of the same parts; compiling again takes seconds")
    before = len(traces)
    text = step.lower(algorithm.init(jax.random.key(0)), one_prompt(BATCH)).compile().as_text()
    del traces[before:]
    assert "callback" not in text
    assert not re.search(r"\b(infeed|outfeed|send|recv)\(", text)
    targets = set(re.findall(r'custom_call_target="([^"]+)"', text))
    assert not {t for t in targets if "host" in t.lower() or "python" in t.lower()}, targets


def test_the_first_ratio_is_one_bit_for_bit(compiled):
    _, algorithm, step, _ = compiled
    state = algorithm.init(jax.random.key(1))
    for _ in range(4):
        state, metrics = step(state, one_prompt(BATCH))
        assert float(metrics["ratio/max_deviation"]) == 0.0
        assert float(metrics["ratio/rollout_deviation"]) <= 1e-4


def test_the_policy_moves_and_the_reference_does_not(compiled):
    name, algorithm, step, _ = compiled
    state = algorithm.init(jax.random.key(0))
    start = jax.tree.map(np.asarray, state.policy.params)
    for _ in range(2):
        state, metrics = step(state, one_prompt(BATCH))
    assert any((np.asarray(state.policy.params[k]) != start[k]).any() for k in start)
    assert (state.value is None) == (name in WITHOUT_CRITIC)
    assert float(metrics["update/finite"]) == 1.0


@pytest.mark.slow
def test_chunks_change_nothing_but_the_order_of_sums():
    """Gradient accumulation equals the whole minibatch."""
    ends = []
    for chunks in (1, 2):
        algorithm = build("ppo", chunks=chunks, epochs=2, minibatches=2, trace=0.5)
        ends.append(jax.jit(algorithm.step)(algorithm.init(jax.random.key(3)), one_prompt(BATCH)))
    (whole, whole_metrics), (parts, parts_metrics) = ends
    # Adam's first steps divide by the gradient's own size, so rounding may reach 1e-5 of a step.
    nearly(whole.policy.params, parts.policy.params, rtol=1e-4, atol=1e-5)
    nearly(whole_metrics, parts_metrics, rtol=1e-4, atol=1e-5)
    assert parts_metrics["ratio/max_deviation"] == 0.0


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


@pytest.mark.parametrize("name", ["dpok", pytest.param("ppo", marks=pytest.mark.slow)])
def test_vmap_over_seeds_is_separate_runs(name):
    algorithm = build(name)
    keys = jax.random.split(jax.random.key(3), 2)
    batch = one_prompt(BATCH)

    def run(key):
        def body(state, _):
            return algorithm.step(state, batch)

        state, metrics = jax.lax.scan(body, algorithm.init(key), None, 2)
        return without_keys(state), metrics

    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)
    for i, key in enumerate(keys):
        (state, metrics), (expected_state, expected) = (
            jax.tree.map(lambda a, i=i: a[i], together),
            alone(key),
        )
        # What is rounding itself has no digits to agree in.
        for found in (metrics, expected):
            assert (found.pop("ratio/rollout_deviation") < 1e-4).all()
        nearly((state, metrics), (expected_state, expected))


def with_reward(reward_fn, size=STEPS):
    problem = make_setting(size).problem
    return DiffusionControl(
        problem.process,
        problem.reference,
        reward_fn,
        (1,),
        problem.grid,
        2.5,
        start_std=problem.start_std,
    )


def test_a_reward_that_is_nan_is_flagged_and_changes_nothing():
    algorithm = build("ppo", with_reward(lambda x, bad: jnp.where(bad > 0, jnp.nan, x[:, 0])))
    step = jax.jit(algorithm.step)
    good, bad = jnp.zeros(BATCH), jnp.zeros(BATCH).at[3].set(1.0)
    start = algorithm.init(jax.random.key(0))
    first, metrics = step(start, Batch(jnp.ones(BATCH), (good,)))
    assert bool(metrics["reward/finite"])
    state = first
    for repeat in (1, 2):
        state, metrics = step(state, Batch(jnp.ones(BATCH), (bad,)))
        assert not bool(metrics["reward/finite"])
        assert float(metrics["update/finite"]) == 0.0
        assert int(state.skipped) == int(state.skipped_in_a_row) == repeat
        nearly(state.policy, first.policy, rtol=0, atol=0)
        nearly(state.value, first.value, rtol=0, atol=0)
    state, metrics = step(state, Batch(jnp.ones(BATCH), (good,)))
    assert bool(metrics["reward/finite"])
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (2, 0)
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(state.policy.params), jax.tree.leaves(first.policy.params), strict=True
        )
    )


def test_states_that_overflow_are_not_blamed_on_the_reward():
    problem = make_setting(STEPS).problem
    policy = affine_policy(problem, slope=np.full(STEPS, 1e30))
    value = quadratic_value(problem)
    algorithm = make_algorithm(
        "ppo", problem, policy, value, cosine(1e-3, 4), cosine(1e-3, 4), UpdateConfig(minibatches=2)
    )
    _, metrics = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)), one_prompt(BATCH))
    assert not bool(metrics["states/finite"])
    assert bool(metrics["reward/finite"])
    assert int(metrics["update/skipped"]) == 1


@pytest.mark.parametrize(
    ("reward_fn", "shape"), [(lambda x: x, r"\(8, 1\)"), (lambda x: x.mean(), r"\(\)")]
)
def test_a_reward_of_another_shape_is_refused_when_traced(reward_fn, shape):
    algorithm = build("ppo", with_reward(reward_fn))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    message = rf"reward_fn must return one reward per example, shape \(8,\); it returned .*{shape}"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(algorithm.step, state, one_prompt(BATCH))


@pytest.mark.parametrize("name", ["ppo", pytest.param("dpok", marks=pytest.mark.slow)])
def test_padding_changes_no_metric(name):
    """Six trajectories, alone and followed by two rows of weight zero, one epoch: the same noise,
    the same minibatches, the same metrics."""
    algorithm = build(name, value_epochs=1)
    step = jax.jit(algorithm.step)
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


def test_weights_are_repetitions():
    """A trajectory of weight two moves the mean like two trajectories."""
    rewards = jnp.asarray([1.0, 2.0, 6.0])
    twice = standardize(rewards, Batch(jnp.asarray([1.0, 1.0, 2.0])))
    repeated = standardize(jnp.asarray([1.0, 2.0, 6.0, 6.0]), Batch(jnp.ones(4)))
    np.testing.assert_allclose(twice, repeated[:3], rtol=1e-6)


def test_standardize_by_hand():
    # Prompt 0: rewards 1, 3: mean 2, std 1. Prompt 1: 10, 10, 16: mean 12, std sqrt 8.
    rewards, prompts = jnp.asarray([1.0, 10.0, 3.0, 10.0, 16.0]), jnp.asarray([0, 1, 0, 1, 1])
    expected = [-1.0, -2 / 8**0.5, 1.0, -2 / 8**0.5, 4 / 8**0.5]
    found = standardize(rewards, Batch(jnp.ones(5), prompts=prompts))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # One prompt: 1, 3 and a padding row that must not count.
    weights = jnp.asarray([1.0, 1.0, 0.0])
    found = standardize(jnp.asarray([1.0, 3.0, 99.0]), Batch(weights))
    np.testing.assert_allclose(found[:2], [-1.0, 1.0], rtol=1e-5)


def test_standardize_keeps_its_digits_when_rewards_are_large():
    rewards = jnp.asarray([1000.0, 1000.2, 1000.4, 1000.6])
    alone = standardize(rewards, Batch(jnp.ones(4)))
    by_prompt = standardize(rewards, Batch(jnp.ones(4), prompts=jnp.zeros(4, int)))
    np.testing.assert_allclose(by_prompt, alone, rtol=1e-3)


def test_a_single_trajectory_of_a_prompt_has_no_advantage():
    found = standardize(jnp.asarray([3.0, 5.0]), Batch(jnp.ones(2), prompts=jnp.asarray([0, 1])))
    np.testing.assert_allclose(found, 0.0, atol=1e-5)


def test_the_average_follows_the_policy():
    for decay, expect_equal in ((0.0, True), (0.9, False)):
        algorithm = build("dpok", average_decay=decay)
        state, _ = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)), one_prompt(BATCH))
        slope, average = state.policy.params["slope"], state.average["slope"]
        assert bool((slope == average).all()) == expect_equal
        np.testing.assert_allclose(average, (1 - decay) * slope, rtol=1e-5)


def test_bad_settings_are_refused():
    problem = make_setting(STEPS).problem
    with pytest.raises(ValueError, match="minibatches must divide the solver steps"):
        build("ppo", minibatches=3)
    with pytest.raises(ValueError, match="value_minibatches must be at most the 5 grid points"):
        build("ppo", value_minibatches=6)
    for penalty in (2.5, jnp.asarray(2.5)):
        steered = DiffusionControl(
            problem.process, problem.reference, problem.reward_fn, (1,), problem.grid, penalty
        )
        with pytest.raises(ValueError, match=r"DDPO has no KL penalty, got penalty 2\.5"):
            make_ddpo(steered, affine_policy(steered), optax.sgd(1.0), UpdateConfig(minibatches=2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("minibatches", 0),
        ("value_epochs", -1),
        ("trace", 1.5),
        ("trace", float("nan")),
        ("clip", 0.0),
        ("clip", float("nan")),
        ("average_decay", -0.1),
    ],
)
def test_a_bad_field_of_the_config_is_named(field, value):
    with pytest.raises(ValueError, match=rf"{field} must .*got {value}"):
        UpdateConfig(**{field: value})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"solver": ExponentialEuler(eta=0.0)}, "solver must take Gaussian steps with noise"),
        ({"grid": jnp.asarray([0.0, 1.0, 1.0])}, "grid must be .* increasing times"),
        ({"grid": jnp.asarray([0.0])}, "at least two increasing times"),
        ({"penalty": -1.0}, "penalty must be finite and at least 0, got -1"),
        ({"penalty": float("nan")}, "penalty must be finite and at least 0, got nan"),
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
