"""Online preference optimization reaches the optimum of the penalized control problem."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.algorithms import Batch, PreferenceUpdate, make_online_preference
from ctrl_jax.losses import preference
from ctrl_jax.rewards import weighted
from ctrl_jax.solvers import EulerMaruyama
from tests.algorithms.diffusion.steering import (
    CURVATURE,
    PENALTY,
    START_VARIANCE,
    TARGET,
    affine_policy,
    cosine,
    make_setting,
    one_prompt,
)
from tests.oracles import chains


def pair_loss(loss, **options):
    return lambda chosen, rejected, batch: loss(chosen, rejected, **options)


dpo = pair_loss(preference.dpo, beta=PENALTY)


def start(loss_fn=dpo, *, steps=6, batch=16, policy=None, **options):
    setting = make_setting(steps, end=1e-3, solver=EulerMaruyama())
    policy = policy or affine_policy(setting.problem)
    algorithm = make_online_preference(setting.problem, policy, cosine(3e-2, 8), loss_fn, **options)
    return algorithm, algorithm.init(jax.random.key(0)), one_prompt(batch)


LOSSES = {
    "dpo": (dpo, np.log(2)),
    "theta": (pair_loss(preference.mallows_theta, beta=1.0, dispersion=0.3), np.log(2)),
    # -log g(0+), from the right: at the least margin below zero it would be -log(1 - g(0+)).
    "phi": (
        pair_loss(preference.mallows_phi, beta=1.0, dispersion=0.3),
        -np.log(1 / 0.7 + 1 / np.log(0.3)),
    ),
}


@pytest.mark.parametrize("name", ["dpo", "phi", pytest.param("theta", marks=pytest.mark.slow)])
def test_at_the_pretrained_policy_every_log_ratio_is_exactly_zero(name):
    loss_fn, expected = LOSSES[name]
    algorithm, state, batch = start(loss_fn)
    _, metrics = jax.jit(algorithm.step)(state, batch)
    assert float(metrics["rewards/margins"]) == float(metrics["rewards/chosen"]) == 0.0
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    assert float(metrics["kl/path"]) < 1e-8


def test_parts_of_a_reward_are_in_the_metrics():
    problem = make_setting(6, end=1e-3, solver=EulerMaruyama()).problem
    reward = weighted({"near": (lambda x: x[:, 0], 2.0), "far": (lambda x: x[:, 0] ** 2, -1.0)})
    problem = eqx.tree_at(lambda p: p.reward_fn, problem, reward)
    algorithm = make_online_preference(problem, affine_policy(problem), cosine(3e-2, 8), dpo)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    metrics = jax.eval_shape(algorithm.step, state, one_prompt(4))[1]
    assert {"reward/mean", "reward/near/mean", "reward/far/std"} < metrics.keys()


def train(loss_fn, *, updates, batch, steps=12, rate=3e-2):
    setting = make_setting(steps, end=1e-3, solver=EulerMaruyama())
    policy = affine_policy(setting.problem)
    algorithm = make_online_preference(setting.problem, policy, cosine(rate, updates), loss_fn)

    @jax.jit
    def run(key):
        def body(state, _):
            return algorithm.step(state, one_prompt(batch))

        return jax.lax.scan(body, algorithm.init(key), None, updates)

    state, metrics = run(jax.random.key(0))
    tables = [np.asarray(state.policy.params[name], float) for name in ("slope", "intercept")]
    return setting, state, metrics, tables


# Mallows-theta with beta and phi has the temperature -2 log phi beta.
REACHED = {
    "dpo": dpo,
    "theta": pair_loss(preference.mallows_theta, beta=PENALTY / (2 * np.log(2)), dispersion=0.5),
}


@pytest.mark.parametrize(
    ("loss_fn", "batch"),
    [(REACHED["dpo"], 1024), pytest.param(REACHED["theta"], 2048, marks=pytest.mark.slow)],
    ids=list(REACHED),
)
def test_the_optimum_of_the_penalized_problem_is_reached(loss_fn, batch):
    """A chain of 12 steps, its law and objective from moments, without sampling noise."""
    setting, state, metrics, tables = train(loss_fn, updates=300, batch=batch)
    best = chains.optimum(setting.chain, setting.goal)
    value = chains.objective(setting.chain, setting.goal, START_VARIANCE, *best)
    achieved = chains.objective(setting.chain, setting.goal, START_VARIANCE, *tables)
    laws = [chains.laws(setting.chain, 0.0, START_VARIANCE, *table) for table in (best, tables)]
    ends = [(means[-1], variances[-1]) for means, variances in laws]
    assert chains.wasserstein(*ends[0], *ends[1]) < 0.05
    assert abs(achieved / value - 1) < 0.02
    assert int(state.skips.total) == 0 and metrics["reward/finite"].all()


def test_the_paths_of_a_pair_share_their_start():
    """Over 1e-6 of time nothing moves by more than 5 sqrt(2e-6) (false alarm 1e-5): the ends of a
    pair are as near, and those of two pairs are not."""
    setting, seen = make_setting(1), []
    grid = jnp.asarray([0.0, 1e-6])
    problem = eqx.tree_at(
        lambda p: (p.grid, p.reward_fn), setting.problem, (grid, lambda x: x[:, 0])
    )

    def annotator(key, first, second, batch):
        jax.debug.callback(lambda *rewards: seen.append(rewards), first, second)
        return first > second

    algorithm = make_online_preference(
        problem, setting.problem.reference, cosine(1e-3, 2), dpo, annotator=annotator
    )
    jax.block_until_ready(jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)), one_prompt(8)))
    jax.effects_barrier()
    first, second = (np.asarray(rewards) for rewards in seen[0])
    assert 0 < np.abs(first - second).max() < 0.01
    assert first.std() > 0.2


def test_padding_and_its_rewards_change_nothing():
    algorithm, state, batch = start()
    step = jax.jit(algorithm.step)
    state, _ = step(state, batch)  # away from the zero of the log-ratios
    padded = Batch(jnp.concatenate([batch.weights, jnp.zeros(8)]))
    _, expected = step(state, batch)
    _, found = jax.jit(algorithm.step)(state, padded)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_annotators_outside_jax_are_asked_between_two_programs():
    """Rewards by NumPy of both ends of every pair: the step is learning from what was collected."""
    algorithm, state, batch = start()
    rollouts = jax.jit(algorithm.collect)(state, batch)
    ends = [np.asarray(rollout.states[-1])[:, 0] for rollout in rollouts]
    rewards = [-CURVATURE / 2 * (end - TARGET) ** 2 for end in ends]
    found = jax.jit(algorithm.learn)(state, rollouts, rewards)
    expected = jax.jit(algorithm.step)(state, batch)
    assert bool(found[1]["update/finite"])
    chex.assert_trees_all_close(found[0].params, expected[0].params, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"average_decay": 1.5}])
def test_settings_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PreferenceUpdate(**options)
