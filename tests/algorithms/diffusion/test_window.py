"""A window of noise: where it is, what is stored of it, and the gradient that it gives.

The chain with noise in the window alone is affine and Gaussian, so `oracles.chains` knows its
objective; the gradient at a placement is that objective's in the tables of the window's steps.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    Critic,
    DiffusionControl,
    PolicyUpdate,
    Window,
    make_dpok,
    make_grpo,
    make_online_preference,
    roll_out,
)
from ctrl_jax.processes import RectifiedFlow, grids
from ctrl_jax.solvers import EulerMaruyama
from tests.algorithms.diffusion.steering import (
    MEAN,
    ORACLE,
    START_VARIANCE,
    VARIANCE,
    affine_policy,
    make_algorithm,
    make_setting,
    one_prompt,
    quadratic_value,
)
from tests.oracles import chains

STEPS, LENGTH = 5, 2
any_name: Any = "often"
SLOPE, INTERCEPT = np.linspace(-0.3, 0.1, STEPS), np.linspace(0.4, 0.1, STEPS)


def with_window(window, **changed):
    setting = make_setting(STEPS, **changed)
    return setting._replace(problem=dataclasses.replace(setting.problem, window=window))


@pytest.fixture(scope="module")
def drawn():
    """A rollout of every fixed placement, and one without a window, by one program."""
    problems = [with_window(Window(LENGTH, p, placed="fixed")).problem for p in range(STEPS - 1)]
    problems.append(make_setting(STEPS).problem)
    policy = affine_policy(problems[0], SLOPE, INTERCEPT)

    @jax.jit
    def run(key):
        params = policy.init(key)
        return [roll_out(key, p, policy, params, (), one_prompt(6)) for p in problems]

    *windows, whole = run(jax.random.key(0))
    return problems[-1], windows, whole


def test_a_rollout_is_the_chain_with_noise_in_the_window_alone(drawn):
    problem, windows, whole = drawn
    noisy: Any = jax.tree.map(np.asarray, problem.kernel())
    certain: Any = jax.tree.map(np.asarray, problem.certain_kernel())
    assert (certain.std == 0).all()
    times = np.asarray(problem.forward_times(), float)
    score = chains.gaussian_score(ORACLE, times[:-1], MEAN, VARIANCE)
    for place, rollout in enumerate(windows):
        x, states = np.asarray(whole.states[0], float), []
        for i in range(STEPS):
            inside = place <= i < place + LENGTH
            kernel = noisy if inside else certain
            states += [x] if inside else []
            action = (score[0][i] + SLOPE[i]) * x + score[1][i] + INTERCEPT[i]
            # The noise of a step is that of the same step without a window.
            noise = kernel.std[i] * np.asarray(whole.noise[i])
            x = kernel.state_gain[i] * x + kernel.action_gain[i] * action + noise
        np.testing.assert_allclose(rollout.states, [*states, x], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(rollout.noise, whole.noise[place : place + LENGTH])
        np.testing.assert_allclose(rollout.times, times[place : place + LENGTH], rtol=1e-6)
        for found, all_steps in zip(rollout.kernel, noisy, strict=True):
            np.testing.assert_allclose(found, all_steps[place : place + LENGTH], rtol=1e-5)


def test_only_the_windows_steps_are_stored_and_priced(drawn):
    _, windows, whole = drawn
    for rollout in windows:
        assert rollout.states.shape == (LENGTH + 1, 6, 1)
        assert rollout.actions.shape == rollout.reference.shape == (LENGTH, 6, 1)
        rate = np.square(rollout.kernel.action_gain / rollout.kernel.std)[:, None]
        moved = np.asarray(rollout.actions - rollout.reference, float)[..., 0]
        np.testing.assert_allclose(rollout.kl, rate * moved**2 / 2, rtol=1e-3)
        assert rollout.kl.shape == (LENGTH, 6)
    assert whole.kl.shape == (STEPS, 6)
    # A step is priced alike with a window or without: the first one, from the same start.
    np.testing.assert_allclose(windows[0].kl[0], whole.kl[0], rtol=1e-4)


def test_a_window_of_all_steps_is_none(drawn):
    problem, _, whole = drawn
    policy = affine_policy(problem, SLOPE, INTERCEPT)
    problem = dataclasses.replace(problem, window=Window(STEPS))
    run = jax.jit(lambda key: roll_out(key, problem, policy, policy.init(key), (), one_prompt(6)))
    found = run(jax.random.key(0))
    for name in ("states", "noise", "actions", "kl"):
        a, b = getattr(found, name), getattr(whole, name)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


def test_places():
    """Random ones are uniform: of 3000 draws each of 3 has 1000 +- 26; 5 std miss once in 6e5."""
    random, keys = Window(2, 1, 5), jax.random.split(jax.random.key(0), 3000)
    places = jax.vmap(lambda key: random.place(key, 0, 8))(keys)
    counts = np.bincount(places, minlength=8)
    assert counts.sum() == counts[1:4].sum() and np.abs(counts[1:4] - 1000).max() < 5 * 26
    sliding = Window(2, 1, 5, placed="sliding", every=2)
    found = [int(sliding.place(keys[0], update, 8)) for update in range(8)]
    assert found == [1, 1, 2, 2, 3, 3, 1, 1]
    assert int(Window(2, 3, placed="fixed").place(keys[0], 7, 8)) == 3


def test_a_sliding_window_follows_the_updates_in_one_program():
    problem = with_window(Window(1, placed="sliding")).problem
    policy = affine_policy(problem)
    algorithm = make_dpok(problem, policy, optax.sgd(0.1), update=PolicyUpdate(minibatches=1))
    step: Any = jax.jit(algorithm.step)
    state, moved = algorithm.init(jax.random.key(0)), []
    for _ in range(3):
        before = state.policy.params["slope"]
        state, metrics = step(state, one_prompt(8))
        moved.append(np.nonzero(np.asarray(state.policy.params["slope"] != before))[0].tolist())
        assert float(metrics["ratio/max_deviation"]) == 0.0
    assert moved == [[0], [1], [2]]
    assert step._cache_size() == 1


def test_the_mean_gradient_at_every_place_is_that_of_its_chain():
    """200 batches of 512, the place drawn for each, about 50 a place; |z| < 4.5 of 16 numbers is a
    false alarm in 1e-4. A step's expected gradient is then the mean of these over the places, 0
    where the window is elsewhere."""
    setting = with_window(Window(LENGTH))
    policy = affine_policy(setting.problem, SLOPE, INTERCEPT)
    update = PolicyUpdate(minibatches=1)
    algorithm = make_grpo(setting.problem, policy, optax.sgd(1.0), scale="none", update=update)

    def one(key):
        state = algorithm.init(key)
        moved, _ = algorithm.step(state, one_prompt(512))
        change = jax.tree.map(jnp.subtract, moved.policy.params, state.policy.params)
        return LENGTH * jnp.stack([change["slope"], change["intercept"]])

    keys = jax.random.split(jax.random.key(0), 200)
    samples = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))(keys), float)
    found = np.argmax((samples != 0).any(axis=1), axis=1)
    times = np.asarray(setting.problem.forward_times(), float)
    noisy, certain = (
        chains.exponential_euler(ORACLE, times, MEAN, VARIANCE, eta=eta) for eta in (1.0, 0.0)
    )
    point = setting.goal, START_VARIANCE, SLOPE, INTERCEPT
    whole, worst = np.array(chains.objective_gradient(noisy, *point)), 0.0
    for place in range(STEPS - LENGTH + 1):
        inside = np.arange(place, place + LENGTH)
        here = samples[found == place]
        assert (np.delete(here, inside, axis=2) == 0).all()
        chain = chains.with_window(noisy, certain, place, LENGTH)
        exact = np.array(chains.objective_gradient(chain, *point))
        mean, error = here.mean(axis=0), here.std(axis=0, ddof=1) / np.sqrt(len(here))
        assert np.abs((mean - exact)[:, inside] / error[:, inside]).max() < 4.5
        worst = max(worst, np.abs((mean - whole)[:, inside] / error[:, inside]).max())
    # It can tell: with noise in all steps the gradient is another.
    assert worst > 10


def test_a_flow_starts_from_noise_alone_where_its_first_step_is_certain():
    """Euler's step from t = 1 has no finite noise; a window after it needs none."""
    process, model = RectifiedFlow(), Model(lambda key: (), lambda params, t, x: 0.5 * x)
    parts = {"reward_fn": lambda x: x[:, 0], "shape": (1,), "grid": grids.uniform(process, 4)}
    make = partial(
        DiffusionControl, process, model, penalty=0.0, solver=EulerMaruyama(), prediction="data"
    )
    with pytest.raises(ValueError, match=r"solver: received 'EulerMaruyama'"):
        make(**parts, window=Window(2))
    problem = make(**parts, window=Window(2, first=1))
    rollout = jax.jit(lambda key: roll_out(key, problem, model, (), (), Batch(jnp.ones(4))))(
        jax.random.key(0)
    )
    assert np.isfinite(rollout.states).all() and bool(rollout.ok.all())
    assert (np.asarray(rollout.kernel.std) > 0).all()
    for coefficients in problem.kernel():
        assert np.isfinite(coefficients).all()
    assert np.array_equal(problem.kernel().std > 0, [False, True, True, True])


@pytest.mark.parametrize("name", ["ppo", "policy_gradient", "value_gradient"])
def test_algorithms_that_need_every_step_refuse_a_window(name):
    problem = with_window(Window(LENGTH)).problem
    policy = affine_policy(problem)
    critic = Critic(quadratic_value(problem), optax.sgd(1.0))
    update = PolicyUpdate(minibatches=1)
    with pytest.raises(ValueError, match=r"problem.window: received Window\(.* take make_grpo"):
        make_algorithm(name, problem, policy, optax.sgd(1.0), critic, update)
    with pytest.raises(ValueError, match=r"problem.window: .* whole paths needs noise"):
        make_online_preference(problem, policy, optax.sgd(1.0), lambda w, r, b: w)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Window(0), "Window.length: received 0"),
        (lambda: Window(2, first=-1), "Window.first: received -1"),
        (lambda: Window(2, placed=any_name), "Window.placed: received 'often'"),
        (lambda: Window(2, last=4, placed="fixed"), "Window.last: received 4; a fixed window"),
        (lambda: Window(2, every=3), "Window.every: received 3; it is for sliding windows"),
        (lambda: Window(3, 2, 4), "Window.last: received 4; a window of 3 steps from step 2"),
        (lambda: with_window(Window(6)), "steps of the grid: received 5; a window of 6 steps"),
        (lambda: with_window(Window(2, last=6)), "Window.last: received 6; there are 5 solver"),
    ],
)
def test_bad_windows_are_named(make, said, unchecked):
    with pytest.raises(ValueError, match=said):
        make()


def test_minibatches_divide_the_steps_of_the_window():
    problem = with_window(Window(LENGTH)).problem
    with pytest.raises(ValueError, match=r"minibatches: received 5; .* the 2 steps learned from"):
        make_grpo(problem, affine_policy(problem), optax.sgd(1.0))
