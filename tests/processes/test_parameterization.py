"""Noise, data, v and flow predictions of Gaussian data, all exact, stand for one score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._numerics import expand
from ctrl_jax.processes import VP
from ctrl_jax.processes import parameterization as parameterization
from tests.processes.compiled import in_double
from tests.processes.family import every_kind
from tests.processes.gaussian import MEAN, VARIANCE, exact_score


def exact_networks(process):
    """E[noise | x], E[x_0 | x], E[a noise - std x_0 | x] and E[dx/dt | x] for N(MEAN, VARIANCE)."""

    def moments(t, x):
        scale, std = (expand(c, x) for c in process.marginal(t))
        noised = scale**2 * VARIANCE + std**2
        residual = (x - scale * MEAN) / noised
        return scale, std, MEAN + scale * VARIANCE * residual, std * residual

    def noise(t, x):
        return moments(t, x)[3]

    def data(t, x):
        return moments(t, x)[2]

    def v(t, x):
        scale, std, x_0, eps = moments(t, x)
        return scale * eps - std * x_0

    def flow(t, x):
        _, _, x_0, eps = moments(t, x)
        _, slope = jax.jvp(process.marginal, (t,), (jnp.ones_like(t),))
        return expand(slope.scale, x) * x_0 + expand(slope.std, x) * eps

    return {
        parameterization.from_noise: noise,
        parameterization.from_data: data,
        parameterization.from_v: v,
        parameterization.from_flow: flow,
    }


PARAMETERISATIONS = list(exact_networks(VP()))


X = np.linspace(-2.0, 2.0, 12).reshape(4, 3)


@every_kind
def test_exact_predictions_give_the_exact_score(process):
    """At times up to the horizon, one for all states and one for each."""

    def scores(t):
        x, networks = jnp.asarray(X), exact_networks(process).items()
        return exact_score(process)(t, x), [make(process, net)(t, x) for make, net in networks]

    times = np.asarray([0.05, 0.5, 1.0]) * process.horizon
    for t in (times, np.repeat(times[:, None], 4, axis=1)):
        exact, found = in_double(jax.vmap(scores), t)
        for score in found:
            np.testing.assert_allclose(score, exact, rtol=1e-8)


@pytest.mark.parametrize("parameterize", PARAMETERISATIONS)
def test_conditions_reach_the_network(parameterize):
    seen = []

    def network(t, x, *conditions):
        seen.append(conditions)
        return x

    label = jnp.arange(2)
    parameterize(VP(), network)(jnp.asarray(0.5), jnp.ones((2, 3)), label)
    assert seen == [(label,)]


INVERSE = {
    parameterization.from_noise: parameterization.to_noise,
    parameterization.from_data: parameterization.to_data,
    parameterization.from_v: parameterization.to_v,
    parameterization.from_flow: parameterization.to_flow,
}


@every_kind
def test_round_trips(process):
    """Any network, not only an exact one, is what its score stands for, and the other way round."""

    def network(t, x, label):
        return jnp.tanh(x) + expand(t / process.horizon, x) - 0.3 * expand(label, x)

    def trips(*inputs):
        there_and_back = [
            again(*inputs)
            for make, back in INVERSE.items()
            for again in (
                back(process, make(process, network)),
                make(process, back(process, network)),
            )
        ]
        return network(*inputs), there_and_back

    t, label = np.linspace(0.02, 1.0, 4) * process.latest, np.linspace(0.0, 1.0, 4)
    expected, found = in_double(trips, t, X, label)
    assert len(found) == 8
    for again in found:
        np.testing.assert_allclose(again, expected, rtol=1e-8)


@every_kind
def test_exact_scores_give_exact_predictions(process):
    def predictions(t, x):
        return [
            (INVERSE[make](process, exact_score(process))(t, x), network(t, x))
            for make, network in exact_networks(process).items()
        ]

    for found, exact in in_double(predictions, np.linspace(0.02, 1.0, 4) * process.latest, X):
        np.testing.assert_allclose(found, exact, rtol=1e-8)
