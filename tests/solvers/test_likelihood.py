"""Likelihood against exact densities of mixtures: value, normalization, gradient, estimate."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ctrl_jax.environments import Mixture
from ctrl_jax.processes import EDM, VP, ContractiveSubVP
from ctrl_jax.solvers import bits_per_dim, log_likelihood
from ctrl_jax.solvers.likelihood import Settings, _signs

WEIGHTS, MEANS, VARIANCES = [0.4, 0.6], [[-1.0], [1.2]], [[0.09], [0.16]]
PLANE = [0.4, 0.6], [[-1.0, 0.5], [1.2, 0.0]], [[0.3, 0.2], [0.25, 0.4]]


def problem(process, weights=WEIGHTS, means=MEANS, variances=VARIANCES):
    """The mixture, the score of its noised laws, and its log-density at the horizon."""
    mixture = Mixture(*(jnp.asarray(p) for p in (weights, means, variances)))

    def score_fn(t, x):
        return jax.vmap(mixture.noised(*process.marginal(t)).score)(x)

    def at_horizon(x):
        noised = mixture.noised(*process.marginal(jnp.asarray(process.horizon)))
        return jax.nn.logsumexp(jax.vmap(noised.component_log_probs)(x), axis=1)

    return mixture, score_fn, at_horizon


def exact(x, weights=WEIGHTS, means=MEANS, variances=VARIANCES):
    density = sum(
        w * scipy.stats.norm.pdf(x, m, np.sqrt(s)).prod(axis=1)
        for w, m, s in zip(weights, means, variances, strict=True)
    )
    return np.log(density)


# Quick, `test_entry_points` has a process that grows.
GROWING = pytest.param(ContractiveSubVP(0.01, 6.0), marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[VP(0.1, 12.0), GROWING], ids=str)
def line(request):
    """Log-density over the line, with the exact law at the horizon and with the prior."""
    _, score_fn, at_horizon = problem(request.param)
    x = jnp.linspace(-3.5, 4.0, 301)[:, None]

    @jax.jit
    def both(x):
        return [
            log_likelihood(request.param, score_fn, x, prior_log_prob=prior)
            for prior in (at_horizon, None)
        ]

    return x, *both(x)


def test_the_density_is_the_mixtures(line):
    """To 1e-3 in log wherever the density is above e^-8 of its scale."""
    x, found, _ = line
    expected = exact(np.asarray(x, float))
    inside = expected > -8
    assert found.ok.all() and inside.sum() > 150
    np.testing.assert_allclose(found.log_prob[inside], expected[inside], atol=1e-3)


def test_the_density_integrates_to_one(line):
    """Of the data's law, and of the model's, which starts from the prior."""
    x, *both = line
    for found in both:
        mass = np.trapezoid(np.exp(np.asarray(found.log_prob, float)), np.asarray(x[:, 0], float))
        assert abs(mass - 1) < 1e-3


@pytest.fixture(scope="module")
def plane():
    """In the plane: exact log-densities and their gradient, 400 one-probe and 100 eight-probe
    estimates."""
    process = VP(0.1, 12.0)
    mixture, score_fn, at_horizon = problem(process, *PLANE)

    def log_prob(x, key=None, probes=1):
        found = log_likelihood(
            process,
            score_fn,
            x,
            divergence="exact" if key is None else "hutchinson",
            key=key,
            prior_log_prob=at_horizon,
            settings=Settings(probes=probes),
        )
        return found.log_prob

    @jax.jit
    def everything(x, keys):
        value, push = jax.vjp(log_prob, x)
        one = jax.vmap(lambda k: log_prob(x, k))(keys)
        eight = jax.vmap(lambda k: log_prob(x, k, 8))(keys[:100])
        return value, push(jnp.ones(6))[0], one, eight

    x = jax.random.normal(jax.random.key(0), (6, 2))
    return mixture, x, *everything(x, jax.random.split(jax.random.key(1), 400))


@pytest.mark.slow
def test_two_dimensions_and_the_gradient_is_the_score(plane):
    mixture, x, value, slope, *_ = plane
    np.testing.assert_allclose(value, exact(np.asarray(x, float), *PLANE), atol=1e-3)
    np.testing.assert_allclose(slope, jax.vmap(mixture.score)(x), atol=5e-3)


@pytest.mark.slow
def test_hutchinsons_estimate_is_unbiased(plane):
    """The mean of 400 estimates against the exact trace, example by example: six z-tests at
    |z| < 4.5, false alarm 4e-5; 1e-3 is the solver's own error."""
    _, _, value, _, one, *_ = plane
    error = np.asarray(one, float) - np.asarray(value, float)
    assert error.std(axis=0).max() > 0.1, "or there is nothing to average"
    assert (np.abs(error.mean(axis=0)) < 4.5 * error.std(axis=0) / 20 + 1e-3).all()


@pytest.mark.slow
def test_probes_average(plane):
    """Eight probes have an eighth of the variance; the ratio of estimated variances, of 400 and 100
    draws, stays below 2 of that (their logarithms' deviation is .16)."""
    *_, one, eight = plane
    ratio = np.var(eight, axis=0).sum() / np.var(one, axis=0).sum()
    assert ratio < 2 / 8


def test_rows_keep_their_signs():
    """Whatever the batch."""
    key, x = jax.random.key(1), jnp.zeros((6, 2))
    many, few = (np.asarray(_signs(key, 8, rows)) for rows in (x, x[:2]))
    np.testing.assert_array_equal(many[:, :2], few)
    assert (abs(many) == 1).all() and abs(many.mean()) < 0.5


def test_a_scaled_start():
    """EDM of scaling s_0 < 1 begins at s_0 x_0; the density is that of the datum x_0."""
    process = EDM(20.0, 0.5)
    _, score_fn, at_horizon = problem(process)
    x = jnp.linspace(-2.0, 2.0, 7)[:, None]
    found = jax.jit(lambda x: log_likelihood(process, score_fn, x, prior_log_prob=at_horizon))(x)
    np.testing.assert_allclose(found.log_prob, exact(np.asarray(x, float)), atol=2e-3)


def test_bits_per_dim_of_uniform_bytes():
    """Bytes scaled to [-1, 1] with density 1/2 per dimension need eight bits each."""
    log_prob = jnp.full((2,), 12 * math.log(0.5))
    np.testing.assert_allclose(bits_per_dim(log_prob, 12, bin_width=2 / 256), 8.0, rtol=1e-6)


def test_a_solve_that_runs_out_of_steps_is_flagged():
    process = VP()
    _, score_fn, _ = problem(process)
    found = log_likelihood(process, score_fn, jnp.ones((2, 1)), settings=Settings(max_steps=3))
    assert not found.ok.any()


def test_errors_at_the_door(unchecked):
    process = VP()
    _, score_fn, _ = problem(process)
    x = jnp.ones((2, 1))
    with pytest.raises(ValueError, match=r"divergence: received 'trace'; .*exact\|hutchinson"):
        log_likelihood(process, score_fn, x, divergence="trace")  # pyright: ignore
    with pytest.raises(ValueError, match=r"key: received None; .* draws random signs"):
        log_likelihood(process, score_fn, x, divergence="hutchinson")
    with pytest.raises(ValueError, match="the exact divergence draws nothing"):
        log_likelihood(process, score_fn, x, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"bits_per_dim.bin_width: received .*; it must be"):
        bits_per_dim(jnp.ones(2), 3, bin_width=0.0)


def test_a_score_of_another_shape_is_refused():
    """Batches of one would broadcast it, to a likelihood of nothing."""
    for score_fn in (lambda t, x: -x[0], lambda t, x: -x.sum(axis=1)):
        with pytest.raises(ValueError, match=r"score_fn: .*; the score must have x's shape"):
            log_likelihood(VP(), score_fn, jnp.ones((3, 2)))


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match=r"received \(0, 2\); it must hold an example"):
        log_likelihood(VP(), lambda t, x: -x, jnp.ones((0, 2)))
