"""The bounds of `contraction`: closed forms, limits, another quadrature, and that they hold."""

import jax
import numpy as np
import pytest
from scipy.integrate import quad

from ctrl_jax.processes import EDM, OU, VP, ContractiveOU, ContractiveSubVP, ContractiveVP
from ctrl_jax.processes.contraction import margin, total_variation_bound, wasserstein_bound
from tests.oracles import linear_sdes
from tests.processes.compiled import compiled, in_double
from tests.processes.family import KINDS, each
from tests.processes.gaussian import exact_score, laws, reversed_law


def constant(rate, sigma, horizon, initial_error, score_error, lipschitz, h):
    """The bound (2) for constant coefficients."""
    a = 2 * rate - 2 * (lipschitz + h) * sigma**2
    forgotten = -np.expm1(-a * horizon) / a
    return np.sqrt(
        initial_error**2 * np.exp(-a * horizon) + (score_error * sigma) ** 2 / (2 * h) * forgotten
    )


def test_the_printed_value_and_its_limit():
    errors = {"initial_error": 0.2, "score_error": 0.1, "lipschitz": 0.4}

    def bounds():
        printed = wasserstein_bound(ContractiveOU(1.0, 1.0, horizon=5.0), **errors, h=0.3)
        return printed, wasserstein_bound(ContractiveOU(1.0, 1.0, horizon=200.0), **errors)

    printed, best = in_double(bounds)
    np.testing.assert_allclose(printed, 0.168482, atol=5e-7)
    np.testing.assert_allclose(best, 0.1 / 0.6, rtol=1e-9)


@pytest.mark.parametrize(("make", "sign"), [(OU, -1), (ContractiveOU, 1)])
def test_constant_coefficients(make, sign):
    errors = (0.3, 0.2, -0.5)
    named = dict(zip(("initial_error", "score_error", "lipschitz"), errors, strict=True))
    cases = [(horizon, h) for horizon in (0.5, 3.0) for h in (0.05, 0.9)]

    def bounds():
        return [wasserstein_bound(make(0.8, 1.3, horizon=T), **named, h=h) for T, h in cases]

    expected = [constant(sign * 0.8, 1.3, T, *errors, h) for T, h in cases]
    np.testing.assert_allclose(in_double(bounds), expected, rtol=1e-10)


def test_an_independent_quadrature():
    """VP with a Lipschitz constant that depends on time, by nested SciPy integrals."""
    process, oracle = VP(0.2, 2.0, horizon=3.0), linear_sdes.VariancePreserving(0.2, 2.0, 3.0)

    def exponent(t):
        slope = quad(lambda s: oracle.beta(s) * (1 + 2 * (0.1 - s / 3 + 0.2)), 0, t)
        return slope[0]

    integral = quad(lambda t: oracle.beta(t) * np.exp(exponent(t)), 0, 3.0)[0]
    expected = np.sqrt(0.3**2 * np.exp(exponent(3.0)) + 0.1**2 / (2 * 0.2) * integral)
    errors = {"initial_error": 0.3, "score_error": 0.1, "lipschitz": lambda t: 0.1 - t / 3}
    found = in_double(lambda: wasserstein_bound(process, **errors, h=0.2))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_an_error_that_depends_on_time():
    """A constant function is the constant; one that vanishes leaves the start's error alone."""

    def bounds():
        return [
            wasserstein_bound(
                ContractiveVP(0.5, 4.0),
                initial_error=0.2,
                score_error=error,
                lipschitz=lipschitz,
                h=h,
            )
            for error, lipschitz, h in (
                (0.3, 0.1, 0.4),
                (lambda t: 0.3 + 0 * t, 0.1, 0.4),
                (lambda t: 0 * t, 0.0, 1e-6),
            )
        ]

    constant_, function, alone = compiled(bounds)
    np.testing.assert_allclose(constant_, function, rtol=1e-6)
    np.testing.assert_allclose(alone, 0.2 * np.exp(-2.25 / 2), rtol=1e-5)


def test_a_scaled_start():
    """Without an error of the score the error of the start shrinks with a: eta a(0) / a(T)."""
    errors = {"initial_error": 0.3, "score_error": 0.0, "lipschitz": 0.0, "h": 1e-9}
    starts = [1.0, 0.9, 0.5]
    found = compiled(lambda: [wasserstein_bound(EDM(8.0, start), **errors) for start in starts])
    np.testing.assert_allclose(found, 0.3 * np.asarray(starts), rtol=1e-5)


@pytest.mark.parametrize("process", [VP(), ContractiveOU(), ContractiveVP(), EDM(8.0, 0.9)])
def test_the_default_h_is_the_best(process, unchecked):
    errors = {"initial_error": 0.3, "score_error": 0.1, "lipschitz": lambda t: -0.01 * t}

    def bounds(h):
        scanned = jax.vmap(lambda h: wasserstein_bound(process, **errors, h=h))(h)
        return wasserstein_bound(process, **errors), scanned

    best, scanned = compiled(bounds, np.geomspace(1e-6, 10, 60).astype(np.float32))
    assert best <= scanned.min() * (1 + 1e-5)


QUICK = {"ou", "vp", "contractive sub-vp", "edm, contractive", "rectified flow"}


@each(KINDS, KINDS.keys() - QUICK)
def test_the_bound_holds(process):
    """Gaussian data, the exact score plus a constant, a start that is off: W2 is known exactly."""

    def slope(t):
        scale, std = process.marginal(t)
        return -1 / (0.25 * scale**2 + std**2)

    (mean, variance), data = laws(process, process.horizon, 0.0)
    start = mean + 0.3, (np.sqrt(variance) + 0.4) ** 2
    sdes = [
        process.reverse(lambda t, x, bias=bias: exact_score(process)(t, x) + bias)
        for bias in (-0.2, 0.2)
    ]
    found = reversed_law(sdes, start, 0.0)
    w2 = np.hypot(found[0] - data[0], np.sqrt(found[1]) - np.sqrt(data[1]))
    errors = {"initial_error": 0.5, "score_error": 0.2}
    bound = compiled(lambda: wasserstein_bound(process, **errors, lipschitz=slope))
    assert w2.shape == (2,) and (w2 <= bound * (1 + 1e-5)).all()


def test_the_criterion():
    def margins():
        return [
            margin(ContractiveOU(1.0, 1.0), 0.4),
            margin(OU(1.0, 1.0), 0.0),
            margin(ContractiveVP(0.5, 8.0), 0.0),
            margin(VP(), lambda t: -1.0 + t),
        ]

    np.testing.assert_allclose(compiled(margins), [0.6, -1.0, 0.25, -10.0], rtol=1e-6)


def test_total_variation():
    """The integral of beta of VP(.1, 20) is 10.05."""
    found = compiled(lambda: total_variation_bound(VP(), initial_error=0.01, score_error=0.1))
    np.testing.assert_allclose(found, 0.01 + 0.05 * np.sqrt(10.05), rtol=1e-6)


def test_jit_vmap_and_grad(unchecked):
    """Compiled, batched and differentiated it is what it is for numbers."""

    def bound(process, error):
        return wasserstein_bound(process, initial_error=0.2, score_error=error, lipschitz=0.4)

    process, width = ContractiveOU(1.0, 1.0, horizon=5.0), 1e-2
    errors = np.asarray([0.1, 0.3, 0.1 - width, 0.1 + width], np.float32)
    jitted, slopes = compiled(jax.vmap(jax.value_and_grad(bound, 1), (None, 0)), process, errors)
    np.testing.assert_allclose(
        jitted, compiled(lambda: [bound(process, float(e)) for e in errors]), 1e-5
    )
    np.testing.assert_allclose(slopes[0], (jitted[3] - jitted[2]) / (2 * width), rtol=1e-3)


def test_a_bound_that_says_nothing_is_infinite():
    errors = {"initial_error": 0.1, "score_error": 0.1, "lipschitz": 5.0}
    found = compiled(lambda: wasserstein_bound(ContractiveSubVP(1.0, 8.0), **errors))
    assert found == np.inf


@pytest.mark.parametrize("name", ["initial_error", "score_error"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_bad_errors_are_named(name, value):
    errors = {"initial_error": 0.1, "score_error": 0.1} | {name: value}
    with pytest.raises(ValueError, match=rf"{name}: received {value}; it must be"):
        wasserstein_bound(OU(), **errors, lipschitz=0.1)


def test_a_bad_h_is_named():
    with pytest.raises(ValueError, match=r"h: received 0.0; it must be above zero"):
        wasserstein_bound(OU(), initial_error=0.1, score_error=0.1, lipschitz=0.1, h=0.0)
