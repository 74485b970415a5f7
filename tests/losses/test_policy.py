"""Policy losses: hand calculations, and the gradients (1) and (2) they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import policy


def test_policy_gradient_by_hand():
    loss = policy.policy_gradient(jnp.asarray([-1.0, 0.5, 2.0]), jnp.asarray([2.0, -3.0, 0.0]))
    # -(-1)(2) = 2;  -(.5)(-3) = 1.5;  -(2)(0) = 0.
    np.testing.assert_allclose(loss, [2.0, 1.5, 0.0])


def test_clipped_surrogate_by_hand():
    log_ratio = jnp.log(jnp.asarray([1.1, 1.5, 1.5, 0.5, 0.5, 1.0]))
    advantage = jnp.asarray([2.0, 2.0, -2.0, 2.0, -2.0, 3.0])
    # clip .2, the interval [.8, 1.2]:
    #   1.1, A = 2:   min(2.2, 2.2) = 2.2      inside
    #   1.5, A = 2:   min(3.0, 2.4) = 2.4      clipped
    #   1.5, A = -2:  min(-3.0, -2.4) = -3.0   the worse of the two
    #   0.5, A = 2:   min(1.0, 1.6) = 1.0      the worse of the two
    #   0.5, A = -2:  min(-1.0, -1.6) = -1.6   clipped
    #   1.0, A = 3:   3.0
    loss = policy.clipped_surrogate(log_ratio, advantage, clip=0.2)
    np.testing.assert_allclose(loss, [-2.2, -2.4, 3.0, -1.0, 1.6, -3.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [  # of the loss in log_ratio: -ratio * A where it flows
        (1.1, 2.0, -2.2),
        (1.3, 2.0, 0.0),  # too far up with A > 0: stop
        (1.3, -2.0, 2.6),  # too far up with A < 0: come back
        (0.7, 2.0, -1.4),  # too far down with A > 0: come back
        (0.7, -2.0, 0.0),  # too far down with A < 0: stop
        (0.9, -2.0, 1.8),
    ],
)
def test_clipping_stops_the_gradient_on_one_side(ratio, advantage, gradient):
    def loss(log_ratio):
        return policy.clipped_surrogate(log_ratio, jnp.asarray([advantage]), clip=0.2)[0]

    found = jax.grad(loss)(jnp.log(jnp.asarray([ratio])))
    np.testing.assert_allclose(found, [gradient], rtol=1e-6)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "kl", "gradient"),
    [  # (6) of the loss in log_ratio, bound .5: -ratio * A where it flows
        (0.3, 2.0, 0.4, -2.0 * np.exp(0.3)),  # inside
        (0.3, 2.0, 0.6, 0.0),  # beyond and farther: stop
        (0.3, -2.0, 0.6, 2.0 * np.exp(0.3)),  # beyond and back
        (-0.3, 2.0, 0.6, -2.0 * np.exp(-0.3)),
        (-0.3, -2.0, 0.6, 0.0),
        (200.0, 1.0, 0.6, 0.0),  # a ratio without a number
        (0.0, 1.0, 0.6, -1.0),  # nothing says which way
    ],
)
def test_a_mask_stops_the_gradient_beyond_the_bound_on_one_side(log_ratio, advantage, kl, gradient):
    def loss(log_ratio):
        rows = jnp.asarray([advantage]), jnp.asarray([kl])
        return policy.masked_surrogate(log_ratio, *rows, bound=0.5)[0]

    value, found = jax.value_and_grad(loss)(jnp.asarray([log_ratio]))
    np.testing.assert_allclose(found, [gradient], rtol=1e-6)
    np.testing.assert_allclose(value, gradient, rtol=1e-6)


def test_every_form_has_the_score_function_gradient_at_the_old_policy():
    """-A grad log pi (1), for a Gaussian policy N(mean, 1): grad log pi = action - mean."""
    actions, advantage = jnp.asarray([0.3, -1.2, 2.0]), jnp.asarray([1.0, -2.0, 0.5])
    mean = 0.7

    def log_prob(m):
        return -((actions - m) ** 2) / 2

    def through(loss):
        return jax.jacobian(lambda m: loss(log_prob(m)))(mean)

    expected = -advantage * (actions - mean)
    np.testing.assert_allclose(
        through(lambda lp: policy.policy_gradient(lp, advantage)), expected, rtol=1e-6
    )
    old = log_prob(mean)
    np.testing.assert_allclose(
        through(lambda lp: policy.clipped_surrogate(lp - old, advantage, clip=0.2)),
        expected,
        rtol=1e-6,
    )


def test_value_gradient_by_hand():
    mean = jnp.asarray([[1.0, 2.0], [0.5, -1.0]])
    gradient = jnp.asarray([[3.0, -1.0], [2.0, 4.0]])
    # -(1*3 + 2*-1) = -1;  -(.5*2 - 1*4) = 3.
    np.testing.assert_allclose(policy.value_gradient(mean, gradient), [-1.0, 3.0])
    # Its gradient in the mean is -grad V, (2).
    slope = jax.grad(lambda m: policy.value_gradient(m, gradient).sum())(mean)
    np.testing.assert_allclose(slope, -gradient)


def test_penalized_surrogates_by_hand():
    log_ratio, advantage = jnp.log(jnp.asarray([1.1, 0.5])), jnp.asarray([2.0, -1.0])
    kl = jnp.asarray([0.04, 0.0])
    # -1.1 * 2 + 3 * .2 = -1.6;  -(.5)(-1) + 0 = .5
    root = policy.sqrt_kl_surrogate(log_ratio, advantage, kl, penalty=3.0, epsilon=1e-12)
    np.testing.assert_allclose(root, [-1.6, 0.5], rtol=1e-4)
    # -2.2 + 3 * .04 = -2.08
    linear = policy.linear_kl_surrogate(log_ratio, advantage, kl, penalty=3.0)
    np.testing.assert_allclose(linear, [-2.08, 0.5], rtol=1e-6)


@pytest.mark.parametrize(("share", "moves"), [(0.9, True), (1.1, False)])
def test_the_kink_of_the_root_holds_the_old_policy(share, moves):
    """Policies N(m, 1), A = g (a - m_0): -E ratio A = -g m and sqrt(KL) = |m| / sqrt 2, so that the
    old policy m = 0 is the minimizer exactly when C > sqrt(2) |g|."""
    m, g = jnp.linspace(-0.5, 0.5, 1001), 0.8
    mean_term = policy.sqrt_kl_surrogate(
        jnp.zeros_like(m), g * m, m**2 / 2, penalty=share * 2**0.5 * g, epsilon=1e-10
    )
    best = m[jnp.argmin(mean_term)]
    assert (abs(best) > 0.4) == moves
    assert moves or abs(best) < 1e-3


def test_the_root_has_a_gradient_at_the_old_policy():
    slope = jax.grad(
        lambda m: policy.sqrt_kl_surrogate(
            jnp.zeros(1), jnp.zeros(1), (m**2 / 2)[None], penalty=5.0
        ).sum()
    )
    np.testing.assert_array_equal(slope(0.0), 0.0)
    # Away from the kink, d/dm C |m| / sqrt 2.
    np.testing.assert_allclose(slope(1.0), 5 / 2**0.5, rtol=1e-4)


def test_the_linear_penalty_leads_to_the_tilted_policy():
    """At one state, A = q - gamma log pi with q = c a - a^2 / 2 and pi = N(m, s^2): the minimizer
    of E[linear surrogate] + gamma KL over Gaussians is pi' ~ exp((q + C log pi) / (gamma + C))."""
    c, m, s, gamma, penalty = 0.7, -0.2, 0.6, 0.1, 0.4
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(20)
    node_weights = jnp.asarray(node_weights / node_weights.sum(), jnp.float32)

    def objective(parameters):
        mean, std = parameters[0], parameters[1]
        a = mean + std * jnp.asarray(nodes, jnp.float32)  # E_pi ratio f = E_pi' f
        log_old = -((a - m) ** 2) / (2 * s**2) - jnp.log(s)
        kl = (std**2 + (mean - m) ** 2) / (2 * s**2) - jnp.log(std / s) - 0.5
        advantage = c * a - a**2 / 2 - gamma * log_old
        loss = policy.linear_kl_surrogate(
            jnp.zeros_like(a), advantage, jnp.full_like(a, kl), penalty=penalty
        )
        return jnp.sum(node_weights * loss) + gamma * kl

    precision = (1 + penalty / s**2) / (gamma + penalty)
    best = jnp.asarray([(c + penalty * m / s**2) / (1 + penalty / s**2), precision**-0.5])
    np.testing.assert_allclose(jax.grad(objective)(best), 0.0, atol=2e-5)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [(0.0221, 6.0), (0.0219, 4.0), (0.0181, 4.0), (0.0179, 4 / 1.5), (0.0, 4 / 1.5)],
)
def test_adapt_penalty(divergence, expected):
    found = jax.jit(lambda d: policy.adapt_penalty(4.0, d, 0.02))(jnp.asarray(divergence))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_penalty_keeps_its_limits():
    assert float(policy.adapt_penalty(4.0, 1.0, 0.02, greatest=5.0)) == 5.0
    np.testing.assert_allclose(policy.adapt_penalty(4.0, 0.0, 0.02, least=3.5), 3.5)


LOSSES = {
    "sqrt_kl_surrogate": lambda x, y, **k: policy.sqrt_kl_surrogate(x, y, x**2, penalty=0.5, **k),
    "linear_kl_surrogate": lambda x, y, **k: policy.linear_kl_surrogate(
        x, y, x**2, penalty=0.5, **k
    ),
    "policy_gradient": lambda x, y, **k: policy.policy_gradient(x, y, **k),
    "clipped_surrogate": lambda x, y, **k: policy.clipped_surrogate(x, y, clip=0.2, **k),
    "value_gradient": lambda x, y, **k: policy.value_gradient(x[:, None], y[:, None], **k),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_laws_of_every_policy_loss(loss):
    x, y = jax.random.normal(jax.random.key(0), (2, 5))
    plain = loss(x, y)
    assert plain.shape == (5,)
    weights = jnp.asarray([1.0, 0.0, 2.0, 0.5, 1.0])
    np.testing.assert_allclose(loss(x, y, weights=weights), weights * plain, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(x, y), plain, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(loss)(jnp.stack([x, y]), jnp.stack([y, x])),
        jnp.stack([plain, loss(y, x)]),
        rtol=1e-6,
    )
    # One value per example: none depends on another.
    jacobian = jax.jacobian(loss)(x, y)
    np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: policy.clipped_surrogate(x, x, clip=NAN), "clip: received nan"),
        (lambda x: policy.clipped_surrogate(x, x, clip=-0.2), "clip: received -0.2"),
        (lambda x: policy.sqrt_kl_surrogate(x, x, x, penalty=-1.0), "penalty: received -1.0"),
        (lambda x: policy.linear_kl_surrogate(x, x, x, penalty=NAN), "penalty: received nan"),
        (lambda x: policy.adapt_penalty(1.0, 1.0, 0.0), "target: received 0.0"),
        (lambda x: policy.adapt_penalty(1.0, 1.0, 0.1, factor=0.5), "factor: received 0.5; it mus"),
    ],
)
def test_a_number_out_of_range_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(jnp.ones(2))
