"""Little q-learning on O4: the optimum of the chain is reached, by SDE and flow, online and batch.

What is learned is affine, so its law and its objective on the chain follow from moments without
sampling noise (`oracles.chains`). The score is exact here; estimates are in `test_q_estimates`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms import Batch, QLearningConfig, make_q_learning
from ctrl_jax.algorithms.reward_direction import run_episodes
from ctrl_jax.solvers import ExponentialEuler
from tests.algorithms.directed import (
    FLOW_LIMIT,
    TEMPERATURE,
    WEIGHT,
    deviation_tables,
    environment,
    make_direction,
    smooth_policy,
    smooth_value,
)
from tests.algorithms.steering import (
    LIMIT,
    MEAN,
    ORACLE,
    START_VARIANCE,
    VARIANCE,
    cosine,
    make_setting,
    one_prompt,
)
from tests.oracles import chains

STEPS = 48
WHOLE = {"estimator": "gradient", "trace": 1.0, "epochs": 4}


def build(problem, *, updates=150, rate=3e-2, value_rate=1e-1, **options):
    config = QLearningConfig(**options)
    per_update = config.epochs * (problem.steps if config.online else 1)
    policy, value = smooth_policy(environment().score), smooth_value()
    schedules = (cosine(r, updates * per_update) for r in (rate, value_rate))
    return policy, make_q_learning(problem, policy, value, *schedules, config)


def train(problem, *, updates=150, batch=256, **options):
    policy, algorithm = build(problem, updates=updates, **options)

    @jax.jit
    def run(key):
        def body(state, _):
            return algorithm.step(state, one_prompt(batch))

        return jax.lax.scan(body, algorithm.init(key), None, updates)

    state, metrics = run(jax.random.key(0))
    return state, metrics, deviation_tables(problem, policy, state.policy.params)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(WHOLE, id="whole episodes"),
        # The paper's own form: plain residuals, an update after every step.
        pytest.param(
            {
                "estimator": "difference",
                "online": True,
                "updates": 800,
                "rate": 3e-3,
                "value_rate": 3e-2,
            },
            id="online",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"estimator": "gradient", "online": True, "updates": 800, "rate": 1e-2,
             "value_rate": 3e-2}, id="online, gradient", marks=pytest.mark.slow
        ),
    ],
)  # fmt: skip
def test_the_optimum_is_reached(options):
    state, metrics, tables = train(make_direction(STEPS), **options)
    setting = make_setting(STEPS, end=1e-3, penalty=2 / WEIGHT, solver=make_direction(2).solver)
    best = chains.optimum(setting.chain, setting.goal)
    means, variances = chains.laws(setting.chain, 0.0, START_VARIANCE, *tables)
    assert chains.wasserstein(means[-1], variances[-1], *LIMIT) < 0.05
    achieved, optimal = (
        chains.objective(setting.chain, setting.goal, START_VARIANCE, *t) for t in (tables, best)
    )
    assert 0 <= optimal - achieved < 0.01 * abs(optimal)
    # The mean against the chain's optimal one, over the visited states, in nats of the path.
    gap = [mine - exact for mine, exact in zip(tables, best, strict=True)]
    assert path_kl_of(setting.chain, gap, means, variances) < 0.01
    assert int(state.skipped) == 0 and metrics["states/finite"].all()


def path_kl_of(chain, gap, means, variances):
    m, v = means[:-1], variances[:-1]
    return np.sum(chain.rate * ((gap[0] * m + gap[1]) ** 2 + gap[0] ** 2 * v)) / 2


def test_the_value_is_learned_too():
    """J(0, y) of the chain from the start law: w E h - penalty + entropy, all exact at the tables
    that were learned; and near the value of continuous time at y = .5."""
    problem = make_direction(STEPS)
    state, metrics, tables = train(problem, **WHOLE)
    setting = make_setting(STEPS, end=1e-3, penalty=2 / WEIGHT, solver=problem.solver)
    steps = problem.coefficients()
    entropy = float(
        jnp.sum(steps.dt * TEMPERATURE / 2 * jnp.log(jnp.pi * TEMPERATURE / steps.rate))
    )
    exact = WEIGHT * chains.objective(setting.chain, setting.goal, START_VARIANCE, *tables)
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    starts = jnp.asarray(np.sqrt(START_VARIANCE) * nodes, jnp.float32)[:, None]
    values = smooth_value().apply(state.value.params, jnp.asarray(3.0), starts)
    learned = float(np.sum(weights * np.asarray(values)) / np.sum(weights))
    assert abs(learned - (exact + entropy)) < 0.03
    centre = smooth_value().apply(state.value.params, jnp.asarray(3.0), jnp.asarray([[0.5]]))
    assert abs(float(centre[0]) - -1.576045) < 0.1
    # What the metrics say of the last batch is the same up to its sampling noise, 4.5 standard
    # errors of a mean of 256 rewards.
    error = 4.5 * WEIGHT * float(metrics["reward/std"][-1]) / 16
    assert abs(float(metrics["objective"][-1]) - exact) < error + 0.02


def test_the_probability_flow_reaches_its_own_optimum():
    problem = make_direction(64, probability_flow=True)
    _, _, tables = train(problem, **WHOLE)
    times = np.asarray(problem.forward_times(), float)[:-1]
    kernel = (np.asarray(c, float) for c in problem.coefficients().kernel)
    chain = chains.affine_chain(kernel, chains.gaussian_score(ORACLE, times, MEAN, VARIANCE))
    means, variances = chains.laws(chain, 0.0, START_VARIANCE, *tables)
    assert chains.wasserstein(means[-1], variances[-1], *FLOW_LIMIT) < 0.05
    assert chains.wasserstein(means[-1], variances[-1], *LIMIT) > 0.09, "it is not the tilt"


def test_few_exponential_steps_on_sde_and_flow_are_consistent():
    """Coefficients of both samplers against their limits: g^2 dt, half of it, and the noise."""
    for flow, gain, noise in ((False, 1.0, 1.0), (True, 0.5, 0.0)):
        problem = make_direction(2000, solver=ExponentialEuler(), probability_flow=flow, end=0.1)
        steps = problem.coefficients()
        spent = problem.process.diffusion(steps.time) ** 2 * steps.dt
        np.testing.assert_allclose(steps.rate * steps.dt, spent, rtol=1e-2)
        np.testing.assert_allclose(steps.kernel.action_gain, gain * spent, rtol=2e-2)
        np.testing.assert_allclose(steps.kernel.std**2, noise * spent, rtol=2e-2)


UPDATES = 200


@pytest.fixture(scope="module")
def gradients():
    """Updates of policy and value by each estimator at one point, over independent batches."""
    problem = make_direction(24)
    policy, value = smooth_policy(environment().score, 1), smooth_value(1)
    start = {"slope": jnp.asarray([-0.1, 0.2]), "intercept": jnp.asarray([0.3, -0.1])}
    wrong = {
        "c0": jnp.asarray([-1.0, 0.2]),
        "c1": jnp.asarray([1.0, -0.3]),
        "c2": jnp.asarray([-0.4, 0.2]),
    }
    policy, value = policy._replace(init=lambda k: start), value._replace(init=lambda k: wrong)

    def estimates(estimator):
        config = QLearningConfig(estimator=estimator)
        algorithm = make_q_learning(problem, policy, value, optax.sgd(1.0), optax.sgd(1.0), config)

        def one(key):
            moved, _ = algorithm.step(algorithm.init(key), one_prompt(64))
            return jnp.concatenate(
                [
                    *(moved.policy.params[k] - start[k] for k in start),
                    *(moved.value.params[k] - wrong[k] for k in wrong),
                ]
            )

        keys = jax.random.split(jax.random.key(len(estimator)), UPDATES)
        return np.asarray(jax.jit(lambda k: jax.lax.map(one, k, batch_size=20))(keys), float)

    return {name: estimates(name) for name in ("difference", "pathwise", "gradient")}


def test_removing_noise_moves_no_mean(gradients):
    """Ten means each of pathwise and gradient against difference: |z| < 4.5, false alarm 1e-4."""
    plain = gradients["difference"]
    for name in ("pathwise", "gradient"):
        other = gradients[name]
        error = np.sqrt((plain.var(axis=0, ddof=1) + other.var(axis=0, ddof=1)) / UPDATES)
        z = np.abs(plain.mean(axis=0) - other.mean(axis=0)) / error
        assert (z < 4.5).all(), (name, z)
    # The means are there to be told apart: the closed form knows the policy's to a few percent.
    closed = gradients["gradient"][:, :4]
    assert (np.abs(closed.mean(axis=0)) > 10 * closed.std(axis=0) / np.sqrt(UPDATES)).any()


def test_removing_noise_removes_variance(gradients):
    """The value's updates without the state's noise, the policy's without the action's."""
    plain, pathwise, closed = (gradients[n].std(axis=0) for n in gradients)
    assert (pathwise[4:] < 0.8 * plain[4:]).all()
    assert (closed[:4] < 0.3 * plain[:4]).all()


BATCH = 8


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "online"])
def compiled(request):
    options = {"online": True} if request.param else {"epochs": 2, "trace": 0.5}
    _, algorithm = build(make_direction(4), **options)
    traces = []

    def step(state, batch):
        traces.append(1)
        return algorithm.step(state, batch)

    return algorithm, jax.jit(step, donate_argnums=0), traces


def test_one_trace_donated_buffers_and_no_host(compiled):
    algorithm, step, traces = compiled
    state = algorithm.init(jax.random.key(0))
    for update in range(3):
        old = state
        state, metrics = step(state, one_prompt(BATCH))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
        assert int(state.update) == update + 1
        assert all(m.shape == () and np.isfinite(float(m)) for m in metrics.values()), metrics
    assert len(traces) == 1
    text = step.lower(algorithm.init(jax.random.key(0)), one_prompt(BATCH)).as_text()
    assert "callback" not in text


def test_vmap_over_seeds_is_separate_runs_in_one_trace(compiled):
    algorithm, _, _ = compiled
    keys, traces = jax.random.split(jax.random.key(3), 3), []

    def run(key):
        traces.append(1)
        return algorithm.step(algorithm.init(key), one_prompt(BATCH))[0].policy.params

    together = jax.jit(jax.vmap(run))(keys)
    assert len(traces) == 1
    alone = jax.jit(run)(keys[1])
    jax.tree.map(
        # Adam's first steps divide by the gradient's own size: rounding is relative to 3e-2.
        lambda a, b: np.testing.assert_allclose(a[1], b, atol=5e-5),
        together,
        alone,
    )


def test_padding_changes_nothing(compiled):
    """Rows of weight zero, and whatever the reward says of them."""
    algorithm, step, _ = compiled
    short = step(algorithm.init(jax.random.key(1)), one_prompt(BATCH // 2))
    weights = jnp.concatenate([jnp.ones(BATCH // 2), jnp.zeros(BATCH // 2)])
    padded = step(algorithm.init(jax.random.key(1)), Batch(weights))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        short[0].policy.params,
        padded[0].policy.params,
    )


def test_an_episode_knows_nothing_of_its_batch_mates():
    problem, policy = make_direction(4), smooth_policy(environment().score)
    params = policy.init(jax.random.key(0))

    def states(size):
        batch = one_prompt(size)
        return run_episodes(jax.random.key(2), problem, policy, params, batch).transitions.states

    np.testing.assert_allclose(states(8)[:, :3], states(3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QLearningConfig(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: QLearningConfig(estimator="exact"), "estimator must be difference, pathwise"),
        (lambda: QLearningConfig(trace=1.5), r"trace must lie in \[0, 1\], got 1.5"),
        (lambda: QLearningConfig(online=True, epochs=2), "epochs must be 1 and trace 0, got 2"),
        (lambda: make_direction(4, solver=ExponentialEuler(eta=0.0)), "solver must be Euler"),
    ],
)
def test_bad_settings_are_named(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scores_and_rewards_of_a_wrong_shape_are_named():
    problem = make_direction(3, estimate=lambda key, t, x: x[:, 0])
    _, algorithm = build(problem)
    with pytest.raises(ValueError, match=r"estimate must return an array of x's shape \(4, 1\)"):
        algorithm.step(algorithm.init(jax.random.key(0)), one_prompt(4))
