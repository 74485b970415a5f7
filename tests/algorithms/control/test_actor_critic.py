"""CPG and CPPO reach the exact optimum of O1 and O2, several seeds in one program.

Thresholds are what was asked for (1 % of the starting gap, .02 in the parameters), not what a run
gave: gaps were below 2e-4 and errors below .009 for every method.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms import OccupationConfig, ProximalConfig, make_cppo, make_discrete_ppo
from ctrl_jax.algorithms.control.actor_critic import sample_occupation
from ctrl_jax.environments import LinearGaussian, Pendulum, simulate_control
from ctrl_jax.losses import gaussian
from ctrl_jax.networks import MLP, ValueMLP, as_model
from ctrl_jax.networks.policies import gaussian_head, linear_policy, quadratic_value
from tests.algorithms.control.problem import (
    O1_START,
    O2_START,
    TARGETS,
    inner,
    make,
    problem_of,
    scalar,
    start_states,
    train,
)
from tests.environments.fixtures import START, o1, o2

SEEDS = 2
UNKNOWN: Any = "unknown"
METHODS = {"cpg": 120, "sqrt_kl": 80, "linear_kl": 80, "clipped": 80}
"""And their updates."""


def solve(name, environment, start, horizon, dt=0.02, batch=128):
    """Policies (seeds, updates) and metrics of a whole training."""
    updates, d = METHODS[name], environment.state_dimension
    algorithm = make(name, problem_of(environment, dt, horizon), start, updates)
    run = jax.jit(jax.vmap(lambda key: train(algorithm, key, updates, batch, d)))
    return run(jax.random.split(jax.random.key(0), SEEDS))[1]


def last_policy(policies):
    """The mean over the last updates: one policy jitters with the noise of its batch."""
    return [np.asarray(p)[:, -20:].mean(axis=1) for p in policies]


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n == "linear_kl" else ()) for n in METHODS],
)
def trained(request):
    """Name, policies (seeds, updates) and metrics on O1."""
    params, metrics = solve(request.param, o1(), O1_START, 4.0, dt=0.04, batch=64)
    return request.param, scalar(params), metrics


def test_o1_is_solved(trained):
    _, policies, _ = trained
    problem = o1()
    best = problem.optimal_linear_policy()
    gap = problem.mean_value(best, START) - problem.mean_value(policies, START)
    first = problem.mean_value(best, START) - problem.mean_value(
        LinearGaussian(-0.3, 0.2, 0.8), START
    )
    assert (gap[:, -1] < 0.01 * first).all()
    for found, expected in zip(last_policy(policies), best, strict=True):
        assert np.max(abs(found - expected)) < 0.02


@pytest.mark.slow  # all of them solve O1 quickly
@pytest.mark.parametrize("name", METHODS)
def test_o2_is_solved(name):
    """Policies with independent coordinates: the best of them is N(K x, gamma / diag N)."""
    environment = o2()
    params, _ = solve(name, environment, O2_START, 5.0)
    found = last_policy((params.slope, params.intercept, jnp.exp(params.log_std)))
    std = jnp.sqrt(environment.temperature / jnp.diag(environment.N))
    best = LinearGaussian(environment.optimal_slope(), jnp.zeros(2), std)
    for seed in range(SEEDS):
        for values, expected in zip(found, best, strict=True):
            assert np.max(abs(values[seed] - expected)) < 0.02
    moments = (jnp.full(2, 0.4), 0.54 * jnp.eye(2) + 0.16 * jnp.ones((2, 2)))
    start = LinearGaussian(*(jnp.asarray(v) for v in O2_START))
    final = LinearGaussian(
        params.slope[0, -1], params.intercept[0, -1], jnp.exp(params.log_std[0, -1])
    )
    optimum, gained, first = (environment.mean_value(p, moments) for p in (best, final, start))
    assert optimum - gained < 0.01 * (optimum - first)


def test_every_accepted_update_keeps_its_trust_region(trained):
    name, _, metrics = trained
    if name not in TARGETS:
        assert "kl/accepted" not in metrics
        return
    limit = 1.1 * TARGETS[name]["target"]
    assert (metrics["kl/accepted"] <= limit * (1 + 1e-4)).all()
    # Shortened exactly where the optimizer went too far; each counted, C raised each time.
    too_far = metrics["kl/reached"] > limit
    assert too_far.any() and not too_far.all()
    np.testing.assert_array_equal(metrics["trust_region/scale"] < 1, too_far)
    np.testing.assert_array_equal(metrics["trust_region/backtracked"], np.cumsum(too_far, axis=1))
    penalty = metrics["trust_region/penalty"]
    before = np.concatenate([np.ones((SEEDS, 1)), penalty[:, :-1]], axis=1)
    np.testing.assert_allclose(penalty[too_far] / before[too_far], 1.5, rtol=1e-5)


def test_all_is_finite(trained):
    _, _, metrics = trained
    assert (metrics["update/finite"] == 1).all() and metrics["states/finite"].all()
    assert (metrics["update/skipped"][:, -1] == 0).all()


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


def sampled(seed, critic, **options):
    """What is sampled of the path, on the host."""
    problem, path, value = critic
    config = OccupationConfig(**options)
    draw = jax.jit(lambda key, path: sample_occupation(key, problem, path, value, config)[0])
    return jax.tree.map(np.asarray, draw(jax.random.key(seed), path))


SAMPLING: dict[str, dict[str, Any]] = {
    "stopping": {"occupation": "stopping"},
    "discounting": {"occupation": "discounting"},
    "generator": {"estimator": "generator"},
    "difference": {"occupation": "discounting", "estimator": "difference"},
    "generalized": {"estimator": "generalized", "memory": 0.05},
}


@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING.keys())
def test_the_sampled_gradient_is_the_exact_one(exact_critic, options):
    """Occupation moments and beta grad eta, trajectory by trajectory: within 4.5 standard errors
    (passed once in 147 000) plus 1.5 % of the largest for the bias of h = .01 and of T = 6."""
    problem, path, _ = exact_critic
    samples, n = sampled(4, exact_critic, **options), path.states.shape[1]
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
        *(direction * samples.advantages[None]),
    ]
    # The weight of a sample times n: its trajectory's own estimate.
    each = (np.stack(rows) * samples.weights[None]).reshape(5, -1, n).sum(axis=1) * n
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
    samples = sampled(5, exact_critic, value_loss=loss, estimator="difference", draws=4)
    each = samples.corrections.reshape(4, -1).mean(axis=0)
    assert abs(each.mean()) < 4.5 * each.std() / np.sqrt(each.size) + 0.02
    # What is left is the noise of the actions, of order sqrt(h); the deviations scatter by 1 %.
    for estimator in ("pathwise", "generator"):
        smooth = sampled(5, exact_critic, value_loss=loss, estimator=estimator, draws=4)
        assert np.std(smooth.corrections) < 0.9 * np.std(samples.corrections)


@pytest.mark.parametrize("name", ["pg", "ppo"])
def test_the_baselines_learn(name):
    """At h = .05 discrete time halves the gap of O1 in 40 updates."""
    algorithm = make(name, problem_of(dt=0.05), O1_START, 40)
    policies = scalar(jax.jit(lambda k: train(algorithm, k, 40, 64, 1))(jax.random.key(0))[1][0])
    problem = o1()
    best = problem.mean_value(problem.optimal_linear_policy(), START)
    gap = best - problem.mean_value(policies, START)
    assert gap[-1] < 0.5 * gap[0]


@pytest.mark.slow
def test_networks_balance_a_pendulum():
    """No closed form, an MLP for policy and critic. Left alone it falls from near the top: mean
    rewards near -1 (-2 is hanging down), above -.3 for one that is caught. Three seeds ended
    between -.07 and -.18."""
    env, updates = Pendulum(), 40
    options: dict[str, Any] = {"width": 32, "depth": 1, "embedding": 8}
    actor = as_model(lambda rngs: MLP((3,), out=2, rngs=rngs, **options))
    value = as_model(lambda rngs: ValueMLP((3,), rngs=rngs, **options))
    algorithm = make_cppo(
        problem_of(env, dt=0.05),
        gaussian_head(actor, env.observe),
        value._replace(observe=lambda t, x: env.observe(x)),
        optax.adam(3e-3),
        optax.adam(1e-2),
        ProximalConfig(penalty="clipped"),
    )

    def body(state, key):
        return algorithm.step(state, 0.3 * jax.random.normal(key, (64, 2)))

    def run(key):
        init_key, start_key = jax.random.split(key)
        keys = jax.random.split(start_key, updates)
        return jax.lax.scan(body, algorithm.init(init_key), keys)[1]

    metrics = jax.jit(run)(jax.random.key(0))
    assert (metrics["update/finite"] == 1).all()
    assert metrics["reward/mean"][0] < -0.9
    assert jnp.mean(metrics["reward/mean"][-5:]) > -0.3


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
            "penalty: received .* give sqrt_kl.linear_kl.clipped",
        ),
        (
            lambda: ProximalConfig(tolerance=1.0),
            r"tolerance: received 1\.0",
        ),
        (lambda: ProximalConfig(factor=1.0), r"factor: received 1\.0"),
        (lambda: ProximalConfig(target=-0.1), r"target: received -0.1; it must be above zero"),
        (lambda: OccupationConfig(occupation=UNKNOWN), "occupation: .* give stopping"),
        (lambda: OccupationConfig(draws=0), "draws: received 0"),
        (
            lambda: ProximalConfig(clip=0.1),
            "clip: received 0.1; penalty='sqrt_kl' does not read it; leave it out",
        ),
        (lambda: ProximalConfig("linear_kl", rounding=1e-4), "rounding: received 0.0001; penalty"),
        (
            lambda: ProximalConfig("clipped", target=0.1),
            "target: received 0.1; penalty='clipped' does not",
        ),
        (
            lambda: OccupationConfig("discounting", draws=4),
            "draws: received 4; occupation='disc",
        ),
        (lambda: OccupationConfig(memory=0.2), "memory: received 0.2; pathwise and the mart"),
        (
            lambda: make("ppo", problem_of(), O1_START, 1, estimator="difference"),
            "estimator: received 'difference'; discrete time decides it",
        ),
        (lambda: OccupationConfig(memory=0.0), "memory: received 0.0; it must be above zero"),
        (
            lambda: make("cpg", problem_of(dt=-0.1), O1_START, 1),
            "dt: received -0.1; it must be above zero",
        ),
        (
            lambda: make("cpg", problem_of(dt=0.5, horizon=0.1), O1_START, 1),
            "dt: received 0.5; it must go into horizon = 0.1 a whole number of times",
        ),
        (
            lambda: make("sqrt_kl", problem_of(dt=0.3, horizon=1.0), O1_START, 1),
            "dt: received 0.3; .* give ContinuousControl.dt 0.3333333333, or horizon 0.9",
        ),
        (
            lambda: make("ppo", problem_of(dt=0.3, horizon=1.0), O1_START, 1),
            "dt: received 0.3; it must go into horizon = 1.0",
        ),
        (lambda: make("cpg", problem_of(dt=1e-9), O1_START, 1), "dt: received 1e-09; horizon"),
        (
            lambda: make_discrete_ppo(
                problem_of(),
                linear_policy(*O1_START),
                quadratic_value(1),
                inner(),
                inner(),
                trace=1,
            ),
            r"trace: received 1; it must lie in \(0, 1\)",
        ),
    ],
)
def test_bad_arguments_are_named(unchecked, build, message):
    with pytest.raises(ValueError, match=message):
        build()
