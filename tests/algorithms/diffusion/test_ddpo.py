"""DDPO's rewards: without a spread, alone in a batch, remembered and clamped."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms import Batch, PolicyUpdate, PromptStatistics, make_ddpo
from ctrl_jax.algorithms.diffusion.ddpo import _by_memory, standardize
from tests.algorithms.diffusion.steering import affine_policy, make_setting

STEPS = 2
PROMPTS = jnp.asarray([0, 1, 2, 2])


def build(**options):
    problem = make_setting(STEPS, penalty=0.0).problem
    policy = problem, affine_policy(problem), optax.adam(0.1)
    return make_ddpo(*policy, update=PolicyUpdate(minibatches=1), **options)


@pytest.fixture(scope="module")
def learned():
    """One update of DDPO with each of several rewards, in one program."""
    algorithm = build()
    batch = Batch(jnp.ones(4), prompts=PROMPTS)
    state = jax.jit(algorithm.init)(jax.random.key(0))

    @jax.jit
    def learn(rewards):
        rollout = algorithm.collect(state, batch)
        return jax.vmap(lambda r: algorithm.learn(state, rollout, r))(rewards)

    rewards = jnp.asarray([[0.7, 0.7, 0.7, 0.7], [1.0, 2.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
    return state, *learn(rewards)


def test_a_constant_reward_moves_nothing(learned):
    before, after, metrics = learned
    for name, old in before.policy.params.items():
        new = after.policy.params[name]
        np.testing.assert_array_equal(new[:2], np.stack([old, old]))
    assert (after.policy.params["slope"][2] != before.policy.params["slope"]).any()
    assert metrics["update/finite"].all()


def test_prompts_without_a_spread_are_counted(learned):
    # Prompts 0 and 1 have one trajectory each, prompt 2 has two.
    np.testing.assert_array_equal(learned[2]["reward/zero_spread"], [3, 3, 2])


def test_standardize_of_a_batch():
    rewards = jnp.asarray([0.7, 0.7, 1.0, 3.0])
    found = standardize(rewards, Batch(jnp.asarray([1.0, 1.0, 1.0, 1.0]), prompts=PROMPTS))
    np.testing.assert_allclose(found, [0, 0, -1, 1], rtol=1e-6)


def remembered(options, batches):
    """Scores of every batch by a loop over lists, as 2305.13301 tells it."""
    lists, scores = {}, []
    for rewards, prompts in batches:
        for reward, prompt in zip(rewards, prompts, strict=True):
            lists[prompt] = [*lists.get(prompt, []), float(reward)][-options.buffer :]
        row = []
        for reward, prompt in zip(rewards, prompts, strict=True):
            known = lists[prompt]
            if len(known) < options.least or not 0 <= prompt < options.prompts:
                known = rewards
            row.append((reward - np.mean(known)) / np.std(known))
        scores.append(row)
    return np.array(scores)


def test_statistics_of_each_prompt_are_remembered():
    options = PromptStatistics(prompts=3, buffer=5, least=3)
    generator = np.random.default_rng(0)
    # Prompts that come once in a batch, more often than a ring is long, and beyond the table.
    prompts = [[0, 1, 2, 9], [0, 0, 1, 1], [0, 1, 1, 2], [2] * 4, [2, 2, 2, 0], [0, 1, 2, -1]]
    batches = [(generator.normal(size=4).astype(np.float32), ids) for ids in prompts]
    scoring = _by_memory(options)
    score = jax.jit(scoring.score)
    assert scoring.init is not None
    seen, found = scoring.init(jnp.float32), []
    for rewards, ids in batches:
        batch = Batch(jnp.ones(4), prompts=jnp.asarray(ids))
        seen, scores, _ = score(seen, jnp.asarray(rewards), batch)
        found.append(scores)
    np.testing.assert_allclose(found, remembered(options, batches), rtol=1e-4, atol=1e-5)


def test_a_batch_that_overfills_a_ring_leaves_its_last():
    scoring = _by_memory(PromptStatistics(prompts=1, buffer=3, least=2))
    rewards = jnp.arange(8.0)
    assert scoring.init is not None
    score = jax.jit(scoring.score)
    seen, scores, _ = score(scoring.init(jnp.float32), rewards, Batch(jnp.ones(8)))
    np.testing.assert_array_equal(np.sort(seen.rewards[0]), [5, 6, 7])
    np.testing.assert_allclose(scores, (np.asarray(rewards) - 6) / np.sqrt(2 / 3), rtol=1e-6)
    # Padding is not remembered, and a prompt that always gets the same has no spread.
    batch = Batch(jnp.asarray([1.0] * 3 + [0.0]))
    seen, scores, counted = score(seen, jnp.asarray([4.0, 4.0, 4.0, 1e9]), batch)
    np.testing.assert_array_equal(seen.rewards[0], 4.0)
    np.testing.assert_array_equal(scores[:3], 0.0)
    assert counted["reward/zero_spread"] == 1


def test_what_is_remembered_is_part_of_the_state():
    """One trajectory per prompt learns once there is a history; a skipped update leaves none."""
    options = PromptStatistics(prompts=3, buffer=4, least=2)
    algorithm = build(statistics=options, clamp=0.1)
    batch = Batch(jnp.ones(3), prompts=jnp.arange(3))
    state, learn = algorithm.init(jax.random.key(0)), jax.jit(algorithm.learn)
    rollout = jax.jit(algorithm.collect)(state, batch)
    spoiled, _ = learn(state, rollout, np.asarray([1.0, np.nan, 2.0], np.float32))
    first, _ = learn(state, rollout, np.full(3, 0.5, np.float32))
    second, metrics = learn(first, rollout, np.asarray([1.0, 0.5, 2.0], np.float32))
    np.testing.assert_array_equal(spoiled.learners["rewards"].params.number, 0)
    np.testing.assert_array_equal(first.learners["rewards"].params.number, 1)
    np.testing.assert_array_equal(second.learners["rewards"].params.number, 2)
    slope = [s.policy.params["slope"] for s in (state, first, second)]
    np.testing.assert_array_equal(slope[0], slope[1])
    assert (slope[2] != slope[1]).any()
    # Prompt 1 has had .5 twice.
    assert metrics["reward/zero_spread"] == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(PromptStatistics, 0), "PromptStatistics.prompts: received 0"),
        (partial(PromptStatistics, 3, buffer=1), "PromptStatistics.buffer: received 1"),
        (partial(PromptStatistics, 3, buffer=4), "least: received 16; a buffer of 4 never"),
        (partial(build, clamp=0.0), "clamp: received 0.0; it must be above zero"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
