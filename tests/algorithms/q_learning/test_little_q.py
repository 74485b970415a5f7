"""Little q-learning on O4: the optimum of the chain is reached, by SDE and flow, online and batch.

What is learned is affine, so its law and its objective on the chain follow from moments without
sampling noise (`oracles.chains`). The score is exact here; estimates are in `test_q_estimates`.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch, QLearningConfig, RewardDirection, make_q_learning
from ctrl_jax.algorithms.q_learning.episodes import run_episodes
from ctrl_jax.processes import grids
from ctrl_jax.rewards import weighted
from ctrl_jax.solvers import ExponentialEuler
from tests.algorithms.diffusion.steering import (
    CURVATURE,
    LIMIT,
    MEAN,
    ORACLE,
    PROCESS,
    START_VARIANCE,
    TARGET,
    VARIANCE,
    cosine,
    make_setting,
    one_prompt,
    quadratic_value,
)
from tests.algorithms.q_learning.directed import (
    FLOW_LIMIT,
    TEMPERATURE,
    WEIGHT,
    deviation_tables,
    environment,
    make_direction,
    smooth_policy,
    smooth_value,
)
from tests.oracles import chains

STEPS = 48
WHOLE = {"estimator": "gradient", "trace": 1.0, "epochs": 4}


def build(problem, *, updates=150, rate=3e-2, value_rate=1e-1, **options):
    config = QLearningConfig(**options)
    per_update = config.epochs * (problem.steps if config.online else 1)
    policy, value = smooth_policy(environment().score), smooth_value()
    adam, value_adam = (cosine(r, updates * per_update) for r in (rate, value_rate))
    return policy, make_q_learning(problem, policy, value, adam, value_adam, config)


@pytest.mark.parametrize("online", [False, True])
def test_parts_of_a_reward_are_in_the_metrics(online):
    reward = weighted({"near": (lambda x: x[:, 0], 2.0), "far": (lambda x: x[:, 0] ** 2, -1.0)})
    problem = eqx.tree_at(lambda p: p.reward_fn, make_direction(3), reward)
    algorithm = build(problem, updates=1, online=online)[1]
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    metrics = jax.eval_shape(algorithm.step, state, one_prompt(4))[1]
    assert {"reward/mean", "reward/near/mean", "reward/far/std"} < metrics.keys()


def train(problem, *, updates=150, batch=256, **options):
    policy, algorithm = build(problem, updates=updates, **options)

    @jax.jit
    def run(key):
        def body(state, _):
            return algorithm.step(state, one_prompt(batch))

        return jax.lax.scan(body, algorithm.init(key), None, updates)

    state, metrics = run(jax.random.key(0))
    return state, metrics, deviation_tables(problem, policy, state.policy.params)


@pytest.fixture(scope="module")
def whole():
    """Trained on whole episodes."""
    return train(make_direction(STEPS), **WHOLE)


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
def test_the_optimum_is_reached(options, whole):
    trained = whole if options is WHOLE else train(make_direction(STEPS), **options)
    state, metrics, tables = trained
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
    assert int(state.skips.total) == 0 and metrics["states/finite"].all()


def path_kl_of(chain, gap, means, variances):
    m, v = means[:-1], variances[:-1]
    return np.sum(chain.rate * ((gap[0] * m + gap[1]) ** 2 + gap[0] ** 2 * v)) / 2


def test_the_value_is_learned_too(whole):
    """J(0, y) of the chain from the start law: w E h - penalty + entropy, all exact at the tables
    that were learned; and near the value of continuous time at y = .5."""
    problem, (state, metrics, tables) = make_direction(STEPS), whole
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
    center = smooth_value().apply(state.value.params, jnp.asarray(3.0), jnp.asarray([[0.5]]))
    assert abs(float(center[0]) - -1.576045) < 0.1
    # What the metrics say of the last batch is the same up to its sampling noise, 4.5 standard
    # errors of a mean of 256 rewards.
    error = 4.5 * WEIGHT * float(metrics["reward/std"][-1]) / 16
    assert abs(float(metrics["objective"][-1]) - exact) < error + 0.02


def test_the_probability_flow_reaches_its_own_optimum():
    problem = make_direction(STEPS, probability_flow=True)
    _, _, tables = train(problem, batch=128, **WHOLE)
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


UPDATES, UNIFORM = 200, 20


class Point(NamedTuple):
    """A policy, its exact value on the chain, and the exact gradient of w times the objective."""

    problem: RewardDirection
    policy: Model
    value: Model
    gradient: np.ndarray


def exact_point():
    """On a uniform grid the noise of the actions widens every step by the same 1 + theta dt / 2:
    a chain with that noise and a penalty higher by as much has the same penalized objective."""
    problem = make_direction(UNIFORM, grid=grids.uniform(PROCESS, UNIFORM, end=0.0))
    times = np.asarray(problem.forward_times(), float)
    plain = chains.euler_maruyama(ORACLE, times, MEAN, VARIANCE)
    wider = 1 + TEMPERATURE * (times[0] - times[1]) / 2
    chain = plain._replace(std=plain.std * np.sqrt(wider))
    goal = chains.Goal(CURVATURE, TARGET, 2 / WEIGHT * wider)
    start = {"slope": jnp.asarray([-0.1, 0.2]), "intercept": jnp.asarray([0.3, -0.1])}
    policy = smooth_policy(environment().score, 1)._replace(init=lambda key: start)
    tables = deviation_tables(problem, policy, start)
    steps = problem.coefficients()
    entropy = steps.dt * TEMPERATURE / 2 * jnp.log(jnp.pi * TEMPERATURE / steps.rate)
    to_go = np.append(np.cumsum(np.asarray(entropy, float)[::-1])[::-1], 0.0)
    c0, c1, c2 = (WEIGHT * c for c in chains.values(chain, goal, *tables))
    value = quadratic_value(problem, (c0 + to_go, c1, c2))  # pyright: ignore
    u = 2 * times[:-1] / PROCESS.horizon - 1
    basis = np.stack([np.ones_like(u), u])
    slopes = chains.objective_gradient(chain, goal, START_VARIANCE, *tables)
    return Point(problem, policy, value, np.concatenate([WEIGHT * basis @ g for g in slopes]))


@pytest.fixture(scope="module")
def point():
    return exact_point()


@pytest.fixture(scope="module")
def updates(point):
    """Updates of policy (four) and value by each estimator, over independent batches of 64."""

    def estimates(estimator):
        config = QLearningConfig(estimator=estimator)
        models = (point.problem, point.policy, point.value)
        algorithm = make_q_learning(*models, optax.sgd(1.0), optax.sgd(1.0), config)

        def one(key):
            start = algorithm.init(key)
            moved, _ = algorithm.step(start, one_prompt(64))
            policy, value = (
                jax.tree.map(jnp.subtract, getattr(moved, name).params, getattr(start, name).params)
                for name in ("policy", "value")
            )
            # Of the value's tables, the sums over time.
            sums = [jnp.sum(value[name]) for name in ("c0", "c1", "c2")]
            return jnp.concatenate([policy["slope"], policy["intercept"], jnp.stack(sums)])

        keys = jax.random.split(jax.random.key(len(estimator)), UPDATES)
        return np.asarray(jax.jit(lambda k: jax.lax.map(one, k, batch_size=20))(keys), float)

    return {name: estimates(name) for name in ("difference", "pathwise", "gradient")}


@pytest.mark.parametrize("name", ["difference", "pathwise", "gradient"])
def test_the_mean_update_is_the_exact_gradient_at_the_exact_value(point, updates, name):
    """And that of the value is zero: z-tests of seven means at |z| < 4.5, false alarm 5e-5."""
    mean, error = updates[name].mean(axis=0), updates[name].std(axis=0) / np.sqrt(UPDATES)
    exact = np.concatenate([point.gradient, np.zeros(3)])
    assert (np.abs(mean - exact) < 4.5 * error).all(), (mean - exact) / error
    assert (np.abs(point.gradient) > 10 * error[:4]).any(), "the test can tell it from zero"


def test_removing_noise_removes_variance(updates):
    """Of all updates the noise of the state, of the policy's that of the actions too."""
    plain, pathwise, closed = (values.std(axis=0) for values in updates.values())
    assert (pathwise < 0.7 * plain).all(), pathwise / plain
    assert (closed[:4] < 0.7 * pathwise[:4]).all(), closed / pathwise


BATCH = 8
WRONG: Any = "exact"


ONLINE = pytest.param(True, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[False, ONLINE], ids=["whole", "online"])
def compiled(request):
    whole = QLearningConfig(epochs=2, trace=0.5)
    config = QLearningConfig(online=True) if request.param else whole
    models = smooth_policy(environment().score), smooth_value()
    # Not Adam, whose first steps have the size of the rate whatever the gradient's rounding.
    optimizers = optax.sgd(1e-3), optax.sgd(1e-3)
    algorithm = make_q_learning(make_direction(4), *models, *optimizers, config)
    return algorithm, jax.jit(algorithm.step)


def test_padding_changes_nothing(compiled):
    """Rows of weight zero, and whatever the reward says of them."""
    algorithm, step = compiled
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

    @jax.jit
    def states(batch):
        return run_episodes(jax.random.key(2), problem, policy, params, batch).transitions.states

    many, few = (np.asarray(states(one_prompt(size))) for size in (8, 3))
    np.testing.assert_allclose(many[:, :3], few, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QLearningConfig(epochs=0), "epochs: received 0"),
        (
            lambda: QLearningConfig(estimator=WRONG),
            "estimator: .* give difference.pathwise.gradient",
        ),
        (lambda: QLearningConfig(trace=1.5), r"trace: received 1\.5"),
        (
            lambda: QLearningConfig(online=True, epochs=2),
            "epochs: received 2; online",
        ),
        (lambda: make_direction(4, solver=ExponentialEuler(eta=0.0)), "solver: .*must be Euler"),
    ],
)
def test_bad_settings_are_named(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scores_and_rewards_of_a_wrong_shape_are_named():
    problem = make_direction(3, estimate=lambda key, t, x: x[:, 0])
    _, algorithm = build(problem)
    with pytest.raises(
        ValueError, match=r"the estimate's shape: received .*; it must be x's shape \(4, 1\)"
    ):
        jax.eval_shape(algorithm.step, algorithm.init(jax.random.key(0)), one_prompt(4))
