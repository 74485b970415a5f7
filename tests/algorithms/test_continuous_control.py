"""CPG and CPPO reach the exact optimum of O1 and O2, several seeds in one program.

Thresholds are what was asked for (1 % of the starting gap, .02 in the parameters), not what a run
gave: in nine runs of 200 updates with other keys every relative gap was below 1e-4.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.algorithms import (
    OccupationConfig,
    ProximalConfig,
    make_discrete_ppo,
)
from ctrl_jax.algorithms.continuous_control import sample_occupation
from ctrl_jax.environments import LinearGaussian, Pendulum, simulate_control
from ctrl_jax.losses import gaussian
from ctrl_jax.networks.gaussian_policy import linear_policy, quadratic_value
from tests.algorithms.continuous import (
    O1_START,
    O2_START,
    inner,
    make,
    problem_of,
    scalar,
    start_states,
    train,
)
from tests.environments.fixtures import START, o1, o2

UPDATES, SEEDS = 150, 2
UNKNOWN: Any = "unknown"
TARGETS = {"sqrt_kl": 0.1, "linear_kl": 0.01}
METHODS = {
    "cpg": ("cpg", {}),
    "cppo_sqrt_kl": ("sqrt_kl", {}),
    "cppo_linear_kl": ("linear_kl", {}),
    "cppo_clipped": ("clipped", {}),
}


@pytest.fixture(scope="module", params=METHODS.values(), ids=list(METHODS))
def trained(request):
    """Name, policies (seeds, updates) and metrics."""
    name, occupation = request.param
    algorithm = make(name, problem_of(), O1_START, UPDATES, **occupation)
    run = jax.jit(jax.vmap(lambda key: train(algorithm, key, UPDATES, 256, 1)))
    _, (params, metrics) = run(jax.random.split(jax.random.key(0), SEEDS))
    return name, scalar(params), metrics


def test_o1_is_solved(trained):
    _, policies, _ = trained
    problem = o1()
    best = problem.optimal_linear_policy()
    gap = problem.mean_value(best, START) - problem.mean_value(policies, START)
    first = problem.mean_value(best, START) - problem.mean_value(
        LinearGaussian(-0.3, 0.2, 0.8), START
    )
    assert (gap[:, -1] < 0.01 * first).all()
    # The mean over the last updates: one policy jitters with the noise of its batch.
    for found, expected in zip(policies, best, strict=True):
        error = np.mean(np.asarray(found)[:, -20:], axis=1) - expected
        assert np.max(abs(error)) < 0.02


def test_every_accepted_update_keeps_its_trust_region(trained):
    name, _, metrics = trained
    if name not in TARGETS:
        assert "kl/accepted" not in metrics
        return
    limit = 1.1 * TARGETS[name]
    assert (metrics["kl/accepted"] <= limit * (1 + 1e-4)).all()
    # Shortened exactly where the optimiser went too far; each counted, C raised each time.
    too_far = metrics["kl/reached"] > limit
    assert too_far.any() and not too_far.all()
    np.testing.assert_array_equal(metrics["trust_region/scale"] < 1, too_far)
    np.testing.assert_array_equal(metrics["trust_region/backtracked"], np.cumsum(too_far, axis=1))
    before = np.concatenate([np.ones((SEEDS, 1)), metrics["penalty"][:, :-1]], axis=1)
    np.testing.assert_allclose(metrics["penalty"][too_far] / before[too_far], 1.5, rtol=1e-5)


def test_all_is_finite(trained):
    _, _, metrics = trained
    assert (metrics["update/finite"] == 1).all() and metrics["states/finite"].all()
    assert (metrics["update/skipped"][:, -1] == 0).all()


def test_o2_is_solved():
    """Policies with independent coordinates: the best of them is N(K x, gamma / diag N)."""
    environment = o2()
    updates = 100
    algorithm = make("linear_kl", problem_of(environment, horizon=5.0), O2_START, updates)
    params = jax.jit(lambda key: train(algorithm, key, updates, 256, 2))(jax.random.key(1))[1][0]
    last = jax.tree.map(lambda p: jnp.mean(p[-20:], axis=0), params)
    std = jnp.sqrt(environment.temperature / jnp.diag(environment.N))
    best = LinearGaussian(environment.optimal_slope(), jnp.zeros(2), std)
    found = LinearGaussian(last.slope, last.intercept, jnp.exp(last.log_std))
    moments = (jnp.full(2, 0.4), 0.54 * jnp.eye(2) + 0.16 * jnp.ones((2, 2)))
    start = LinearGaussian(*(jnp.asarray(v) for v in O2_START))
    optimum, gained, first = (environment.mean_value(p, moments) for p in (best, found, start))
    assert optimum - gained < 0.01 * (optimum - first)
    for name, limit in (("slope", 0.03), ("intercept", 0.02), ("std", 0.02)):
        error = jnp.asarray(getattr(found, name)) - getattr(best, name)
        assert jnp.max(abs(error)) < limit, name


@pytest.fixture(scope="module")
def exact_critic():
    """A long batch of O1 under the starting policy, with its exact value."""
    environment = o1()
    problem = problem_of(environment, dt=0.01, horizon=6.0)
    value = lambda x: environment.policy_value(LinearGaussian(-0.3, 0.2, 0.8), x)  # noqa: E731
    policy = linear_policy(*O1_START)
    params = policy.init(jax.random.key(0))
    path = jax.jit(
        lambda key, x_0: simulate_control(
            key,
            problem.environment,
            partial(policy.apply, params, jnp.zeros(())),
            x_0,
            dt=problem.dt,
            steps=problem.steps,
        )
    )(jax.random.key(2), start_states(jax.random.key(3), 4000, 1))
    return problem, path, value


SAMPLING = {
    "stopping": {"occupation": "stopping"},
    "discounting": {"occupation": "discounting"},
    "difference": {"occupation": "discounting", "estimator": "difference"},
    "generalized": {"estimator": "generalized", "memory": 0.05},
}


@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING.keys())
def test_the_sampled_gradient_is_the_exact_one(exact_critic, options):
    """Occupation moments and beta grad eta, trajectory by trajectory: within 4.5 standard errors
    (passed once in 147 000) plus 1.5 % of the largest for the bias of h = .01 and of T = 6."""
    problem, path, value = exact_critic
    config = OccupationConfig(**options)
    samples, _ = sample_occupation(jax.random.key(4), problem, path, value, config)
    n = path.states.shape[1]
    z = (samples.actions - samples.means) / samples.stds
    direction = np.stack(  # grad log pi in slope, intercept, std
        [
            (z / samples.stds)[:, 0] * samples.states[:, 0],
            (z / samples.stds)[:, 0],
            ((z**2 - 1) / samples.stds)[:, 0],
        ]
    )
    rows = [
        samples.states[:, 0],
        samples.states[:, 0] ** 2,
        *(direction * np.asarray(samples.advantages)[None]),
    ]
    # The weight of a sample times n: its trajectory's own estimate.
    each = (np.stack(rows) * np.asarray(samples.weights)[None]).reshape(5, -1, n).sum(axis=1) * n
    policy = LinearGaussian(-0.3, 0.2, 0.8)
    exact = np.asarray(
        [
            *problem.environment.occupation_moments(policy, START),
            *problem.environment.policy_gradient(policy, START),
        ]
    )
    bias = 0.015 * np.asarray([1.0, 1.0, *3 * [abs(exact[2:]).max()]])
    error = abs(each.mean(axis=1) - exact)
    assert (error < 4.5 * each.std(axis=1) / np.sqrt(n) + bias).all(), (error, bias)


@pytest.mark.parametrize("loss", ["martingale", "temporal_difference"])
def test_the_exact_value_is_where_the_critic_stays(exact_critic, loss):
    """With the exact value the mean correction vanishes: 4.5 standard errors and h^2's bias."""
    problem, path, value = exact_critic
    config = OccupationConfig(value_loss=loss, estimator="difference", draws=4)
    samples, _ = sample_occupation(jax.random.key(5), problem, path, value, config)
    each = np.asarray(samples.corrections).reshape(4, -1).mean(axis=0)
    assert abs(each.mean()) < 4.5 * each.std() / np.sqrt(each.size) + 0.02
    smooth = sample_occupation(
        jax.random.key(5), problem, path, value, OccupationConfig(value_loss=loss, draws=4)
    )[0]
    # What is left is the noise of the actions, of order sqrt(h); the deviations scatter by 1 %.
    assert np.std(smooth.corrections) < 0.9 * np.std(samples.corrections)


def test_one_seed_alone_and_among_others():
    algorithm = make("sqrt_kl", problem_of(dt=0.1), O1_START, 3)
    keys = jax.random.split(jax.random.key(7), 2)
    run = lambda key: train(algorithm, key, 3, 8, 1)[1][0]  # noqa: E731
    both, alone = jax.jit(jax.vmap(run))(keys), jax.jit(run)(keys[1])
    for a, b in zip(both, alone, strict=True):
        np.testing.assert_allclose(a[1], b, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pg", "ppo"])
def test_the_baselines_learn(name):
    """At h = .05 discrete time halves the gap of O1 in 40 updates."""
    algorithm = make(name, problem_of(dt=0.05), O1_START, 40)
    policies = scalar(jax.jit(lambda k: train(algorithm, k, 40, 64, 1))(jax.random.key(0))[1][0])
    problem = o1()
    best = problem.mean_value(problem.optimal_linear_policy(), START)
    gap = best - problem.mean_value(policies, START)
    assert gap[-1] < 0.5 * gap[0]


def test_a_problem_without_closed_form():
    """Quadratic features on the pendulum: a step runs, is finite and moves the policy."""
    env = Pendulum()
    start = ([[0.0, 0.0]], [0.0], [0.5])
    algorithm = make("clipped", problem_of(env, dt=0.05, horizon=1.0), start, 2)
    state = algorithm.init(jax.random.key(0))
    moved, metrics = jax.jit(algorithm.step)(state, start_states(jax.random.key(1), 16, 2))
    assert float(metrics["update/finite"]) == 1
    assert not np.array_equal(moved.policy.params.slope, state.policy.params.slope)


def test_a_batch_that_is_not_finite_moves_nothing():
    algorithm = make("linear_kl", problem_of(dt=0.1), O1_START, 2)
    state = algorithm.init(jax.random.key(0))
    moved, metrics = jax.jit(algorithm.step)(state, jnp.full((8, 1), jnp.nan))
    assert float(metrics["update/finite"]) == 0 and int(moved.skipped_in_a_row) == 1
    np.testing.assert_array_equal(moved.policy.params.slope, state.policy.params.slope)
    np.testing.assert_array_equal(moved.value.params.slope, state.value.params.slope)


def test_the_closed_forms_of_gaussians():
    """log-density, KL and entropy: the second and third as Gauss-Hermite means of the first."""
    mean, std = jnp.asarray([[0.3, -0.4]]), jnp.asarray([[0.7, 1.3]])
    old, old_std = jnp.asarray([[-0.2, 0.1]]), jnp.asarray([[1.1, 0.9]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(10)
    z = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    w = (weights[:, None] * weights[None]).reshape(-1) / weights.sum() ** 2
    actions = mean + std * jnp.asarray(z, jnp.float32)
    wide = [jnp.broadcast_to(v, z.shape) for v in (mean, std, old, old_std)]
    log_new = gaussian.log_prob(wide[0], wide[1], actions)
    log_old = gaussian.log_prob(wide[2], wide[3], actions)
    np.testing.assert_allclose(gaussian.entropy(std)[0], -w @ log_new, rtol=1e-5)
    kl = gaussian.kl(mean, std, old, old_std)[0]
    np.testing.assert_allclose(kl, w @ (log_new - log_old), rtol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ProximalConfig(penalty=UNKNOWN),
            "penalty must be sqrt_kl, linear_kl or clipped",
        ),
        (lambda: ProximalConfig(tolerance=1.0), r"tolerance must lie in \(0, 1\), got 1.0"),
        (lambda: ProximalConfig(factor=1.0), "factor must be above 1"),
        (lambda: ProximalConfig(target=-0.1), "target must be a positive finite number"),
        (lambda: OccupationConfig(occupation=UNKNOWN), "occupation must be one of stopping"),
        (lambda: OccupationConfig(draws=0), "draws must be at least 1"),
        (lambda: OccupationConfig(memory=0.0), "memory must be a positive"),
        (lambda: make("cpg", problem_of(dt=-0.1), O1_START, 1), "dt must be a positive"),
        (lambda: make("cpg", problem_of(dt=0.5, horizon=0.1), O1_START, 1), "at least dt"),
        (
            lambda: make_discrete_ppo(
                problem_of(),
                linear_policy(*O1_START),
                quadratic_value(1),
                inner(),
                inner(),
                trace=1,
            ),
            r"trace must lie in \(0, 1\)",
        ),
    ],
)
def test_bad_arguments_are_named(unchecked, build, message):
    with pytest.raises(ValueError, match=message):
        build()
