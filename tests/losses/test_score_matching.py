"""Score matching by hand, and the identity DSM = ESM + const for a linear model."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.losses import score_matching


def test_denoising_by_hand():
    score = jnp.asarray([[1.0, -1.0], [0.0, 2.0]])
    noise = jnp.asarray([[0.5, 1.0], [1.0, -1.0]])
    std = jnp.asarray([0.5, 1.0])
    # ((.5 + .5)^2 + (-.5 + 1)^2) / 2 = .625;  ((0 + 1)^2 + (2 - 1)^2) / 2 = 1.
    loss = score_matching.denoising(score, noise, std)
    np.testing.assert_allclose(loss, [0.625, 1.0])
    weighted = score_matching.denoising(score, noise, std, weights=jnp.asarray([2.0, 0.0]))
    np.testing.assert_allclose(weighted, [1.25, 0.0])


def test_the_others_by_hand():
    score = jnp.asarray([[1.0, -1.0], [0.0, 2.0]])
    target = jnp.asarray([[0.0, 1.0], [0.0, 0.0]])
    weights = jnp.asarray([1.0, 3.0])
    # ((1 - 0)^2 + (-1 - 1)^2) / 2 = 2.5;  2^2 / 2 = 2, times 3.
    found = score_matching.explicit(score, target, weights=weights)
    np.testing.assert_allclose(found, [2.5, 6.0])
    # |s|^2 / 2 = 1 and 2; plus 2 div / 2.
    divergence = jnp.asarray([-0.5, 4.0])
    found = score_matching.implicit(score, divergence, weights=weights)
    np.testing.assert_allclose(found, [0.5, 18.0])
    np.testing.assert_allclose(score_matching.sliced(score, divergence), [0.5, 6.0])
    # (v . s)^2 / 2 with v = (1, 1): 0 and 2; v = (1, -1): 2 and 2.
    direction = jnp.asarray([[1.0, 1.0], [1.0, -1.0]])
    found = score_matching.sliced(score, divergence, direction=direction, weights=weights)
    np.testing.assert_allclose(found, [-0.5, 18.0])


def test_the_kernel_score_has_no_loss():
    noise, std = jax.random.normal(jax.random.key(0), (4, 3, 2)), jnp.linspace(0.1, 1.0, 4)
    loss = score_matching.denoising(-noise / std[:, None, None], noise, std)
    np.testing.assert_allclose(loss, 0.0, atol=1e-12)


def test_the_gradient_is_that_of_explicit_score_matching():
    """Data N(0, S) noised to x = a x_0 + std noise; s = -w x. In expectation DSM and ESM have one
    gradient in w, v d/dw E(s - score)^2 = 2 v (w (a^2 S + v) - 1), by Gauss quadrature here."""
    a, std, variance, w = 0.8, 0.6, 0.5, 0.7
    with jax.enable_x64(True):
        nodes, weights = np.polynomial.hermite_e.hermegauss(8)
        x_0, noise = (g.ravel() for g in np.meshgrid(np.sqrt(variance) * nodes, nodes))
        share = np.outer(weights, weights).ravel() / (2 * np.pi)
        x = jnp.asarray(a * x_0 + std * noise)[:, None]

        def loss(w):
            per_example = score_matching.denoising(
                -w * x, jnp.asarray(noise)[:, None], jnp.full(x.shape[0], std)
            )
            return jnp.sum(jnp.asarray(share) * per_example)

        expected = 2 * std**2 * (w * (a**2 * variance + std**2) - 1)
        np.testing.assert_allclose(jax.grad(loss)(w), expected, rtol=1e-10)


def test_one_value_per_example_under_jit_and_vmap():
    score, noise = jax.random.normal(jax.random.key(1), (2, 4, 3))
    std = jnp.linspace(0.1, 1.0, 4)
    plain = score_matching.denoising(score, noise, std)
    assert plain.shape == (4,)
    np.testing.assert_allclose(
        jax.jit(score_matching.denoising)(score, noise, std), plain, rtol=1e-6
    )
    twice = jax.vmap(score_matching.denoising)(
        jnp.stack([score, noise]), jnp.stack([noise, score]), jnp.stack([std, std])
    )
    np.testing.assert_allclose(twice[0], plain, rtol=1e-6)
    jacobian = jax.jacobian(lambda s: score_matching.denoising(s, noise, std))(score)
    np.testing.assert_array_equal(jacobian[0, 1:], 0.0)
