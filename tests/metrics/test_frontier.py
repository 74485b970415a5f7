"""The ideal frontier where the tilt is known: a Gaussian base and a linear reward.

Base N(0, 1), R(x) = x: the tilt at temperature l is N(1/l, 1), so the mean reward is 1/l and the
divergence 1/(2 l^2). Quantiles instead of random samples leave quadrature error only.
"""

import numpy as np
import pytest
import scipy.stats

from ctrl_jax.metrics import frontier

NUMBER = 20000
BASE = scipy.stats.norm.ppf((np.arange(NUMBER) + 0.5) / NUMBER)
TEMPERATURES = np.array([4.0, 2.0, 1.0])


def test_the_gaussian_tilt():
    found = frontier.ideal(BASE, TEMPERATURES, BASE > 1.0)
    assert found.success is not None
    np.testing.assert_allclose(found.reward, 1 / TEMPERATURES, rtol=2e-3)
    np.testing.assert_allclose(found.kl, 1 / (2 * TEMPERATURES**2), rtol=5e-3)
    np.testing.assert_allclose(
        found.success, scipy.stats.norm.sf(1.0 - 1 / TEMPERATURES), rtol=2e-3
    )
    # E_p[w]^2 / E_p[w^2] = e^{-1/l^2}.
    np.testing.assert_allclose(
        found.effective_samples / NUMBER, np.exp(-1 / TEMPERATURES**2), rtol=1e-2
    )


def test_the_optimal_objective():
    for temperature in TEMPERATURES:
        value = frontier.optimal_objective(BASE, float(temperature))
        np.testing.assert_allclose(value, 1 / (2 * temperature), rtol=5e-3)
        # Legendre: E_q R - l KL at the tilt itself.
        at = frontier.ideal(BASE, np.array([temperature]))
        np.testing.assert_allclose(value, at.reward[0] - temperature * at.kl[0], rtol=1e-10)


def test_small_temperatures_do_not_overflow():
    found = frontier.ideal(np.array([0.0, 1.0, 2.0]), np.array([1e-3]))
    np.testing.assert_allclose(found.reward, 2.0)
    np.testing.assert_allclose(found.kl, np.log(3))
    np.testing.assert_allclose(found.effective_samples, 1.0)


def test_the_divergence_at_a_success():
    temperatures = np.linspace(0.7, 5.0, 200)
    found = frontier.ideal(BASE, temperatures, BASE > 1.0)
    success = float(scipy.stats.norm.sf(1.0 - 0.8))
    divergence = frontier.kl_at_success(found, success)
    assert divergence == pytest.approx(0.8**2 / 2, rel=1e-2)
    assert frontier.kl_at_success(found, 0.999) is None
    assert frontier.kl_at_success(found, success, least_effective_samples=1e9) is None


@pytest.mark.parametrize(
    ("rewards", "temperatures", "message"),
    [
        ([0.0, np.nan], [1.0], r"ideal.rewards: received float64\[2\]; all must be finite"),
        (
            [0.0, 1.0],
            [1.0, 0.0],
            r"temperatures: received \[1.0, 0.0\]; all must be finite and pos",
        ),
        ([0.0, 1.0], [np.nan], r"temperatures: received \[nan\]; all must be finite and positive"),
    ],
)
def test_bad_input_is_named(rewards, temperatures, message):
    with pytest.raises(ValueError, match=message):
        frontier.ideal(np.array(rewards), np.array(temperatures))


def test_doors_of_the_frontier(unchecked):
    made = frontier.ideal(np.arange(3.0), np.ones(1))
    for call, said in (
        (lambda: frontier.ideal(np.zeros(0), np.ones(1)), "ideal.rewards: .* one or more"),
        (lambda: frontier.ideal(np.ones(3), np.ones(1), np.ones(2)), "one for each of 3 rewards"),
        (lambda: frontier.optimal_objective(np.ones(3), 0.0), "temperature: received 0.0"),
        (lambda: frontier.optimal_objective(np.full(3, np.nan), 1.0), "objective.rewards: .*"),
        (lambda: frontier.kl_at_success(made, 0.5), "frontier: received None; it was made without"),
        (lambda: frontier.kl_at_success(made._replace(success=np.ones(1)), np.nan), "success: rec"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
