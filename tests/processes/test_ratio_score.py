"""The ratio estimator: exact for finite data, its limits in m, its floor, its labels, its doors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri

from ctrl_jax.processes import VP, DataPoints, RatioScore, score_from_points
from tests.processes.family import every_kind

PROCESS = VP(0.2, 2.0, horizon=3.0)
MEAN, VARIANCE = 1.0, 0.5
SCORE = jax.jit(functools.partial(score_from_points, PROCESS))


def quantiles(m):
    """m points of N(MEAN, VARIANCE) at the middle of equally likely intervals."""
    u = (np.arange(m) + 0.5) / m
    return jnp.asarray(MEAN + np.sqrt(VARIANCE) * ndtri(u)[:, None])


@every_kind
def test_the_score_of_the_noised_points(float64, process):
    """The gradient of the log of the mean of kernels, in two dimensions, for every process."""
    rng = np.random.default_rng(0)
    points, x = jnp.asarray(rng.normal(size=(7, 2))), jnp.asarray(rng.normal(size=(4, 2)))
    t = process.horizon * jnp.asarray([0.2, 0.5, 0.7, 1.0])

    def log_density(t, x):
        scale, std = process.marginal(t)
        square = jnp.sum((x[None] - scale * points) ** 2, axis=1) / std**2
        return jax.nn.logsumexp(-square / 2)

    exact = jax.vmap(jax.grad(log_density, argnums=1))(t, x)
    np.testing.assert_allclose(score_from_points(process, t, x, points), exact, rtol=1e-9)
    own = jnp.broadcast_to(points[None], (4, 7, 2))
    np.testing.assert_allclose(score_from_points(process, t, x, own), exact, rtol=1e-9)


def test_many_points_give_the_score_of_the_data(float64):
    x = jnp.linspace(-1.0, 2.5, 9)[:, None]
    for t in (0.3, 1.0, 3.0):
        scale, std = PROCESS.marginal(jnp.asarray(t))
        exact = -(x - scale * MEAN) / (scale**2 * VARIANCE + std**2)
        errors = [
            float(abs(SCORE(jnp.asarray(t), x, quantiles(m)) - exact).max()) for m in (30, 3000)
        ]
        assert errors[1] < 1e-2 and errors[1] < errors[0] / 10


def test_one_point_is_on_average_the_point_mass_at_the_mean(float64):
    """Exactly: the estimate is affine in its only point."""
    t, x, points = jnp.asarray(0.4), jnp.asarray([[0.3], [2.0]]), quantiles(50)
    estimates = jnp.stack([SCORE(t, x, p[None]) for p in points])
    scale, std = PROCESS.marginal(t)
    np.testing.assert_allclose(
        estimates.mean(axis=0), (scale * points.mean() - x) / std**2, rtol=1e-10
    )


def test_a_few_points_are_biased_between_the_two(float64):
    """The mean estimate at m = 1, 5, 50, 5000 goes from the point mass's score to the data's."""
    t, x = jnp.asarray(0.5), jnp.full((4000, 1), 2.0)
    scale, std = PROCESS.marginal(t)
    point_mass = float((scale * MEAN - 2.0) / std**2)
    exact = float(-(2.0 - scale * MEAN) / (scale**2 * VARIANCE + std**2))

    def mean(m):
        noise = jax.random.normal(jax.random.key(m), (4000, m, 1))
        return float(SCORE(t, x, MEAN + np.sqrt(VARIANCE) * noise).mean())

    means = [mean(m) for m in (1, 5, 50, 500)]
    assert point_mass - 0.1 < means[0] < means[1] < means[2] < exact + 0.1
    assert abs(means[3] - exact) < 0.05 * abs(point_mass - exact)


@pytest.mark.parametrize("floor", [1e-4, 0.05, 3.0])
def test_the_floor_by_the_plain_formula(float64, floor):
    rng = np.random.default_rng(1)
    points, x, t = rng.normal(size=(6, 2)), rng.normal(size=(3, 2)) * 2, 0.6
    scale, std = (float(c) for c in PROCESS.marginal(jnp.asarray(t)))
    square = ((x[:, None] - scale * points[None]) ** 2).sum(axis=2)
    density = np.exp(-square / (2 * std**2)) / (2 * np.pi * std**2)
    x_bar = density @ points / np.maximum(density.sum(axis=1), 6 * floor)[:, None]
    found = score_from_points(
        PROCESS, jnp.asarray(t), jnp.asarray(x), jnp.asarray(points), floor=floor
    )
    np.testing.assert_allclose(found, (scale * x_bar - x) / std**2, rtol=1e-10)


def test_far_from_all_points_nothing_overflows():
    """Images of 8 x 8 at a small time: every density underflows, the nearest point still wins."""
    points = jnp.stack([jnp.full((8, 8, 1), -1.0), jnp.full((8, 8, 1), 1.0)])
    x, t = jnp.full((1, 8, 8, 1), 30.0), jnp.asarray(0.01)
    scale, std = PROCESS.marginal(t)
    near = (scale * points[1:] - x) / std**2
    np.testing.assert_allclose(score_from_points(PROCESS, t, x, points), near, rtol=1e-5)
    to_origin = score_from_points(PROCESS, t, x, points, floor=1e-3)
    np.testing.assert_allclose(to_origin, -x / std**2, rtol=1e-5)


LABELS = np.asarray([2, 0, 1, 0, 2, 2])
POINTS = np.asarray([20.0, 0.0, 10.0, 1.0, 21.0, 22.0], np.float32)[:, None]


def test_only_points_of_the_label_are_drawn_and_all_of_them_equally():
    """Label 2 has three points; of 30000 draws each share has a standard error of .0027, and 4.5
    of them are .012 (false alarm 2e-5 for three)."""
    draw = DataPoints(POINTS, LABELS)
    labels = jnp.asarray([0, 1, 2])
    drawn = np.asarray(draw(jax.random.key(0), (3, 30000), labels))[..., 0]
    assert set(drawn[0]) == {0.0, 1.0} and set(drawn[1]) == {10.0}
    for value in (20.0, 21.0, 22.0):
        assert abs((drawn[2] == value).mean() - 1 / 3) < 0.012


@pytest.mark.parametrize("labeled", [False, True])
def test_an_estimate_knows_nothing_of_its_batch_mates(labeled):
    estimate = RatioScore(PROCESS, DataPoints(POINTS, LABELS if labeled else None), 4)
    x, labels = jnp.linspace(-1.0, 1.0, 6)[:, None], jnp.asarray([0, 1, 2, 0, 1, 2])
    t = jnp.asarray(0.5)

    def run(rows):
        return jax.jit(lambda *inputs: estimate(*inputs))(
            jax.random.key(3), t, x[:rows], labels[:rows]
        )

    np.testing.assert_allclose(run(6)[:3], run(3), rtol=1e-6)
    over_keys = jax.vmap(lambda key: estimate(key, t, x, labels))
    both = over_keys(jax.random.split(jax.random.key(3), 2))
    assert both.shape == (2, 6, 1) and not np.allclose(both[0], both[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: SCORE(jnp.asarray(1.0), jnp.ones((2, 3)), jnp.ones((4, 2))),
            "shape of points: received",
        ),
        (
            lambda: RatioScore(PROCESS, DataPoints(POINTS), 0),
            "m: received 0; it must be a whole",
        ),
        (
            lambda: RatioScore(PROCESS, DataPoints(POINTS), 1, floor=-1.0),
            "floor: received -1.0; it",
        ),
        (lambda: DataPoints(np.zeros((0, 2))), "at least one is needed"),
        (lambda: DataPoints(POINTS, LABELS[:3]), "they must be integers of shape"),
        (lambda: DataPoints(POINTS, LABELS + 1), "every label from 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
