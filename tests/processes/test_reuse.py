"""A variance-exploding score serves every process whose noise it has seen (`from_process`)."""

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import EDM, VE, VP, ContractiveSubVP
from ctrl_jax.processes.parameterization import from_process
from tests.processes.compiled import compiled, in_double
from tests.processes.family import every_kind
from tests.processes.gaussian import exact_score

CONVENTIONS = [VE(1e-4, 5e3), VE(1e-4, 5e3, zero_start=False, horizon=2.0)]


X = np.linspace(-2.0, 3.0, 12).reshape(6, 2)


@every_kind
def test_the_exact_score_of_one_gives_that_of_the_other(process):
    def scores(t, x):
        reused = [from_process(process, ve, exact_score(ve))(t, x) for ve in CONVENTIONS]
        return reused, exact_score(process)(t, x)

    found, exact = in_double(scores, np.linspace(0.05, 1.0, 6) * process.latest, X)
    for score in found:
        np.testing.assert_allclose(score, exact, rtol=1e-8)


def test_the_factor_is_needed():
    """The formula as stated, and without 1/f: wrong by f, which is 7.4 at the horizon."""
    process, ve = ContractiveSubVP(0.01, 8.0), VE(0.01, 50.0)

    def scores(t, x):
        f = jnp.exp(process.schedule.integral(t) / 2)
        tau = jnp.log1p((f - 1 / f) ** 2 / 0.01**2) / 2 / jnp.log(5000.0)
        without = exact_score(ve)(tau, x / f[:, None])
        ours = from_process(process, ve, exact_score(ve))(t, x)
        return f, without, exact_score(process)(t, x), ours

    f, without, exact, ours = in_double(scores, np.linspace(0.05, 1.0, 6), X)
    np.testing.assert_allclose(without / f[:, None], exact, rtol=1e-9)
    np.testing.assert_allclose(without / exact, np.repeat(f[:, None], 2, axis=1), rtol=1e-9)
    assert f[-1] > 7.4
    np.testing.assert_allclose(ours, exact, rtol=1e-9)


@pytest.mark.parametrize("ve", CONVENTIONS)
def test_times_are_the_inverse_of_stds(ve):
    t = np.linspace(0.1, 1.0, 5, dtype=np.float32) * np.float32(ve.horizon)
    found = compiled(lambda t: ve.time_at(ve.marginal(t).std), t)
    np.testing.assert_allclose(found, t, rtol=1e-5)


def test_noise_below_the_least_is_asked_at_the_time_of_the_least():
    """A blurred VE starts at a std of 0.1; VP(0.1, 2) has 0.033 at t = 0.01, 0.92 at t = 0.75."""

    def times(t, x):
        seen = []
        trained_on = VE(0.1, 50.0, zero_start=False)
        from_process(VP(0.1, 2.0), trained_on, lambda tau, y: seen.append(tau) or -y)(t, x)
        return seen[0]

    seen = compiled(times, np.asarray([0.0, 0.01, 0.75], np.float32), np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(seen[:2], 0.0)
    assert seen[2] > 0.1


def test_conditions_reach_the_network():
    seen = []

    def network(t, x, *conditions):
        seen.append(conditions)
        return x

    label = jnp.arange(2)
    process = VP(0.1, 2.0)
    from_process(process, VE(), network)(jnp.asarray(0.5), jnp.ones((2, 3)), label)
    assert seen == [(label,)]


def test_noise_that_was_never_seen_is_refused():
    with pytest.raises(ValueError, match="noise-to-signal ratio reaches 80, that of trained_on 50"):
        from_process(EDM(80.0), VE(0.01, 50.0), exact_score(VE()))
