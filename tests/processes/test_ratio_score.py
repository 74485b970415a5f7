"""The ratio estimator: exact for finite data, its limits in m, its floor, its labels, its doors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri

from ctrl_jax.processes import VP, DataPoints, RatioScore, score_from_points
from tests.processes.compiled import compiled
from tests.processes.family import every_kind

PROCESS = VP(0.2, 2.0, horizon=3.0)
MEAN, VARIANCE = 1.0, 0.5
SCORE = jax.jit(functools.partial(score_from_points, PROCESS))


def quantiles(m):
    """m points of N(MEAN, VARIANCE) at the middle of equally likely intervals."""
    u = (np.arange(m) + 0.5) / m
    return MEAN + np.sqrt(VARIANCE) * ndtri(u)[:, None]


@every_kind
def test_the_score_of_the_noised_points(float64, process):
    """The gradient of the log of the mean of kernels, in two dimensions, for every process."""
    rng = np.random.default_rng(0)
    points, x = rng.normal(size=(7, 2)), rng.normal(size=(4, 2))

    def scores(t, x, points):
        def log_density(t, x):
            scale, std = process.marginal(t)
            square = jnp.sum((x[None] - scale * points) ** 2, axis=1) / std**2
            return jax.nn.logsumexp(-square / 2)

        own = jnp.broadcast_to(points[None], (4, 7, 2))
        found = [score_from_points(process, t, x, each) for each in (points, own)]
        return jax.vmap(jax.grad(log_density, argnums=1))(t, x), found

    t = process.horizon * np.asarray([0.2, 0.5, 0.7, 1.0])
    exact, found = compiled(scores, t, x, points)
    for score in found:
        np.testing.assert_allclose(score, exact, rtol=1e-9)


def test_many_points_give_the_score_of_the_data(float64):
    x = np.linspace(-1.0, 2.5, 9)[:, None]
    times = np.asarray([0.3, 1.0, 3.0])

    def errors(t):
        scale, std = PROCESS.marginal(t)
        exact = -(x - scale * MEAN) / (scale**2 * VARIANCE + std**2)
        return jnp.stack(
            [
                abs(SCORE(t, jnp.asarray(x), jnp.asarray(quantiles(m))) - exact).max()
                for m in (30, 3000)
            ]
        )

    for few, many in compiled(jax.vmap(errors), times):
        assert many < 1e-2 and many < few / 10


def test_one_point_is_on_average_the_point_mass_at_the_mean(float64):
    """Exactly: the estimate is affine in its only point."""
    x, points = np.asarray([[0.3], [2.0]]), quantiles(50)

    def estimates(t, x, points):
        return jax.vmap(lambda p: SCORE(t, x, p[None]))(points), PROCESS.marginal(t)

    found, (scale, std) = compiled(estimates, np.float64(0.4), x, points)
    np.testing.assert_allclose(found.mean(axis=0), (scale * points.mean() - x) / std**2, rtol=1e-10)


def test_a_few_points_are_biased_between_the_two(float64):
    """The mean estimate at m = 1, 5, 50, 500 goes from the point mass's score to the data's."""
    x, sizes = np.full((4000, 1), 2.0), (1, 5, 50, 500)

    def mean_estimates(t, x):
        keys = [jax.random.key(m) for m in sizes]
        noise = [jax.random.normal(k, (4000, m, 1)) for k, m in zip(keys, sizes, strict=True)]
        found = [SCORE(t, x, MEAN + np.sqrt(VARIANCE) * z).mean() for z in noise]
        return found, PROCESS.marginal(t)

    means, (scale, std) = compiled(mean_estimates, np.float64(0.5), x)
    point_mass = (scale * MEAN - 2.0) / std**2
    exact = -(2.0 - scale * MEAN) / (scale**2 * VARIANCE + std**2)
    assert point_mass - 0.1 < means[0] < means[1] < means[2] < exact + 0.1
    assert abs(means[3] - exact) < 0.05 * abs(point_mass - exact)


def test_the_floor_by_the_plain_formula(float64):
    rng = np.random.default_rng(1)
    points, x, floors = rng.normal(size=(6, 2)), rng.normal(size=(3, 2)) * 2, (1e-4, 0.05, 3.0)

    def scores(t, x, points):
        found = [score_from_points(PROCESS, t, x, points, floor=floor) for floor in floors]
        return PROCESS.marginal(t), found

    (scale, std), found = compiled(scores, np.float64(0.6), x, points)
    square = ((x[:, None] - scale * points[None]) ** 2).sum(axis=2)
    density = np.exp(-square / (2 * std**2)) / (2 * np.pi * std**2)
    for floor, score in zip(floors, found, strict=True):
        x_bar = density @ points / np.maximum(density.sum(axis=1), 6 * floor)[:, None]
        np.testing.assert_allclose(score, (scale * x_bar - x) / std**2, rtol=1e-10)


def test_far_from_all_points_nothing_overflows():
    """Images of 8 x 8 at a small time: every density underflows, the nearest point still wins."""
    points = np.stack([np.full((8, 8, 1), sign, np.float32) for sign in (-1.0, 1.0)])
    x = np.full((1, 8, 8, 1), 30.0, np.float32)

    def scores(t, x, points):
        found = [score_from_points(PROCESS, t, x, points, floor=floor) for floor in (0.0, 1e-3)]
        return PROCESS.marginal(t), found

    (scale, std), (nearest, to_origin) = compiled(scores, np.float32(0.01), x, points)
    np.testing.assert_allclose(nearest, (scale * points[1:] - x) / std**2, rtol=1e-5)
    np.testing.assert_allclose(to_origin, -x / std**2, rtol=1e-5)


LABELS = np.asarray([2, 0, 1, 0, 2, 2])
POINTS = np.asarray([20.0, 0.0, 10.0, 1.0, 21.0, 22.0], np.float32)[:, None]


def test_only_points_of_the_label_are_drawn_and_all_of_them_equally():
    """Label 2 has three points; of 30000 draws each share has a standard error of .0027, and 4.5
    of them are .012 (false alarm 2e-5 for three)."""
    draw, labels = DataPoints(POINTS, LABELS), np.asarray([0, 1, 2], np.int32)
    drawn = compiled(lambda labels: draw(jax.random.key(0), (3, 30000), labels), labels)[..., 0]
    assert set(drawn[0]) == {0.0, 1.0} and set(drawn[1]) == {10.0}
    for value in (20.0, 21.0, 22.0):
        assert abs((drawn[2] == value).mean() - 1 / 3) < 0.012


@pytest.mark.parametrize("labeled", [False, True])
def test_an_estimate_knows_nothing_of_its_batch_mates(labeled):
    estimate = RatioScore(PROCESS, DataPoints(POINTS, LABELS if labeled else None), 4)
    x = np.linspace(-1.0, 1.0, 6, dtype=np.float32)[:, None]
    labels = np.asarray([0, 1, 2, 0, 1, 2], np.int32)

    def run(t, x, labels):
        keys = jax.random.split(jax.random.key(3), 2)
        over_keys = jax.vmap(lambda key: estimate(key, t, x, labels))(keys)
        return estimate(jax.random.key(3), t, x, labels), over_keys

    (all_of_them, both), (alone, _) = (
        compiled(run, np.float32(0.5), x[:rows], labels[:rows]) for rows in (6, 3)
    )
    np.testing.assert_allclose(all_of_them[:3], alone, rtol=1e-6)
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
