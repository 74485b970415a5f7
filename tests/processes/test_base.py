"""Laws of every process: shapes, transformations, and the reversal (3) and (4)."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.processes import EDM, VP, ContractiveSubVP
from tests.processes.compiled import compiled
from tests.processes.family import every_kind

T = np.float32(0.2)
TIMES = np.linspace(0.05, 0.24, 4, dtype=np.float32)
SHAPES = [(), (2,), (4,), (4, 2), (4, 3, 2)]


def states(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@every_kind
def test_a_scalar_time_takes_any_state(process):
    def drifts(t, states):
        return process.contraction_rate(t), [process.drift(t, x) for x in states]

    full = [np.full(shape, 2.0, np.float32) for shape in SHAPES]
    rate, found = compiled(drifts, T, full)
    for drift, shape in zip(found, SHAPES, strict=True):
        assert drift.shape == shape
        np.testing.assert_allclose(drift, 2 * rate, rtol=1e-6)


@every_kind
def test_a_vector_of_times_goes_with_the_leading_axis(process):
    def drifts(t, states):
        together = [process.drift(t, x) for x in states]
        one_by_one = [jnp.stack([process.drift(t[i], x[i]) for i in range(4)]) for x in states]
        return together, one_by_one, process.diffusion(t), process.marginal(t)

    batches = [states(shape) for shape in SHAPES[2:]]
    together, one_by_one, diffusion, marginal = compiled(drifts, TIMES, batches)
    for drift, expected in zip(together, one_by_one, strict=True):
        np.testing.assert_allclose(drift, expected, rtol=1e-6)
    assert diffusion.shape == marginal.scale.shape == marginal.std.shape == (4,)


@every_kind
def test_sampling_returns_the_noise_it_used(process):
    def drawn(x_0, times):
        key = jax.random.key(1)
        return [(process.sample_marginal(key, x_0, t), process.marginal(t)) for t in times]

    x_0 = states((4, 3))
    for (x_t, noise), marginal in compiled(drawn, x_0, [T, TIMES]):
        scale, std = (np.broadcast_to(c, 4)[:, None] for c in marginal)
        np.testing.assert_allclose(x_t, scale * x_0 + std * noise, rtol=1e-6, atol=1e-6)


@every_kind
def test_marginals_are_drawn(process):
    # Two z-tests of 20000 draws: |z| < 4.5 fails a right sampler with probability 1.4e-5.
    def drawn(t):
        x_t, _ = process.sample_marginal(jax.random.key(2), jnp.full((20000, 1), 1.5), t)
        return x_t, process.marginal(t)

    x_t, (scale, std) = compiled(drawn, T)
    assert abs(x_t.mean(dtype=float) - 1.5 * scale) < 4.5 * std / np.sqrt(20000)
    assert abs(x_t.var(dtype=float) - std**2) < 4.5 * std**2 * np.sqrt(2 / 20000)


@every_kind
def test_the_reversal_has_its_drift_and_diffusion(process):
    sde = process.reverse(lambda t, x: t - 3 * x)
    ode = sde.probability_flow()
    r, x = np.float32(0.15), np.asarray([[0.7], [-1.1]], np.float32)

    def said(r, x):
        t = process.horizon - r
        ours = [(law.drift(r, x), law.diffusion(r)) for law in (sde, ode)]
        return t, process.diffusion(t) ** 2, process.contraction_rate(t), ours

    t, g2, b, ((drift, diffusion), (flow, nothing)) = compiled(said, r, x)
    score = t - 3 * x
    np.testing.assert_allclose(drift, g2 * score - b * x, rtol=1e-5)
    np.testing.assert_allclose(diffusion, np.sqrt(g2), rtol=1e-6)
    np.testing.assert_allclose(flow, g2 * score / 2 - b * x, rtol=1e-5)
    assert nothing == 0.0


@every_kind
def test_jit_vmap_and_grad(process):
    x = np.ones((4, 2), np.float32)

    def transformed(t, x):
        # a' = b a, by autodiff.
        slope = jax.vmap(jax.grad(lambda t: process.marginal(t).scale))(t)
        expected = process.contraction_rate(t) * process.marginal(t).scale
        return process.drift(t, x), jax.vmap(process.drift)(t, x), slope, expected

    jitted, vmapped, slope, expected = compiled(transformed, TIMES, x)
    eager = process.drift(jnp.asarray(TIMES), jnp.asarray(x))
    np.testing.assert_allclose(jitted, eager, rtol=1e-6)
    np.testing.assert_allclose(vmapped, eager, rtol=1e-6)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


@every_kind
def test_noise_overcomes_the_signal(process):
    t = np.linspace(0.0, process.horizon, 51, dtype=np.float32)
    assert (np.diff(compiled(process.noise_to_signal, t)) > 0).all()


@every_kind
def test_samples_are_in_units_of_the_data(process):
    x = np.asarray([[1.0, -2.0]], np.float32)

    def both(t, x):
        start = process.marginal(t).scale
        return start, process.unscale(start * x)

    start, unscaled = compiled(both, np.float32(0.0), x)
    expected = process.scale_min if isinstance(process, EDM) else 1.0
    np.testing.assert_allclose(start, expected, rtol=1e-7)
    np.testing.assert_allclose(unscaled, x, rtol=1e-6)


@every_kind
def test_leaves_may_be_traced(process, unchecked):
    def traced(process, t):
        gradient = jax.grad(lambda process: process.marginal(t).std)(process)
        return process.marginal(t), jax.tree.leaves(gradient)

    jitted, gradient = compiled(traced, process, T)
    np.testing.assert_allclose(jitted, process.marginal(jnp.asarray(T)), rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in gradient)


def test_processes_are_pytrees(unchecked):
    """A batch of processes is one process with batched parameters."""

    def scale(rate):
        return VP(0.1, rate).marginal(jnp.asarray(T)).scale

    def std(offset):
        return ContractiveSubVP.cosine(offset, beta_max=5.0).marginal(jnp.asarray(T)).std

    for function, values in ((scale, (5.0, 20.0)), (std, (0.025, 0.1))):
        batched = compiled(jax.vmap(function), np.asarray(values, np.float32))
        expected = compiled(lambda: [function(value) for value in values])  # noqa: B023
        np.testing.assert_allclose(batched, expected, rtol=1e-6)


@every_kind
def test_transitions_compose_the_marginals(process, float64):
    """a_t = a_st a_s and v_t = a_st^2 v_s + v_st; no time is no change."""

    def laws(s, t):
        still = process.transition(t, t)
        return process.marginal(s), process.marginal(t), process.transition(s, t), still

    s, t = (np.asarray(part) * process.latest for part in ([0.0, 0.1, 0.4], [0.2, 0.3, 1.0]))
    (scale_s, std_s), (scale, std), (gain, added), still = compiled(laws, s, t)
    np.testing.assert_allclose(gain * scale_s, scale, rtol=1e-12)
    np.testing.assert_allclose((gain * std_s) ** 2 + added**2, std**2, rtol=1e-12)
    np.testing.assert_allclose(still.scale, 1.0, rtol=1e-15)
    np.testing.assert_array_equal(still.std, 0.0)


@every_kind
def test_times_are_found_by_their_ratio(process, float64):
    t = np.asarray([0.01, 0.21, 0.73]) * process.latest  # between the knots of a table

    def both_ways(t):
        ratio = process.noise_to_signal(t)
        least = process.noise_to_signal(jnp.zeros(1))
        beyond = jnp.concatenate([ratio, least / 2, 2 * ratio[-1:] + 1e9])
        found, inverse = jax.vmap(jax.value_and_grad(process.time_at))(beyond)
        return found, inverse[:3] * jax.vmap(jax.grad(process.noise_to_signal))(t)

    found, product = compiled(both_ways, t)
    np.testing.assert_allclose(found[:3], t, rtol=1e-8)
    np.testing.assert_allclose(product, 1.0, rtol=1e-6)
    np.testing.assert_allclose(found[3:], [0.0, process.latest], atol=1e-9 * process.latest)
