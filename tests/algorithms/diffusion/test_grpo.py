"""GRPO by hand: its advantages, its first update, what its masks do, and the optima it has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms import Batch, PolicyUpdate, Rollout, make_grpo
from ctrl_jax.algorithms.diffusion.grpo import group_relative
from tests.algorithms.diffusion.steering import (
    CURVATURE,
    START_VARIANCE,
    TARGET,
    affine_policy,
    make_setting,
    one_prompt,
)
from tests.oracles import chains

STEPS, PENALTY = 3, 0.4
PROMPTS = np.array([4, 7, 4, 4, 7, 7, 4, 9])
WEIGHTS = np.array([1, 1, 1, 1, 1, 1, 1, 0.0])  # the last one is padding
SLOPE, INTERCEPT = np.linspace(-0.3, 0.1, STEPS), np.linspace(0.4, 0.1, STEPS)


def by_hand(rewards, kl, scale):
    """Advantages (steps, batch), a trajectory and a step at a time."""
    advantages = np.zeros(kl.shape)
    present = WEIGHTS > 0
    for b in np.flatnonzero(present):
        group = np.flatnonzero(present & (PROMPTS[b] == PROMPTS))
        others = group[group != b]
        for i in range(len(kl)):
            returns = rewards - PENALTY * kl[i:].sum(axis=0)
            if scale == "none":
                advantages[i, b] = returns[b] - returns[others].mean()
            elif np.ptp(rewards[group]) > 0:
                spread = np.std(rewards[group if scale == "group" else present])
                advantages[i, b] = (returns[b] - returns[group].mean()) / spread
    return advantages


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_by_hand(scale):
    rng = np.random.default_rng(0)
    rewards, kl = rng.normal(size=8), rng.exponential(size=(STEPS, 8))
    batch = Batch(jnp.asarray(WEIGHTS, jnp.float32), prompts=jnp.asarray(PROMPTS))
    problem, blank = make_setting(STEPS, penalty=PENALTY).problem, jnp.zeros((STEPS, 8, 1))
    rollout = Rollout(
        batch=batch,
        times=problem.forward_times()[:-1],
        kernel=problem.kernel(),
        states=jnp.zeros((STEPS + 1, 8, 1)),
        noise=blank,
        actions=blank,
        reference=blank,
        kl=jnp.asarray(kl, jnp.float32),
        failed_at=jnp.full(8, -1),
    )
    given = jnp.asarray(rewards, jnp.float32)
    advantages = jax.jit(lambda rewards: group_relative(scale)(problem, rollout, rewards, None))
    np.testing.assert_allclose(advantages(given), by_hand(rewards, kl, scale), rtol=1e-4, atol=1e-6)
    # A group that agrees has none, whatever the divergences are; the others keep theirs.
    agreed = np.where(PROMPTS == 4, 0.3, rewards)
    expected = np.where(PROMPTS == 4, 0.0, by_hand(agreed, kl, scale))
    found = advantages(jnp.asarray(agreed, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    clamped = group_relative(scale, 0.5)(problem, rollout, given, None)
    np.testing.assert_array_equal(clamped, np.clip(advantages(given), -0.5, 0.5))


def test_the_first_update_is_the_gradient_of_the_page():
    """Of (2) at a ratio of one, from the rollout's numbers: with e = action_gain / std a step's
    log-ratio has the gradient e z in the mean, and its penalty lambda e^2 (mu - mu_pre)."""
    problem = make_setting(STEPS, penalty=PENALTY).problem
    policy = affine_policy(problem, SLOPE, INTERCEPT)
    update = PolicyUpdate(minibatches=1)
    algorithm = make_grpo(problem, policy, optax.sgd(1.0), update=update)
    batch = Batch(jnp.asarray(WEIGHTS, jnp.float32), prompts=jnp.asarray(PROMPTS))
    rewards = np.random.default_rng(1).normal(size=8).astype(np.float32)
    rewards[np.array([1, 4, 5])] = 2.0  # prompt 7 agrees

    @jax.jit
    def run(key):
        state = algorithm.init(key)
        rollout = algorithm.collect(state, batch)
        return rollout, *algorithm.learn(state, rollout, jnp.asarray(rewards))

    rollout, state, metrics = run(jax.random.key(0))
    x, z = (np.asarray(a, float)[..., 0] for a in (rollout.states[:-1], rollout.noise))
    gain = np.asarray(rollout.kernel.exploration, float)[:, None]
    deviation = SLOPE[:, None] * x + INTERCEPT[:, None]
    kl = (gain * deviation) ** 2 / 2
    advantages = by_hand(rewards.astype(float), kl, "group")
    of_mean = (PENALTY * gain**2 * deviation - advantages * gain * z) * WEIGHTS / (7 * STEPS)
    moved = state.policy.params
    np.testing.assert_allclose(SLOPE - moved["slope"], (of_mean * x).sum(axis=1), rtol=2e-4)
    np.testing.assert_allclose(INTERCEPT - moved["intercept"], of_mean.sum(axis=1), rtol=2e-4)
    assert float(metrics["reward/zero_spread"]) == 1
    np.testing.assert_allclose(metrics["kl/path"], (kl.sum(axis=0) * WEIGHTS).sum() / 7, rtol=1e-4)


def reached(scale, penalty):
    """Setting, the law at the end and the tables, after 120 updates of 512 on 6 steps."""
    setting = make_setting(6, end=1e-3, penalty=penalty)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-2, 120 * 3))
    policy, update = affine_policy(setting.problem), PolicyUpdate(minibatches=3)
    algorithm = make_grpo(setting.problem, policy, optimizer, scale=scale, update=update)

    @jax.jit
    def run(key):
        body = lambda state, _: algorithm.step(state, one_prompt(512))  # noqa: E731
        return jax.lax.scan(body, algorithm.init(key), None, 120)[0].policy.params

    params = run(jax.random.key(0))
    return setting, [np.asarray(params[name], float) for name in ("slope", "intercept")]


def spread_of_rewards(mean, variance):
    """Standard deviation of -(curvature / 2) (x - target)^2 under N(mean, variance)."""
    squares = 2 * variance**2 + 4 * variance * (mean - TARGET) ** 2
    return CURVATURE / 2 * np.sqrt(squares)


def test_without_a_scale_the_optimum_is_that_of_the_penalized_objective():
    setting, tables = reached("none", 2.5)
    point = setting.chain, setting.goal, START_VARIANCE
    best = chains.objective(*point, *chains.optimum(setting.chain, setting.goal))
    start = chains.objective(*point, np.zeros(6), np.zeros(6))
    assert (best - chains.objective(*point, *tables)) / (best - start) < 0.02


def optimum(setting, penalty):
    """Mean and variance at the end of the chain's best policy."""
    best = chains.optimum(setting.chain, setting.goal._replace(penalty=penalty))
    return [law[-1] for law in chains.laws(setting.chain, 0.0, START_VARIANCE, *best)]


def test_with_a_scale_the_penalty_is_in_standard_deviations_of_the_reward():
    """The fixed point is the optimum of the penalty lambda s with s of its own law: 3.8 for 3."""
    setting, tables = reached("group", 3.0)
    penalty = 3.0
    for _ in range(100):
        expected = optimum(setting, penalty)
        penalty = 3.0 * spread_of_rewards(*expected)
    assert 3.7 < penalty < 3.9
    found = [law[-1] for law in chains.laws(setting.chain, 0.0, START_VARIANCE, *tables)]
    assert chains.wasserstein(*found, *expected) < 0.01
    assert chains.wasserstein(*optimum(setting, 3.0), *expected) > 0.03


@pytest.mark.slow  # the limit of the fixed point above
def test_a_small_penalty_in_standard_deviations_holds_nothing():
    """The rewards come to agree, and the penalty with them: at lambda = .3 the samples collapse
    onto the target 2.5, where the penalty itself would stop them at 1.87."""
    setting, tables = reached("group", 0.3)
    mean, variance = (law[-1] for law in chains.laws(setting.chain, 0, START_VARIANCE, *tables))
    held = optimum(setting, 0.3)
    assert held[0] < 1.9 < 2.4 < mean and variance < 0.6 * held[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clip": 0.2, "mask": 0.1}, r"mask: received 0\.1; it stands in the place of clip = 0\.2"),
        ({"mask": 0.0}, r"mask: received 0\.0; it must be above zero"),
        ({"clamp": 0.0}, r"clamp: received 0\.0; it must be above zero"),
        ({"clip": -0.1}, r"clip: received -0\.1"),
        ({"scale": "prompt"}, r"scale: received 'prompt'; .* group\|batch\|none"),
    ],
)
def test_what_is_refused(options, said):
    problem = make_setting(STEPS).problem
    with pytest.raises(ValueError, match=said):
        make_grpo(problem, affine_policy(problem), optax.sgd(1.0), **options)
