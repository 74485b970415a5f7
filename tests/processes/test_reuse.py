"""A variance-exploding score serves every process whose noise it has seen (reuse, (1))."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import EDM, VE, VP, ContractiveSubVP
from ctrl_jax.processes.parameterization import from_process
from tests.processes.family import every_kind
from tests.processes.gaussian import exact_score

CONVENTIONS = [VE(1e-4, 5e3), VE(1e-4, 5e3, zero_start=False, horizon=2.0)]


def points(process):
    t = jnp.linspace(0.05, 1.0, 6) * process.latest
    return t, jnp.linspace(-2.0, 3.0, 12).reshape(6, 2)


@every_kind
@pytest.mark.parametrize("ve", CONVENTIONS)
def test_the_exact_score_of_one_gives_that_of_the_other(process, ve):
    with jax.enable_x64(True):
        t, x = points(process)
        score_fn = from_process(process, ve, exact_score(ve))
        np.testing.assert_allclose(score_fn(t, x), exact_score(process)(t, x), rtol=1e-8)


def test_the_factor_is_needed():
    """The formula as stated, and without 1/f: wrong by f, which is 7.4 at the horizon."""
    process, ve = ContractiveSubVP(0.01, 8.0), VE(0.01, 50.0)
    with jax.enable_x64(True):
        t, x = points(process)
        f = jnp.exp(process.schedule.integral(t) / 2)
        tau = jnp.log1p((f - 1 / f) ** 2 / 0.01**2) / 2 / jnp.log(5000.0)
        without = exact_score(ve)(tau, x / f[:, None])
        exact = exact_score(process)(t, x)
        np.testing.assert_allclose(without / f[:, None], exact, rtol=1e-9)
        np.testing.assert_allclose(without / exact, f[:, None] * jnp.ones((6, 2)), rtol=1e-9)
        assert f[-1] > 7.4
        ours = from_process(process, ve, exact_score(ve))
        np.testing.assert_allclose(ours(t, x), exact, rtol=1e-9)


@pytest.mark.parametrize("ve", CONVENTIONS)
def test_times_are_the_inverse_of_stds(ve):
    t = jnp.linspace(0.1, 1.0, 5) * ve.horizon
    np.testing.assert_allclose(ve.time_at(ve.marginal(t).std), t, rtol=1e-5)


def test_noise_below_the_least_is_asked_at_the_time_of_the_least():
    """A blurred VE starts at a std of 0.1; VP(0.1, 2) has 0.033 at t = 0.01, 0.92 at t = 0.75."""
    seen = []

    def network(tau, y):
        seen.append(tau)
        return -y

    score_fn = from_process(VP(0.1, 2.0), VE(0.1, 50.0, zero_start=False), network)
    score_fn(jnp.asarray([0.0, 0.01, 0.75]), jnp.ones((3, 2)))
    np.testing.assert_array_equal(seen[0][:2], 0.0)
    assert seen[0][2] > 0.1


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
