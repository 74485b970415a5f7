"""Monte-Carlo policy gradients against the exact gradient of the discretized chain.

One step with plain gradient descent at rate one and one minibatch moves the parameters by the
surrogate's gradient over the number of solver steps. 200 independent batches of 512 give its mean
and standard error; the oracle gives the exact gradient by complex steps through the moments. Of the
12 parameters each |z| must stay below 4.5: false alarm 8e-5 per case.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms import Critic, PolicyUpdate, ValueUpdate
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler
from tests.algorithms.diffusion.steering import (
    START_VARIANCE,
    affine_policy,
    make_algorithm,
    make_setting,
    one_prompt,
    quadratic_value,
)
from tests.oracles import chains

STEPS, BATCH, BATCHES = 6, 512, 200
SLOPE, INTERCEPT = np.linspace(-0.3, 0.1, STEPS), np.linspace(0.4, 0.1, STEPS)
ONCE = PolicyUpdate(1, 1), ValueUpdate(1, 1)


def estimates(name, setting, critic, batch=None, **options):
    """The step's estimates of dJ/d(intercept, slope), (BATCHES, 2 * STEPS)."""
    policy = affine_policy(setting.problem, SLOPE, INTERCEPT)
    value = quadratic_value(setting.problem, critic)
    update, of_value = ONCE
    critic = None if critic is None else Critic(value, optax.sgd(0.0), of_value)
    algorithm = make_algorithm(
        name, setting.problem, policy, optax.sgd(1.0), critic, update, **options
    )
    batch = one_prompt(BATCH) if batch is None else batch

    def one(key):
        state = algorithm.init(key)
        moved, _ = algorithm.step(state, batch)
        change = jax.tree.map(lambda a, b: a - b, moved.policy.params, state.policy.params)
        return STEPS * jnp.concatenate([change["slope"], change["intercept"]])

    keys = jax.random.split(jax.random.key(0), BATCHES)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))(keys), float)


def worst_z(samples, exact):
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    # Estimates without sampling noise are compared to the rounding of float32 instead.
    error = np.hypot(error, 1e-5 * np.abs(exact).max())
    return np.abs((samples.mean(axis=0) - exact) / error).max()


WRONG = tuple(np.full(STEPS + 1, c) for c in (0.3, -0.8, 0.4))
CASES = {
    # name, critic, options
    "policy_gradient": ("policy_gradient", "exact", {"trace": 0.5}),
    "policy_gradient, wrong value": ("policy_gradient", WRONG, {"trace": 1.0}),
    "ppo": ("ppo", "exact", {"trace": 0.0, "control_variate": False}),
    "ppo, control variate": ("ppo", "exact", {"trace": 0.9, "control_variate": True}),
    "ppo, control variate, wrong value": ("ppo", WRONG, {"trace": 1.0, "control_variate": True}),
    "value_gradient": ("value_gradient", "exact", {}),
    "value_gradient, no value": ("value_gradient", None, {}),
}


# Quick are every algorithm, the exact value and a wrong one, and both solvers.
MORE = [
    ("ppo", ExponentialEuler()),
    ("policy_gradient, wrong value", ExponentialEuler()),
    ("ppo, control variate", ExponentialEuler()),
    ("value_gradient", EulerMaruyama()),
]


@pytest.mark.parametrize(
    ("case", "solver"),
    [
        ("policy_gradient", ExponentialEuler()),
        ("ppo, control variate", EulerMaruyama()),
        ("ppo, control variate, wrong value", ExponentialEuler()),
        ("value_gradient", ExponentialEuler()),
        ("value_gradient, no value", EulerMaruyama()),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE),
    ],
)
def test_the_mean_gradient_is_exact(case, solver):
    name, critic, options = CASES[case]
    setting = make_setting(STEPS, solver=solver)
    point = (setting.chain, setting.goal, START_VARIANCE, SLOPE, INTERCEPT)
    exact = np.concatenate(chains.objective_gradient(*point))
    if critic == "exact":
        critic = chains.values(setting.chain, setting.goal, SLOPE, INTERCEPT)
    samples = estimates(name, setting, critic, **options)
    assert worst_z(samples, exact) < 4.5
    # The test can tell: without the penalty's direct term, or half of it, it would fail.
    direct = np.concatenate(chains.penalty_gradient(*point))
    assert worst_z(samples, exact - direct / 2) > 10


def test_dpok_is_exact_but_for_its_own_baseline():
    """The batch mean as baseline contains each trajectory's own return: the score-function part
    shrinks by 1 - 1/batch exactly, the penalty's direct part does not."""
    setting = make_setting(STEPS)
    point = (setting.chain, setting.goal, START_VARIANCE, SLOPE, INTERCEPT)
    exact, direct = (
        np.concatenate(f(*point)) for f in (chains.objective_gradient, chains.penalty_gradient)
    )
    samples = estimates("dpok", setting, None)
    assert worst_z(samples, direct + (exact - direct) * (1 - 1 / BATCH)) < 4.5


def test_grpo_is_exact_in_groups_of_two():
    """Compared with the others: with the mean of the group, its own reward among them, the
    score-function part would be half of itself, and the penalty's direct part not."""
    setting = make_setting(STEPS)
    point = (setting.chain, setting.goal, START_VARIANCE, SLOPE, INTERCEPT)
    exact, direct = (
        np.concatenate(f(*point)) for f in (chains.objective_gradient, chains.penalty_gradient)
    )
    batch = one_prompt(BATCH // 2)._replace(prompts=jnp.arange(BATCH // 2) // 2)
    samples = estimates("grpo", setting, None, batch, scale="none")
    assert worst_z(samples, exact) < 4.5
    assert worst_z(samples, direct + (exact - direct) / 2) > 10


def test_the_oracles_gradient_vanishes_at_its_optimum():
    setting = make_setting(STEPS)
    best = chains.optimum(setting.chain, setting.goal)
    gradient = chains.objective_gradient(setting.chain, setting.goal, START_VARIANCE, *best)
    np.testing.assert_allclose(np.concatenate(gradient), 0.0, atol=1e-14)
    value = chains.objective(setting.chain, setting.goal, START_VARIANCE, *best)
    c0, _, c2 = (c[0] for c in chains.values(setting.chain, setting.goal, *best))
    np.testing.assert_allclose(c0 + c2 * START_VARIANCE, value, rtol=1e-12)
