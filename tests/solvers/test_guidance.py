"""Guidance: the algebra of scores, and the exact law of replacement on Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import ExponentialEuler, Inpainting, guidance, simulate
from tests.oracles.samplers import replacement_law
from tests.solvers.gaussian import LINE, PROCESS, exact_score, uniform_grid

KEY = jax.random.key(0)
MEAN, COVARIANCE = np.array([0.5, -0.3]), np.array([[0.6, 0.35], [0.35, 0.4]])
KNOWN = 1.4


def conditional_score(t, x, label):
    return exact_score(t, x - label[:, None])


@pytest.mark.parametrize("passes", [1, 2])
def test_guidance_is_an_extrapolation(passes):
    x, t, label = jax.random.normal(KEY, (4, 3)), jnp.asarray(0.4), jnp.arange(4.0)
    null = (jnp.asarray(-1.0),)
    with_label = conditional_score(t, x, label)
    without = conditional_score(t, x, jnp.full(4, -1.0))
    for scale, expected in ((0.0, without), (1.0, with_label), (3.0, 3 * with_label - 2 * without)):
        guided = guidance.classifier_free(conditional_score, scale, null, passes=passes)
        for times in (t, jnp.full(4, t)):
            np.testing.assert_allclose(guided(times, x, label), expected, rtol=1e-4, atol=1e-5)
    scales = jnp.asarray([0.0, 1.0, 0.0, 1.0])
    guided = guidance.classifier_free(conditional_score, scales, null, passes=passes)(t, x, label)
    expected = jnp.where(scales[:, None] == 1, with_label, without)
    np.testing.assert_allclose(guided, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("passes", [1, 2])
def test_negative_prompts_are_one_per_example_and_go_with_their_rows(passes):
    x, t = jax.random.normal(KEY, (4, 3)), jnp.asarray([0.1, 0.4, 0.4, 0.9])
    label, negative = jnp.arange(4.0), -jnp.arange(4.0)
    expected = 3 * conditional_score(t, x, label) - 2 * conditional_score(t, x, negative)
    fixed = guidance.classifier_free(conditional_score, 3.0, (negative,), passes=passes)
    np.testing.assert_allclose(fixed(t, x, label), expected, rtol=1e-4, atol=1e-5)
    guided = guidance.classifier_free(conditional_score, 3.0, None, passes=passes)
    order = jnp.asarray([2, 0, 3, 1])
    found = guided(t[order], x[order], label[order], negative[order])
    np.testing.assert_allclose(found, expected[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("passes", [1, 2])
def test_outside_an_interval_there_is_the_conditional_score_alone(passes):
    x, t, label = jax.random.normal(KEY, (4, 3)), jnp.asarray([0.1, 0.3, 0.6, 0.9]), jnp.arange(4.0)
    make = guidance.classifier_free
    null, inside = (jnp.asarray(-1.0),), jnp.asarray([False, True, True, False])[:, None]
    guided = make(conditional_score, 3.0, null, passes=passes, interval=(0.3, 0.6))
    always = make(conditional_score, 3.0, null, passes=passes)(t, x, label)
    alone = conditional_score(t, x, label)
    expected = jnp.where(inside, always, alone)
    np.testing.assert_array_equal(guided(t, x, label), expected)
    for row in range(4):  # where there is one time of all rows
        one = guided(t[row], x[row : row + 1], label[row : row + 1])
        np.testing.assert_allclose(one[0], expected[row], rtol=1e-5)


def test_guidance_of_a_prediction_is_that_of_the_score():
    """Whatever the network predicts."""
    x, t, label = jax.random.normal(KEY, (4, 3)), jnp.asarray(0.4), jnp.arange(4.0)
    null = (jnp.asarray(-1.0),)
    expected = guidance.classifier_free(conditional_score, 3.0, null)(t, x, label)
    for name in ("noise", "data", "v", "flow"):
        network = getattr(parameterization, f"to_{name}")(PROCESS, conditional_score)
        guided = guidance.classifier_free(network, 3.0, null)
        found = getattr(parameterization, f"from_{name}")(PROCESS, guided)(t, x, label)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_guidance_names_conditions_that_do_not_match(unchecked):
    with pytest.raises(ValueError, match=r"null: received \(\); it must hold a value"):
        guidance.classifier_free(conditional_score, 2.0, ())
    null = (jnp.asarray(0.0),)
    guided = guidance.classifier_free(conditional_score, 2.0, null)
    with pytest.raises(ValueError, match=r"conditions: received 0; null has 1 values"):
        guided(jnp.asarray(0.5), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"conditions: received 1; .* they come twice"):
        guidance.classifier_free(conditional_score, 2.0, None)(
            jnp.asarray(0.5), jnp.ones((2, 3)), jnp.ones(2)
        )
    with pytest.raises(ValueError, match=r"passes: received 3; it must be 1 or 2; leave it out"):
        guidance.classifier_free(conditional_score, 2.0, null, passes=3)
    for interval, message in (((0.5, 0.1), "exchange them"), ((0.5,), "two forward times")):
        with pytest.raises(ValueError, match=rf"interval: received .*{message}"):
            guidance.classifier_free(conditional_score, 2.0, null, interval=interval)  # pyright: ignore[reportArgumentType]


def plane_score(t, x):
    scale, std = PROCESS.marginal(t)
    covariance = scale**2 * jnp.asarray(COVARIANCE, x.dtype) + std**2 * jnp.eye(2, dtype=x.dtype)
    mean = jnp.broadcast_to(scale * jnp.asarray(MEAN, x.dtype), x.shape)
    return -jnp.linalg.solve(covariance, (x - mean).T).T


def inpaint(number, passes, grid, key=KEY):
    known = jnp.stack([jnp.full(number, KNOWN), jnp.full(number, jnp.nan)], axis=1)
    mask = jnp.broadcast_to(jnp.asarray([True, False]), (number, 2))
    std = jnp.sqrt(sum(c**2 for c in PROCESS.marginal(jnp.asarray(1.0))))
    start_key, path_key = jax.random.split(key)
    x_0 = std * jax.random.normal(start_key, (number, 2))
    solver = Inpainting(ExponentialEuler(), known, mask, passes)
    return simulate(path_key, PROCESS.reverse(plane_score), x_0, grid, solver=solver).states


@pytest.mark.parametrize("passes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_the_law_of_replacement(passes):
    # 20000 samples of a coarse chain against its exact law: mean of both coordinates, variances and
    # covariance at |z| < 4.5, five tests: false alarm 3.4e-5.
    number, grid = 20000, uniform_grid(6)
    x = np.asarray(jax.jit(lambda k: inpaint(number, passes, grid, k))(KEY), float)
    times = 1.0 - np.asarray(grid, float)
    mean, covariance = replacement_law(LINE, times, MEAN, COVARIANCE, KNOWN, passes)
    spread = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(axis=0) - mean) < 4.5 * spread / np.sqrt(number)).all()
    error = np.abs(np.cov(x.T) - covariance)
    product = np.outer(spread, spread)
    assert (error < 4.5 * np.sqrt((product**2 + covariance**2) / number)).all()


def conditional():
    """Mean and variance of the second coordinate given the first."""
    slope = COVARIANCE[0, 1] / COVARIANCE[0, 0]
    return MEAN[1] + slope * (KNOWN - MEAN[0]), COVARIANCE[1, 1] - slope * COVARIANCE[0, 1]


def test_the_limit_of_many_passes_is_the_conditional_law():
    """Exactly, by the law of the chain that the test above holds the code to: one pass is far off,
    and the distance falls as passes and steps grow together."""
    expected_mean, expected_variance = conditional()
    distances = []
    for steps, passes in ((20, 1), (20, 8), (80, 32), (240, 96)):
        times = np.geomspace(1.0, 1e-3, steps + 1)
        mean, covariance = replacement_law(LINE, times, MEAN, COVARIANCE, KNOWN, passes)
        distances.append(
            np.hypot(mean[1] - expected_mean, covariance[1, 1] ** 0.5 - expected_variance**0.5)
        )
    assert distances[0] > 0.1
    assert distances[3] < distances[2] < distances[1] < distances[0]
    assert distances[3] < 0.01, distances


def test_known_values_are_kept_and_independent_ones_ignored():
    """Independent coordinates: the others are bitwise those of the solver without replacement."""
    grid, x_0 = uniform_grid(4), jax.random.normal(KEY, (5, 3))
    mask = jnp.asarray([[True, False, False]] * 5)
    sde, solver = PROCESS.reverse(exact_score), ExponentialEuler()
    kept = Inpainting(solver, jnp.full((5, 3), 7.0), mask)
    nothing = Inpainting(solver, jnp.zeros((5, 3)), jnp.zeros((5, 3), bool))
    ends = jax.jit(
        lambda x: [simulate(KEY, sde, x, grid, solver=s).states for s in (solver, kept, nothing)]
    )
    plain, found, without = ends(x_0)
    np.testing.assert_allclose(found[:, 1:], plain[:, 1:], rtol=1e-6)
    scale, std = PROCESS.marginal(PROCESS.horizon - grid[-1])
    assert (np.abs(found[:, 0] - scale * 7.0) < 5 * std).all()
    np.testing.assert_allclose(without, plain, rtol=1e-6)


def test_gradients_pass_through_replacement_where_nothing_is_known():
    grid = uniform_grid(3)

    def loss(x):
        mask = jnp.asarray([[True, False]] * 2)
        solver = Inpainting(ExponentialEuler(), jnp.asarray([[1.0, jnp.nan]] * 2), mask, 2)
        return simulate(KEY, PROCESS.reverse(exact_score), x, grid, solver=solver).states.sum()

    slope = jax.jit(jax.grad(loss))(jnp.ones((2, 2)))
    assert (slope[:, 0] == 0).all() and (slope[:, 1] > 0).all()


def test_errors_at_the_door(unchecked):
    known, mask = jnp.zeros((2, 2)), jnp.zeros((2, 2), bool)
    with pytest.raises(ValueError, match=r"passes: received 0; it must be a whole"):
        Inpainting(ExponentialEuler(), known, mask, 0)
    with pytest.raises(ValueError, match=r"received \(1, 2\); it must be that of known, \(2, 2\)"):
        Inpainting(ExponentialEuler(), known, mask[:1])
    flow = PROCESS.reverse(exact_score).probability_flow()
    solver = Inpainting(ExponentialEuler(), known, mask)
    with pytest.raises(ValueError, match="a probability flow has no noise to replace with"):
        simulate(KEY, flow, jnp.ones((2, 2)), uniform_grid(2), solver=solver)
