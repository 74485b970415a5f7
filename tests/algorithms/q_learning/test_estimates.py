"""Little q-learning where the score is estimated, where there are labels, and on mixtures."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    QLearningConfig,
    RewardDirection,
    known_score,
    make_q_learning,
)
from ctrl_jax.algorithms.q_learning.episodes import Transition, penalty_rates, run_episodes
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.metrics import distances
from ctrl_jax.networks import MLP, ValueMLP, as_model
from ctrl_jax.processes import DataPoints, RatioScore, grids
from ctrl_jax.solvers import EulerMaruyama, simulate
from tests.algorithms.diffusion.steering import (
    CURVATURE,
    MEAN,
    ORACLE,
    PROCESS,
    START_VARIANCE,
    VARIANCE,
    affine_policy,
    cosine,
    make_setting,
    one_prompt,
    quadratic_value,
)
from tests.algorithms.q_learning.directed import make_direction
from tests.oracles import chains


def gaussian_points(key, shape, *conditions):
    """Fresh data: as many points as there are."""
    return MEAN + np.sqrt(VARIANCE) * jax.random.normal(key, (*shape, 1))


def test_a_product_of_two_estimates_pays_no_variance():
    """E (s - a) . (s' - a) = |E s - a|^2, where one estimate pays its variance too. Of one point
    in two coordinates that is 2 a^2 VARIANCE / v^2. z-tests of 20000 draws at |z| < 4.5 (7e-6)."""
    estimate = RatioScore(PROCESS, lambda key, shape: gaussian_points(key, (*shape, 2))[..., 0], 1)
    t, size = jnp.asarray(1.0), 20000
    x, action = jnp.full((size, 2), 0.4), jnp.full((1, size, 2), -0.2)
    drawn = jax.jit(lambda key: estimate(key, t, x)[None])
    first, second = (drawn(jax.random.key(k)) for k in (0, 1))
    rate, cost = jnp.asarray([0.7]), jax.jit(penalty_rates)
    scale, std = (float(c) for c in PROCESS.marginal(t))
    mean = (scale * MEAN - 0.4) / std**2
    alone = 0.7 * 2 * ((mean + 0.2) ** 2 + scale**2 * VARIANCE / std**4)
    for twin, exact in ((second, 0.7 * 2 * (mean + 0.2) ** 2), (first, alone)):
        paid = np.asarray(cost(rate, Transition(x[None], action, first, twin, x[None]), action)[0])
        assert abs(paid.mean() - exact) < 4.5 * paid.std() / np.sqrt(size)
    problem = make_direction(3, estimate=RatioScore(PROCESS, gaussian_points, 2), paired=True)
    policy = affine_policy(make_setting(3).problem)
    params = policy.init(jax.random.key(0))
    moved = run_episodes(jax.random.key(1), problem, policy, params, one_prompt(4)).transitions
    assert not np.allclose(moved.scores, moved.twins)


REPORTED = {None: (1.41, 0.365), 20: (1.18, 0.19), 1: (0.94, 0.07)}


@pytest.mark.slow
@pytest.mark.parametrize("m", REPORTED)
def test_few_points_bias_what_is_learned(m):
    """Mean and variance at the end with the exact score, 20 points and one point.

    The three were found by other runs on an unknown grid, so they are met to .05 in the mean and
    .03 in the variance; one point to .15, since the answer there, the chain steered to a point
    mass at the data's mean, is (1.00, .014) on this grid, which the learned law approaches.
    """
    steps = 50
    grid = grids.uniform(PROCESS, steps, end=0.0)
    estimate = None if m is None else RatioScore(PROCESS, gaussian_points, m)
    problem = make_direction(steps, estimate=estimate, grid=grid)
    setting = make_setting(steps, end=1e-3, solver=EulerMaruyama())
    control = on_grid(setting.problem, grid)
    updates, config = 200, QLearningConfig(epochs=4, trace=1.0)
    mean_adam, value_adam = [cosine(rate, 4 * updates) for rate in (3e-2 if m != 1 else 1e-1, 1e-1)]
    policy, value = affine_policy(control), quadratic_value(control)
    algorithm = make_q_learning(problem, policy, value, mean_adam, value_adam, config)

    @jax.jit
    def run(key):
        def body(state, _):
            return algorithm.step(state, one_prompt(256))[0], None

        return jax.lax.scan(body, algorithm.init(key), None, updates)[0]

    params = run(jax.random.key(0)).policy.params
    tables = [np.asarray(params[name], float) for name in ("slope", "intercept")]
    times = np.asarray(problem.forward_times(), float)
    chain = chains.euler_maruyama(ORACLE, times, MEAN, VARIANCE)
    means, variances = chains.laws(chain, 0.0, START_VARIANCE, *tables)
    mean, variance = REPORTED[m]
    assert abs(means[-1] - mean) < (0.05 if m != 1 else 0.15)
    assert abs(variances[-1] - variance) < 0.03 if m != 1 else variances[-1] < 0.1


def on_grid(problem, grid):
    """The control problem of `steering`, whose tables are indexed by times, on another grid."""
    return eqx.tree_at(lambda p: p.grid, problem, grid)


TARGETS = jnp.asarray([2.5, -0.5])


def by_label(name_to_size):
    """Polynomials of the time of degree three per label."""

    def init(key):
        return {name: jnp.zeros((2, 4)) for name in name_to_size}

    def at(params, t, x, label):
        u = 2 * jnp.broadcast_to(t, x.shape[:1]) / PROCESS.horizon - 1
        basis = jnp.stack([jnp.ones_like(u), u, 2 * u**2 - 1, 4 * u**3 - 3 * u], axis=1)
        return [jnp.sum(basis * params[name][label], axis=1) for name in name_to_size]

    return init, at


def test_every_label_reaches_its_own_optimum():
    """One policy for two rewards, h(y, c) around 2.5 or -.5; batches hold both labels."""
    worlds = [GaussianSteering(PROCESS, MEAN, VARIANCE, CURVATURE, float(c), 2.5) for c in TARGETS]

    def reward_fn(x, label):
        return -CURVATURE / 2 * jnp.sum((x - TARGETS[label][:, None]) ** 2, axis=1)

    problem = RewardDirection(
        PROCESS,
        known_score(lambda t, x, label: worlds[0].score(t, x)),
        reward_fn,
        (1,),
        grids.log_snr(PROCESS, 32, end=1e-3),
        0.8,
        0.3,
        EulerMaruyama(),
        start_std=worlds[0].start_std(),
    )
    init, at = by_label(("slope", "intercept"))

    def mean(params, t, x, label):
        slope, intercept = at(params, t, x, label)
        return worlds[0].score(t, x) + slope[:, None] * x + intercept[:, None]

    value_init, value_at = by_label(("c0", "c1", "c2"))

    def value(params, t, x, label):
        c0, c1, c2 = value_at(params, t, x, label)
        return c0 + c1 * x[:, 0] + c2 * x[:, 0] ** 2

    updates, config = 150, QLearningConfig(epochs=4, trace=1.0)
    mean_adam, value_adam = [cosine(rate, 4 * updates) for rate in (3e-2, 1e-1)]
    models = (Model(init, mean), Model(value_init, value))
    algorithm = make_q_learning(problem, *models, mean_adam, value_adam, config)
    batch = Batch(jnp.ones(256), (jnp.arange(256) % 2,))

    @jax.jit
    def run(key):
        def body(state, _):
            return algorithm.step(state, batch)[0], None

        return jax.lax.scan(body, algorithm.init(key), None, updates)[0]

    params = run(jax.random.key(0)).policy.params
    times = problem.forward_times()
    chain = chains.euler_maruyama(ORACLE, np.asarray(times, float), MEAN, VARIANCE)
    for label, world in enumerate(worlds):
        tables = at(params, times[:-1], jnp.zeros((32, 1)), jnp.full(32, label))
        tables = [np.asarray(table, float) for table in tables]
        means, variances = chains.laws(chain, 0.0, START_VARIANCE, *tables)
        goal = chains.Goal(CURVATURE, float(world.target[0]), 2.5)
        best = chains.laws(chain, 0.0, START_VARIANCE, *chains.optimum(chain, goal))
        found = chains.wasserstein(means[-1], variances[-1], best[0][-1], best[1][-1])
        assert found < 0.05, (label, means[-1], variances[-1])


def test_estimates_take_the_points_of_the_label():
    """One data point per label: every step's score is exactly the one that points at it."""
    points = np.asarray([[3.0], [-3.0]], np.float32)
    estimate = RatioScore(PROCESS, DataPoints(points, np.asarray([0, 1])), 2)
    problem = make_direction(3, estimate=estimate)
    policy = affine_policy(make_setting(3).problem)
    batch = Batch(jnp.ones(4), (jnp.asarray([0, 1, 1, 0]),))
    params = policy.init(jax.random.key(0))
    moved = run_episodes(jax.random.key(1), problem, policy, params, batch).transitions
    scale, std = PROCESS.marginal(problem.coefficients().time)
    own = jnp.asarray([3.0, -3.0, -3.0, 3.0])[None, :, None]
    exact = (scale[:, None, None] * own - moved.states) / std[:, None, None] ** 2
    np.testing.assert_allclose(moved.scores, exact, rtol=1e-4)


@pytest.mark.slow
def test_a_network_reaches_the_optimum_of_the_mixture():
    """O5 from its exact score: the end law within W2 .05 of that of the exact optimum."""
    env = GaussianSteering(PROCESS, [-1.5, 1.0], [0.1, 0.2], 1.5, -0.5, 0.8, weights=[0.3, 0.7])
    options = {"width": 32, "depth": 1, "embedding": 16, "horizon": 3.0}
    network = as_model(lambda rngs: MLP((1,), rngs=rngs, **options))
    value = as_model(lambda rngs: ValueMLP((1,), rngs=rngs, **options))
    policy = Model(network.init, lambda params, t, x: env.score(t, x) + network.apply(params, t, x))
    problem = RewardDirection(
        PROCESS,
        known_score(env.score),
        env.reward,
        (1,),
        grids.log_snr(PROCESS, 60, end=1e-3),
        2 / 0.8,
        0.3,
        EulerMaruyama(),
        start_std=env.start_std(),
    )
    updates, config = 300, QLearningConfig(epochs=2, trace=1.0, average_decay=0.95)
    mean_adam, value_adam = [cosine(rate, 2 * updates) for rate in (5e-3, 1e-2)]
    algorithm = make_q_learning(problem, policy, value, mean_adam, value_adam, config)

    @jax.jit
    def run(key):
        def body(state, _):
            return algorithm.step(state, one_prompt(256))[0], None

        return jax.lax.scan(body, algorithm.init(key), None, updates)[0].average

    @jax.jit
    def ends(key, params):
        """40000 end states of what was learned, and of the exact optimum on a fine grid."""
        start, path, fine = jax.random.split(key, 3)
        x_0 = env.start_std() * jax.random.normal(start, (40000, 1))
        learned = PROCESS.reverse(lambda t, x: policy.apply(params, t, x))
        exact = PROCESS.reverse(lambda t, x: env.optimal_policy(PROCESS.horizon - t, x)[0])
        on_fine = grids.log_snr(PROCESS, 500, end=1e-3)
        return (
            simulate(path, learned, x_0, problem.grid, solver=EulerMaruyama()).states[:, 0],
            simulate(fine, exact, x_0, on_fine, solver=EulerMaruyama()).states[:, 0],
        )

    mine, best = ends(jax.random.key(1), run(jax.random.key(0)))
    assert float(distances.wasserstein_1d(mine, best)) < 0.05
