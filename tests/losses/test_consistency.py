"""Consistency losses where the consistency function is known; expectations by quadrature."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import consistency
from ctrl_jax.processes.consistency_function import from_normalized_v, level_times
from tests.losses.gaussian_consistency import MEAN, VARIANCE, consistency_fn, score_fn
from tests.processes.one_of_each import PROCESSES, few_by_name

END = 0.01
UPPER = 0.6  # the level of t


def quadrature(points=24):
    """Data, noise and weights of E over x_0 ~ N(MEAN, VARIANCE) and noise: Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    x_0, noise = (g.reshape(-1, 1) for g in np.meshgrid(nodes, nodes, indexing="ij"))
    mass = np.outer(weights, weights).ravel() / (2 * np.pi)
    return jnp.asarray(MEAN + VARIANCE**0.5 * x_0), jnp.asarray(noise), jnp.asarray(mass)


def noised(process, x_0, noise, t):
    scale, std = process.marginal(t)
    return scale * x_0 + std * noise


def neighbors(process, gap, *, order):
    """t, s, x_t, x_s by the teacher, x_s by the noise, and weights, at the level UPPER."""
    time_of_level = level_times(process, end=END)
    x_0, noise, mass = quadrature()
    t, s = time_of_level(jnp.asarray(UPPER)), time_of_level(UPPER - jnp.asarray(gap))
    x_t, trained = noised(process, x_0, noise, t), noised(process, x_0, noise, s)
    t, s = (jnp.broadcast_to(time, mass.shape) for time in (t, s))
    taught = consistency.teacher_step(process, score_fn(process), x_t, t, s, order=order)
    return t, s, x_t, taught, trained, mass


def slopes(values):
    """log2 of the decrease from one gap to its half."""
    return np.log2(np.asarray(values[:-1]) / np.asarray(values[1:]))


@few_by_name
@pytest.mark.parametrize("order", [1, 2])
def test_the_exact_function_has_no_distillation_loss(name, order):
    """One step of order p has an error of order p + 1, so the squared loss one of 2 (p + 1)."""
    process, found = PROCESSES[name], []
    with jax.enable_x64(True):
        function = consistency_fn(process, END)

        @jax.jit
        def loss(t, s, x_t, x_s, mass):
            return mass @ consistency.distillation(function(t, x_t), function(s, x_s))

        for gap in 0.02 * 0.5 ** np.arange(4):
            t, s, x_t, taught, _, mass = neighbors(process, gap, order=order)
            found.append(float(loss(t, s, x_t, taught, mass)))
    np.testing.assert_allclose(slopes(found)[-1], 2 * (order + 1), atol=0.35)
    assert found[-1] < 1e-6


@few_by_name
def test_the_gradient_points_to_the_exact_function(name):
    """f_k with deviations scaled by (ratio of stds)^k is exact for k = 1 only."""
    process = PROCESSES[name]
    with jax.enable_x64(True):
        t, s, x_t, taught, trained, mass = neighbors(process, 0.02, order=2)

        @jax.jit
        def gradient(power, x_s):
            target = consistency_fn(process, END, power)(s, x_s)
            return jax.grad(
                lambda k: (
                    mass @ consistency.distillation(consistency_fn(process, END, k)(t, x_t), target)
                )
            )(power)

        for x_s in (taught, trained):
            assert float(gradient(0.6, x_s)) < 0 < float(gradient(1.5, x_s))
        small = abs(float(gradient(1.0, taught)))
        assert small < 1e-2 * abs(float(gradient(0.6, taught)))


def network_gradient(process, t, x_t, s, x_s, mass):
    """Gradient of the expected squared loss of a small network."""

    def function(params):
        def velocity(t, x):
            return params[0] * jnp.tanh(params[1] * x + params[2]) + params[3] * x

        return from_normalized_v(process, velocity, end=END, data_std=0.7)

    params = jnp.asarray([0.5, 0.8, -0.3, 0.2])
    target = function(params)(s, x_s)
    return jax.grad(lambda p: mass @ consistency.training(function(p)(t, x_t), target, huber=None))(
        params
    )


@few_by_name
def test_training_has_the_gradient_of_distillation(name):
    """Both expected gradients are O(gap); their difference is O(gap^2). No Monte Carlo: the
    expectation over x_0 and noise is Gauss-Hermite, exact to rounding for these functions."""
    process, distilled, differences = PROCESSES[name], [], []
    with jax.enable_x64(True):

        @jax.jit
        def gradients(t, s, x_t, taught, trained, mass):
            return [network_gradient(process, t, x_t, s, x_s, mass) for x_s in (taught, trained)]

        for gap in 0.05 * 0.5 ** np.arange(5):
            taught, trained = gradients(*neighbors(process, gap, order=2))
            distilled.append(float(jnp.linalg.norm(taught)))
            differences.append(float(jnp.linalg.norm(taught - trained)))
    np.testing.assert_allclose(slopes(distilled)[-1], 1, atol=0.1)
    np.testing.assert_allclose(slopes(differences)[-1], 2, atol=0.15)
    assert differences[-1] < 0.05 * distilled[-1]


def test_losses_by_hand():
    prediction = jnp.asarray([[1.0, 2.0], [0.0, 0.0]])
    target = jnp.asarray([[1.0, -2.0], [0.0, 0.0]])
    weights = jnp.asarray([0.5, 2.0])
    # (0 + 16) / 2 = 8, times a half.
    np.testing.assert_allclose(
        consistency.distillation(prediction, target, weights=weights), [4.0, 0.0]
    )
    # sqrt(8 + 1) - 1 = 2.
    found = consistency.training(prediction, target, huber=1.0, weights=weights)
    np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(consistency.training(prediction, target, huber=None), [8.0, 0.0])
    gradient = jax.grad(lambda p: jnp.sum(consistency.training(p, target)))(prediction)
    assert bool(jnp.isfinite(gradient).all())  # at equality too


@pytest.mark.parametrize("order", [1, 2])
def test_a_teacher_step_takes_numbers_as_times(order, unchecked):
    process, x = PROCESSES["vp"], jnp.ones((3, 2))
    numbers: Any = (0.3, 0.1)
    found, expected = (
        consistency.teacher_step(process, score_fn(process), x, *times, order=order)
        for times in (numbers, tuple(jnp.asarray(t) for t in numbers))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@few_by_name
def test_a_teacher_step_treats_examples_alone(name):
    process = PROCESSES[name]
    x = jax.random.normal(jax.random.key(0), (3, 2))
    t, s = jnp.asarray([0.3, 0.6, 0.9]), jnp.asarray([0.2, 0.5, 0.9])
    together = consistency.teacher_step(process, score_fn(process), x, t, s)
    alone = [
        consistency.teacher_step(
            process, score_fn(process), x[i : i + 1], t[i : i + 1], s[i : i + 1]
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(together, jnp.concatenate(alone), rtol=1e-5)
    np.testing.assert_allclose(together[2], x[2], rtol=1e-6)  # no time passes


def test_bad_arguments_are_refused():
    process, ones = next(iter(PROCESSES.values())), jnp.ones((2, 1))
    with pytest.raises(ValueError, match=r"huber: received 0.*; it must be above zero"):
        consistency.training(ones, ones, huber=0.0)
    with pytest.raises(ValueError, match="order: received 3; it must be 1 or 2"):
        consistency.teacher_step(process, score_fn(process), ones, ones[:, 0], ones[:, 0], order=3)
