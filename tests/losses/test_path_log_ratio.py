"""Log-ratios of diffusion paths, and preference losses of them: by hand and against Girsanov."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import path_log_ratio, preference
from ctrl_jax.processes import VP
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, girsanov

NEUTRAL = float(np.exp(-0.5))
ERRORS = jnp.asarray([[0.10, 0.20], [0.30, 0.15], [0.12, 0.21], [0.28, 0.15]])
RATIOS = jnp.asarray([[0.01, -0.3, 0.5], [0.02, 0.05, -0.5]])
PROCESS = VP(0.1, 10.0)


def noise_ratios():
    """Of the chosen and the rejected example."""
    return map(path_log_ratio.from_noise_errors, ERRORS[:2], ERRORS[2:])


def step_ratios(clip=0.1):
    return (path_log_ratio.from_stored_steps(ratio, clip=clip) for ratio in RATIOS)


def test_diffusion_dpo_by_hand():
    # -.5 * 100 * [(.10 - .12) - (.30 - .28)] = 2 and -50 * [-.01 - 0] = .5.
    found = preference.dpo(*noise_ratios(), beta=100.0)
    np.testing.assert_allclose(found, np.log1p(np.exp([-2.0, -0.5])), rtol=1e-5)


def test_d3po_by_hand():
    # Ratios held in [.9, 1.1]: -.3 -> log .9, .5 -> log 1.1, -.5 -> log .9.
    margins = [0.01 - 0.02, np.log(0.9) - 0.05, np.log(1.1) - np.log(0.9)]
    found = preference.dpo(*step_ratios(), beta=10.0)
    np.testing.assert_allclose(found, np.log1p(np.exp(-10 * np.array(margins))), rtol=1e-5)
    wider = preference.dpo(*step_ratios(clip=0.2), beta=10.0)
    margins = [0.01 - 0.02, np.log(0.8) - 0.05, np.log(1.2) - np.log(0.8)]
    np.testing.assert_allclose(wider, np.log1p(np.exp(-10 * np.array(margins))), rtol=1e-5)

    def total(chosen):
        held = path_log_ratio.from_stored_steps(chosen, clip=0.1)
        return jnp.sum(preference.dpo(held, RATIOS[1], beta=10.0))

    slope = jax.grad(total)(RATIOS[0])
    assert slope[0] < 0 and not slope[1:].any()


def test_diffusion_kto_is_kto_at_its_published_beta():
    """Where Diffusion-DPO has -beta/2 times the difference of the errors, it has -beta."""
    ratio = path_log_ratio.from_noise_errors(ERRORS[0], ERRORS[2], share=1.0)
    found = preference.kto(ratio, jnp.asarray([True, False]), 0.002, beta=50.0)
    # The differences .02 and .01: sigmoid(-50 * .018), sigmoid(50 * .008).
    np.testing.assert_allclose(found, 1 / (1 + np.exp([0.9, -0.4])), rtol=1e-5)
    half, _ = noise_ratios()
    np.testing.assert_allclose(ratio, 2 * half, rtol=1e-6)


@pytest.mark.parametrize("ratios", [noise_ratios, step_ratios])
def test_mallows_forms(ratios):
    pair = tuple(ratios())
    dpo = preference.dpo(*pair, beta=50.0)
    theta = partial(preference.mallows_theta, *pair)
    phi = partial(preference.mallows_phi, *pair)
    np.testing.assert_allclose(theta(beta=50.0, dispersion=NEUTRAL), dpo, rtol=1e-6)
    dispersions = jnp.linspace(0.1, 0.9, dpo.size)
    np.testing.assert_allclose(
        phi(beta=50.0, dispersion=dispersions, link="sigmoid"),
        theta(beta=25.0, dispersion=dispersions),
        rtol=1e-5,
    )
    exact = phi(beta=50.0, dispersion=dispersions)
    # Values on the same side of log 2, and none for a pair that nobody agrees on.
    np.testing.assert_array_equal(exact < np.log(2), dpo < np.log(2))
    np.testing.assert_allclose(phi(beta=50.0, dispersion=1.0), np.log(2), rtol=1e-6)


def scores(t, x):
    """The score of a standard normal, the reference's and the model's."""
    return -x, -0.8 * x + 0.1, -1.1 * x + 0.3 * jnp.sin(x)


def grid_of(steps):
    return jnp.linspace(0.0, 0.95, steps + 1)


def driven(kernel, grid, noise):
    """States and scores along chains that the first score drives, states at the steps' starts."""

    def step(x, inputs):
        at, r, z = inputs
        a_0, _, _ = scores(PROCESS.horizon - r, x)
        return at.mean(x, a_0) + at.std * z, x

    start = jnp.linspace(-1.0, 1.0, noise.shape[1])[:, None]
    states = jax.lax.scan(step, start, (kernel, grid[:-1], noise))[1]
    return states, scores(None, states)


@pytest.mark.parametrize("solver", [EulerMaruyama(), ExponentialEuler()], ids=["euler", "ddim"])
def test_the_ratio_of_a_chain_is_that_of_its_densities(solver):
    """Log-densities of the Gaussian steps in float64 by NumPy, for a third law's samples."""
    steps, grid = 20, grid_of(20)
    kernel = solver.kernel(PROCESS, grid[:-1], grid[1:])
    noise = jax.random.normal(jax.random.key(0), (steps, 6, 1))
    states, (a_0, a_ref, a) = driven(kernel, grid, noise)
    found = path_log_ratio.of_steps(kernel.kl_rate, noise, a_0, a, a_ref)
    assert found.shape == (steps, 6)
    arrays = [np.asarray(v, np.float64) for v in (states, noise, a_0, a_ref, a)]
    state_gain, gain, std = (np.asarray(c, np.float64)[:, None, None] for c in kernel)
    x, z, a_0, a_ref, a = arrays
    end = state_gain * x + gain * a_0 + std * z

    def log_density(action):
        return (-((end - state_gain * x - gain * action) ** 2) / (2 * std**2))[..., 0]

    np.testing.assert_allclose(found, log_density(a) - log_density(a_ref), rtol=2e-4, atol=2e-6)


def test_of_ones_own_path_it_is_girsanov():
    """Driven by the model itself: `girsanov.log_ratio`; by the reference: minus the other one."""
    grid = grid_of(5)
    kernel = EulerMaruyama().kernel(PROCESS, grid[:-1], grid[1:])
    noise = jax.random.normal(jax.random.key(1), (5, 4, 2))
    a, b = jax.random.normal(jax.random.key(2), (2, 5, 4, 2))
    each = jax.jit(jax.vmap(girsanov.log_ratio))
    np.testing.assert_allclose(
        path_log_ratio.of_steps(kernel.kl_rate, noise, a, a, b),
        each(kernel, noise, a, b),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        path_log_ratio.of_steps(kernel.kl_rate, noise, b, a, b),
        -each(kernel, noise, b, a),
        rtol=1e-5,
    )


def test_chains_converge_to_girsanov(float64):
    """The same Brownian path in 8 to 128 steps against 1024. The integrand of dB depends on the
    state and is held over a step: order one half."""
    finest = 1024
    small = jax.random.normal(jax.random.key(3), (finest, 200, 1), jnp.float64)

    @partial(jax.jit, static_argnums=0)
    def log_ratio(steps):
        grid = grid_of(steps)
        kernel = EulerMaruyama().kernel(PROCESS, grid[:-1], grid[1:])
        noise = small.reshape(steps, finest // steps, 200, 1).sum(axis=1) / (finest / steps) ** 0.5
        _, (a_0, a_ref, a) = driven(kernel, grid, noise)
        return path_log_ratio.of_steps(kernel.kl_rate, noise, a_0, a, a_ref).sum(axis=0)

    limit = log_ratio(finest)
    sizes = np.array([8, 32, 128])
    errors = [float(jnp.sqrt(jnp.mean((log_ratio(int(n)) - limit) ** 2))) for n in sizes]
    order = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    # 200 paths know the root mean square to about 7 %, and the slope over four octaves to 0.05.
    assert 0.4 < order < 0.9, (order, errors)


def test_noise_errors_are_the_mean_of_girsanov():
    """Equation (3) step by step: paths pinned at x are driven by -eps/std; the mean over z of (2)
    is -(kl_rate/std^2) times the difference of square noise errors over two, z having mean zero."""
    steps, grid = 8, grid_of(8)
    kernel = EulerMaruyama().kernel(PROCESS, grid[:-1], grid[1:])
    std = PROCESS.marginal(PROCESS.horizon - grid[:-1]).std[:, None, None]
    eps, eps_a, eps_ref = jax.random.normal(jax.random.key(4), (3, steps, 5, 1))
    arguments = (-eps / std, -eps_a / std, -eps_ref / std)
    z = jax.random.normal(jax.random.key(5), (steps, 5, 1))
    there = path_log_ratio.of_steps(kernel.kl_rate, z, *arguments)
    back = path_log_ratio.of_steps(kernel.kl_rate, -z, *arguments)
    rho = path_log_ratio.from_noise_errors(
        jnp.mean((eps - eps_a) ** 2, axis=2), jnp.mean((eps - eps_ref) ** 2, axis=2)
    )
    weight = (kernel.kl_rate / std[:, 0, 0] ** 2)[:, None]
    np.testing.assert_allclose((there + back) / 2, weight * rho, rtol=1e-4, atol=1e-5)


def test_ratios_of_bfloat16_scores_are_summed_in_float32():
    """Two scores a part in a hundred apart, one in another: their difference is what counts."""
    rate, noise = jnp.ones(2, jnp.bfloat16), jnp.ones((2, 3, 400), jnp.bfloat16)
    a, b = jnp.full_like(noise, 1.01), jnp.full_like(noise, 1.0)
    found = path_log_ratio.of_steps(rate, noise, a, a, b)
    assert found.dtype == jnp.float32
    shift = float(a[0, 0, 0] - b[0, 0, 0])
    np.testing.assert_allclose(found, 400 * shift * (1 + shift / 2), rtol=1e-5)


X = jnp.ones(3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: path_log_ratio.from_noise_errors(X, X[:2]), "reference_error: .* the shape and"),
        (lambda: path_log_ratio.from_noise_errors(X, jnp.arange(3)), "of floating type"),
        (lambda: path_log_ratio.from_noise_errors(X, X, share=0.0), "share: received 0.0; it must"),
        (lambda: path_log_ratio.from_stored_steps(X, clip=1.0), "clip: received 1.0; it must lie"),
        (lambda: path_log_ratio.from_stored_steps(X > 0, clip=0.1), "of floating type"),
        (
            lambda: path_log_ratio.of_steps(jnp.ones(2), *jnp.ones((4, 3, 2, 1))),
            r"rate: received float32\[2\]; it must be float32\[3\]",
        ),
        (
            lambda: path_log_ratio.of_steps(X, *jnp.ones((4, 3))),
            r"noise: received float32\[3\]; it must have shape \(steps, batch, ...\)",
        ),
    ],
)
def test_what_is_refused(call, said, unchecked):
    with pytest.raises(ValueError, match=said):
        call()
