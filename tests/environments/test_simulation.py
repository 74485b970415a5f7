"""The simulator against the exact moments of the Euler chain, and its invariances.

Under a ~ N(K x + b, s^2) the chain x + (A x + B a) h + (C x + D a) sqrt(h) z has

    E x' = (1 + (A + BK) h) m1 + B b h,                                                   (1)

and a second moment that is linear in (m1, m2); no error of discretization is left to allow for.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.environments import (
    Adapted,
    ControlledSDE,
    GaussianSteering,
    LinearGaussian,
    Mixture,
    Pendulum,
    simulate_control,
)
from ctrl_jax.processes import VP
from tests.environments.fixtures import o1, o2, o3

SLOPE, INTERCEPT, STD = -0.3, 0.2, 0.8


def linear(x):
    return SLOPE * x + INTERCEPT, jnp.full(x.shape, STD, x.dtype)


def plain(dimension):
    def policy(x):
        mean = 0.1 * jnp.sum(x, axis=1, keepdims=True) * jnp.ones((1, dimension), x.dtype)
        return mean, jnp.full_like(mean, 0.5)

    return policy


class LimitedReversion:
    """Mean reversion in two coordinates pushed by a limited force, for one state at a time."""

    def drift(self, x, action):
        return -x * jnp.asarray([1.0, 0.5]) + jnp.tanh(action[0])

    def diffusion(self, x, action):
        return 0.2 + 0.1 * jnp.tanh(x) ** 2

    def reward(self, x, action):
        return -jnp.log1p(jnp.sum((x - 1.0) ** 2)) - action[0] ** 2 / 10


def limited_reversion():
    return Adapted(LimitedReversion(), 2, 1, discount=1.0, temperature=0.05)


class OneStateOfO1:
    """O1 written for one state, its noise a matrix."""

    def __init__(self):
        self.batched = o1()

    def drift(self, x, action):
        return self.batched.drift(x[None], action[None])[0]

    def diffusion(self, x, action):
        return self.batched.diffusion(x[None], action[None])[0]

    def reward(self, x, action):
        return self.batched.reward(x[None], action[None])[0]


ENVIRONMENTS = {
    "O1": o1,
    "O2": o2,
    "O3": o3,
    "pendulum": Pendulum,
    "limited reversion": limited_reversion,
}
every_environment = pytest.mark.parametrize("make", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())


def chain_moments(m1, m2, h, steps):
    """Moments of the Euler chain of O1 from fixed moments, by hand."""
    A, B, C, D = -1.0, 0.6, 0.3, 0.5
    slope, push = 1 + (A + B * SLOPE) * h, B * INTERCEPT * h
    noise, shift = C + D * SLOPE, D * INTERCEPT
    for _ in range(steps):
        second = slope**2 * m2 + 2 * slope * push * m1 + push**2 + (B * h * STD) ** 2
        second += h * (noise**2 * m2 + 2 * noise * shift * m1 + shift**2 + (D * STD) ** 2)
        m1, m2 = slope * m1 + push, second
    return m1, m2


def test_moments_of_the_euler_chain():
    """z-scores of mean and second moment of 20000 end states; each passes 4.5 once in 147 000."""
    n, h, steps = 20000, 0.1, 20
    start = jnp.full((n, 1), 0.4)
    path = jax.jit(lambda k: simulate_control(k, o1(), linear, start, dt=h, steps=steps))(
        jax.random.key(0)
    )
    x = np.asarray(path.states[-1, :, 0], np.float64)
    for sample, expected in zip((x, x**2), chain_moments(0.4, 0.16, h, steps), strict=True):
        assert abs(sample.mean() - expected) < 4.5 * sample.std() / np.sqrt(n)


@every_environment
def test_laws_of_every_environment(make):
    env = make()
    assert isinstance(env, ControlledSDE)
    policy = plain(env.action_dimension)
    start = jax.random.normal(jax.random.key(1), (6, env.state_dimension))

    def run(key, start):
        return simulate_control(key, env, policy, start, dt=0.05, steps=4)

    @jax.jit
    def everything(key, start):
        path = run(key, start)
        x, a = path.states[1], path.actions[1]
        keys = jnp.stack([jax.random.key(3), key])
        seeds = jax.vmap(run, in_axes=(0, None))(keys, start[:3])
        return path, seeds, env.drift(x, a), env.reward(x, a)

    path, seeds, drift, reward = everything(jax.random.key(2), start)
    assert path.states.shape == (5, 6, env.state_dimension) and bool(path.ok.all())
    # A step is drift and recorded increment and nothing else.
    expected = path.states[1] + 0.05 * drift + path.increments[1]
    np.testing.assert_allclose(path.states[2], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(path.rewards[1], reward, rtol=1e-5, atol=1e-6)
    # Batch-mates and other seeds change nothing.
    np.testing.assert_allclose(seeds.states[1], path.states[:, :3], rtol=1e-5, atol=1e-6)


def test_an_adapted_environment_is_the_one_it_adapts():
    adapted = Adapted(OneStateOfO1(), 1, 1, discount=1.0, temperature=0.1)
    assert isinstance(adapted, ControlledSDE) and adapted.noise_dimension == 1
    start = jax.random.normal(jax.random.key(1), (6, 1))
    found, expected = jax.jit(
        lambda x: [
            simulate_control(jax.random.key(2), env, linear, x, dt=0.05, steps=3)
            for env in (adapted, o1())
        ]
    )(start)
    for name in ("states", "rewards", "increments"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)


def test_independent_noises_are_a_diagonal_matrix():
    env, x = limited_reversion(), jnp.asarray([[0.3, -2.0], [0.0, 1.0]])
    noise = env.diffusion(x, jnp.zeros((2, 1)))
    assert env.noise_dimension == 2 and noise.shape == (2, 2, 2)
    np.testing.assert_allclose(noise[0], np.diag(0.2 + 0.1 * np.tanh([0.3, -2.0]) ** 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "returned", "message"),
    [
        (
            "drift",
            jnp.zeros((1, 2)),
            r"drift: received \(1, 2\); of one state \(2,\) .* be \(2,\);",
        ),
        ("reward", jnp.zeros(1), r"shape of reward: received \(1,\); of one .* must be \(\);"),
        (
            "diffusion",
            jnp.zeros(()),
            r"diffusion: received \(\); .* be \(2,\) or \(2, 1\);",
        ),
    ],
)
def test_an_environment_that_does_not_fit_is_named(name, returned, message):
    environment = LimitedReversion()
    setattr(environment, name, lambda x, action: returned)
    with pytest.raises(ValueError, match=message):
        Adapted(environment, 2, 1, discount=1.0, temperature=0.05)


def test_float64():
    with jax.enable_x64(True):
        path = simulate_control(
            jax.random.key(0), o1(), linear, jnp.full((2, 1), 0.4), dt=0.1, steps=2
        )
        assert path.states.dtype == path.rewards.dtype == jnp.float64


def test_a_state_that_explodes_is_flagged():
    start = jnp.asarray([[0.1], [jnp.inf]])
    path = simulate_control(jax.random.key(0), o1(), linear, start, dt=0.1, steps=2)
    np.testing.assert_array_equal(path.ok, [True, False])


def test_the_pendulum():
    """At rest downwards, without torque: no drift, reward -2; a full turn is no change; the torque
    has a limit."""
    env = Pendulum()
    down, still = jnp.asarray([[jnp.pi, 0.0]]), jnp.zeros((1, 1))
    np.testing.assert_allclose(env.drift(down, still), 0.0, atol=1e-6)
    np.testing.assert_allclose(env.reward(down, still), [-2.0], rtol=1e-6)
    turned = down + jnp.asarray([[2 * jnp.pi, 0.0]])
    np.testing.assert_allclose(env.observe(turned), env.observe(down), atol=1e-6)
    huge = jnp.full((1, 1), 1e6)
    np.testing.assert_allclose(env.drift(down, huge)[0, 1], env.torque, rtol=1e-5)
    with pytest.raises(ValueError, match=r"Pendulum.torque: received .*; it must be"):
        Pendulum(torque=-1.0)


def test_bad_arguments_are_named(unchecked):
    with pytest.raises(ValueError, match=r"x_0: received .*\[3\]; its shape must be \(batch d\)"):
        simulate_control(jax.random.key(0), o1(), linear, jnp.ones(3), dt=0.1, steps=2)
    with pytest.raises(ValueError, match=r"steps: received 0; .* a whole number of at least 1"):
        simulate_control(jax.random.key(0), o1(), linear, jnp.ones((3, 1)), dt=0.1, steps=0)


STEERING = {"mean": 1.0, "variance": 0.5, "curvature": 2.0, "target": 2.5, "penalty": 2.5}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_number_of_an_environment_may_be_no_number(bad, unchecked):
    """Each argument of each environment, by its name."""
    makers = {
        "LinearQuadratic": (o1, "ABCDMNRPQ"),
        "PairTrading": (o3, ("k", "theta", "eta", "sigma", "rho", "r", "discount", "temperature")),
        "VectorLinearQuadratic": (o2, ("discount", "temperature")),
        "GaussianSteering": (lambda **own: GaussianSteering(VP(), **{**STEERING, **own}), STEERING),
        "Pendulum": (Pendulum, ("gravity", "damping", "noise", "torque", "discount")),
    }
    for owner, (make, names) in makers.items():
        for name in names:
            with pytest.raises(ValueError, match=rf"{owner}\.{name}: received (nan|inf|\[)"):
                make(**{name: bad})
    for name in ("A", "B", "M", "N", "R", "noise"):
        matrix = np.full_like(np.asarray(getattr(o2(), name)), bad)
        with pytest.raises(ValueError, match=rf"VectorLinearQuadratic\.{name}: received .*finite"):
            o2(**{name: matrix})
    good = {"weights": jnp.ones(1), "means": jnp.ones((1, 2)), "variances": jnp.ones((1, 2))}
    for name, value in good.items():
        with pytest.raises(ValueError, match=rf"Mixture\.{name}: received .*finite"):
            Mixture(**{**good, name: bad * value})


def test_numbers_of_steps_and_draws_have_an_end(unchecked):
    mixture = Mixture(jnp.ones(1), jnp.ones((1, 2)), jnp.ones((1, 2)))
    steering, policy = GaussianSteering(VP(), **STEERING), LinearGaussian(0.0, 0.0, 1.0)
    calls = {
        "steps: received 0": lambda: steering.policy_value(policy, steps=0),
        "steps: received 1000": lambda: steering.occupation_moments(policy, steps=10**23),
        "number: received 1000": lambda: mixture.sample(jax.random.key(0), 10**23),
        "simulate_control.steps: received 1000": lambda: simulate_control(
            jax.random.key(0), o1(), lambda x: (x, x), jnp.ones((1, 1)), dt=0.1, steps=10**23
        ),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
