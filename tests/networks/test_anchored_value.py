"""The value that knows the reward: exact at the end, one law for every process and prediction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    Critic,
    DiffusionControl,
    make_policy_gradient,
    make_ppo,
    make_value_gradient,
)
from ctrl_jax.algorithms.base import Learner
from ctrl_jax.algorithms.diffusion.critic import evaluate_critic
from ctrl_jax.networks import anchored_value
from ctrl_jax.processes import EDM, OU, VE, VP, RectifiedFlow, SubVP, grids, parameterization

MEAN, VARIANCE, CURVATURE, TARGET = 0.5, 0.4, 1.5, 2.0
PROCESSES = (OU(1.0, 1.4), VE(0.01, 5.0), VP(0.1, 8.0), SubVP(0.1, 8.0), EDM(4.0), RectifiedFlow())
X = jnp.linspace(-2.0, 3.0, 8).reshape(4, 2)
C = jnp.asarray([0.3, -0.2, 0.0, 1.0])
REST = Model(
    lambda key: jnp.float32(0.7),
    lambda rate, t, x, c: rate * jnp.sum(x, axis=1) + t + c,
)


def reward(x, c):
    """A quadratic, moved by the prompt."""
    return -CURVATURE / 2 * jnp.sum(jnp.square(x - TARGET), axis=1) + c


def posterior(process, t):
    """Gain and offset of E[x_0 | x_t] = gain x_t + offset, for data N(MEAN, VARIANCE)."""
    scale, std = process.marginal(t)
    gain = scale * VARIANCE / (scale**2 * VARIANCE + std**2)
    return gain, MEAN * (1 - gain * scale)


def score_fn(process):
    """The score of those data noised, of any prompt."""

    def score(t, x, *conditions):
        scale, std = process.marginal(t)
        return (expand(scale * MEAN, x) - x) / expand(scale**2 * VARIANCE + std**2, x)

    return score


def predictions(process):
    """Every prediction of the same law."""
    score = score_fn(process)
    made = {"noise": parameterization.to_noise, "data": parameterization.to_data}
    made |= {"v": parameterization.to_v, "flow": parameterization.to_flow}
    return {"score": score} | {name: make(process, score) for name, make in made.items()}


def value(model, t, x):
    """The value as algorithms ask for it."""
    return model.apply(jnp.float32(0.7), t, model.observe(t, x, C), C)


def test_the_value_and_its_gradient_are_those_of_the_formula_for_every_prediction():
    @jax.jit
    def found():
        values, gradients, wanted = [], [], []
        for process in PROCESSES:
            times = jnp.linspace(0.1, 0.9, 4) * process.horizon
            name: Any
            for name, predict in predictions(process).items():
                model = anchored_value(process, predict, reward, REST, prediction=name)
                values.append(value(model, times, X))
                gradients.append(jax.grad(lambda x, m=model, t=times: value(m, t, x).sum())(X))
                gain, offset = posterior(process, times)
                data = gain[:, None] * X + offset[:, None]
                turn = jnp.pi / 2 * times / process.horizon
                rest = 0.7 * X.sum(axis=1) + times + C
                of_reward = -CURVATURE * (data - TARGET) * gain[:, None]
                wanted.append(
                    (
                        jnp.cos(turn) * reward(data, C) + jnp.sin(turn) * rest,
                        jnp.cos(turn)[:, None] * of_reward + jnp.sin(turn)[:, None] * 0.7,
                    )
                )
        return jnp.stack(values), jnp.stack(gradients), *map(jnp.stack, zip(*wanted, strict=True))

    values, gradients, wanted, wanted_gradients = found()
    assert len(values) == 5 * len(PROCESSES)
    np.testing.assert_allclose(values, wanted, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(gradients, wanted_gradients, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("prediction", ["score", "noise", "v", "data"])
def test_at_the_end_it_is_the_reward_whatever_the_network(prediction):
    wrong = Model(REST.init, lambda *arguments: jnp.full(4, 1e6))
    predict = lambda t, x, *conditions: x if prediction == "data" else 7 * x + 3  # noqa: E731
    model = anchored_value(VP(0.1, 8.0), predict, reward, wrong, prediction=prediction)
    np.testing.assert_allclose(value(model, jnp.zeros(()), X), reward(X, C), rtol=1e-6)
    flow = anchored_value(RectifiedFlow(), predict, reward, wrong, prediction="flow")
    np.testing.assert_allclose(value(flow, jnp.zeros(()), X), reward(X, C), rtol=1e-6)


def test_at_the_horizon_nothing_is_left_of_the_reward():
    predict = lambda t, x, *conditions: x  # noqa: E731
    model = anchored_value(RectifiedFlow(), predict, reward, REST, prediction="flow")
    rest = REST.apply(0.7, 1.0, X, C)
    np.testing.assert_allclose(value(model, jnp.float32(1.0), X), rest, atol=1e-5)


def test_what_the_network_observes_is_handed_on():
    doubled = REST._replace(observe=lambda t, x, *conditions: 2 * x)
    predict = score_fn(PROCESSES[0])
    plain = anchored_value(PROCESSES[0], predict, reward, REST)
    model = anchored_value(PROCESSES[0], predict, reward, doubled)
    difference = value(model, jnp.float32(0.5), X) - value(plain, jnp.float32(0.5), X)
    share = np.sin(np.pi / 2 * 0.5 / PROCESSES[0].horizon)
    np.testing.assert_allclose(difference, share * 0.7 * X.sum(axis=1), rtol=1e-5, atol=1e-5)


def test_an_unknown_prediction_is_refused(unchecked):
    with pytest.raises(ValueError, match="prediction: received 'nois'"):
        anchored_value(VP(), score_fn(VP()), reward, REST, prediction="nois")  # pyright: ignore


def test_algorithms_take_it_as_their_critic():
    process, batch = PROCESSES[2], Batch(jnp.ones(4), (C,))
    score = score_fn(process)
    grid = grids.log_snr(process, 5, end=1e-2)
    fixed = Model(lambda key: (), lambda params, t, x, c: score(t, x))
    policy = Model(lambda key: jnp.zeros(2), lambda shift, t, x, c: score(t, x) + shift[None])
    problem = DiffusionControl(process, fixed, reward, (2,), grid, 0.5)
    critic = Critic(anchored_value(process, score, reward, REST), optax.adam(1e-2))
    adam = optax.adam(1e-2)
    made = [make(problem, policy, adam, critic) for make in (make_ppo, make_value_gradient)]
    made += [make_policy_gradient(problem, policy, adam, critic)]

    @jax.jit
    def steps():
        found = []
        for algorithm in made:
            state = algorithm.init(jax.random.key(0))
            after, metrics = algorithm.step(state, batch)
            assert after.value is not None
            found.append((after.policy.params, after.value.params, metrics["update/finite"]))
        state = made[0].init(jax.random.key(0))
        rollout = made[0].collect(state, batch)
        assert state.value is not None
        learner = Learner(state.value.params, ())
        evaluated = evaluate_critic(critic, learner, problem, rollout, "next")
        times = problem.forward_times()
        direct = [value(critic.model, t, x) for t, x in zip(times, rollout.states, strict=True)]
        slopes = [
            jax.grad(lambda x, t=t: value(critic.model, t, x).sum())(x)
            for t, x in zip(times[1:], rollout.states[1:], strict=True)
        ]
        return found, evaluated, jnp.stack(direct), jnp.stack(slopes)

    found, evaluated, direct, slopes = steps()
    for policy_params, rate, finite in found:
        assert finite and (np.abs(policy_params) > 0).all() and abs(float(rate) - 0.7) > 1e-3
    np.testing.assert_allclose(evaluated.values, direct[:-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(evaluated.expected, direct[1:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(evaluated.gradients, slopes, rtol=1e-4, atol=1e-4)
