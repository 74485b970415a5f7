"""Laws of every process: shapes, transformations, and the reversal (3) and (4)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import EDM, VP, ContractiveSubVP
from tests.processes.family import every_kind

T = jnp.asarray(0.2)


@every_kind
@pytest.mark.parametrize("shape", [(), (2,), (4,), (4, 2), (4, 3, 2)])
def test_a_scalar_time_takes_any_state(process, shape):
    x = jnp.full(shape, 2.0)
    drift = process.drift(T, x)
    assert drift.shape == shape
    np.testing.assert_allclose(drift, 2 * float(process.contraction_rate(T)), rtol=1e-6)


@every_kind
@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 2)])
def test_a_vector_of_times_goes_with_the_leading_axis(process, shape):
    t = jnp.linspace(0.05, 0.24, 4)
    x = jax.random.normal(jax.random.key(0), shape)
    together = process.drift(t, x)
    one_by_one = jnp.stack([process.drift(t[i], x[i]) for i in range(4)])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-6)
    assert process.diffusion(t).shape == (4,)
    assert process.marginal(t).scale.shape == process.marginal(t).std.shape == (4,)


@every_kind
def test_sampling_returns_the_noise_it_used(process):
    x_0 = jax.random.normal(jax.random.key(0), (4, 3))
    for t in (T, jnp.linspace(0.05, 0.24, 4)):
        x_t, noise = process.sample_marginal(jax.random.key(1), x_0, t)
        scale, std = (np.broadcast_to(c, 4)[:, None] for c in process.marginal(t))
        np.testing.assert_allclose(x_t, scale * x_0 + std * noise, rtol=1e-6)


@every_kind
def test_marginals_are_drawn(process):
    # Two z-tests of 20000 draws: |z| < 4.5 fails a right sampler with probability 1.4e-5.
    x_t, _ = process.sample_marginal(jax.random.key(2), jnp.full((20000, 1), 1.5), T)
    scale, std = (float(c) for c in process.marginal(T))
    assert abs(float(x_t.mean()) - 1.5 * scale) < 4.5 * std / np.sqrt(20000)
    assert abs(float(x_t.var()) - std**2) < 4.5 * std**2 * np.sqrt(2 / 20000)


@every_kind
def test_the_reversal_has_its_drift_and_diffusion(process):
    sde = process.reverse(lambda t, x: t - 3 * x)
    r, x = jnp.asarray(0.15), jnp.asarray([[0.7], [-1.1]])
    t = process.horizon - r
    g2, b = float(process.diffusion(t)) ** 2, float(process.contraction_rate(t))
    score = t - 3 * np.asarray(x)
    np.testing.assert_allclose(sde.drift(r, x), g2 * score - b * x, rtol=1e-5)
    np.testing.assert_allclose(sde.diffusion(r), np.sqrt(g2), rtol=1e-6)
    ode = sde.probability_flow()
    np.testing.assert_allclose(ode.drift(r, x), g2 * score / 2 - b * x, rtol=1e-5)
    assert float(ode.diffusion(r)) == 0.0


@every_kind
def test_jit_vmap_and_grad(process):
    t, x = jnp.linspace(0.05, 0.24, 4), jnp.ones((4, 2))
    np.testing.assert_allclose(jax.jit(process.drift)(t, x), process.drift(t, x), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(process.drift)(t, x), process.drift(t, x), rtol=1e-6)
    # a' = b a, by autodiff.
    slope = jax.vmap(jax.grad(lambda t: process.marginal(t).scale))(t)
    expected = process.contraction_rate(t) * process.marginal(t).scale
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


@every_kind
def test_noise_overcomes_the_signal(process):
    t = jnp.linspace(0.0, process.horizon, 51)
    assert (jnp.diff(process.noise_to_signal(t)) > 0).all()


@every_kind
def test_samples_are_in_units_of_the_data(process):
    start = process.marginal(jnp.asarray(0.0)).scale
    expected = process.scale_min if isinstance(process, EDM) else 1.0
    np.testing.assert_allclose(start, expected, rtol=1e-7)
    x = jnp.asarray([[1.0, -2.0]])
    np.testing.assert_allclose(process.unscale(start * x), x, rtol=1e-6)


@every_kind
def test_leaves_may_be_traced(process, unchecked):
    t = jnp.asarray(0.2)
    jitted = jax.jit(lambda process, t: process.marginal(t))(process, t)
    np.testing.assert_allclose(jitted, process.marginal(t), rtol=1e-6)
    gradient = jax.grad(lambda process: process.marginal(t).std)(process)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_processes_are_pytrees(unchecked):
    """A batch of processes is one process with batched parameters."""
    rates = jnp.asarray([5.0, 20.0])
    scales = jax.vmap(lambda rate: VP(0.1, rate).marginal(T).scale)(rates)
    np.testing.assert_allclose(
        scales, [VP(0.1, float(rate)).marginal(T).scale for rate in rates], rtol=1e-6
    )
    stds = jax.vmap(lambda o: ContractiveSubVP.cosine(o, beta_max=5.0).marginal(T).std)(rates / 200)
    expected = [ContractiveSubVP.cosine(o, beta_max=5.0).marginal(T).std for o in (0.025, 0.1)]
    np.testing.assert_allclose(stds, expected, rtol=1e-6)


@every_kind
def test_transitions_compose_the_marginals(process, float64):
    """a_t = a_st a_s and v_t = a_st^2 v_s + v_st; no time is no change."""
    s, t = (jnp.asarray(part) * process.latest for part in ([0.0, 0.1, 0.4], [0.2, 0.3, 1.0]))
    (scale_s, std_s), (scale, std) = process.marginal(s), process.marginal(t)
    gain, added = process.transition(s, t)
    np.testing.assert_allclose(gain * scale_s, scale, rtol=1e-12)
    np.testing.assert_allclose((gain * std_s) ** 2 + added**2, std**2, rtol=1e-12)
    still = process.transition(t, t)
    np.testing.assert_allclose(still.scale, 1.0, rtol=1e-15)
    np.testing.assert_array_equal(still.std, 0.0)


@every_kind
def test_times_are_found_by_their_ratio(process, float64):
    t = jnp.asarray([0.01, 0.21, 0.73]) * process.latest  # between the knots of a table
    ratio = process.noise_to_signal(t)
    np.testing.assert_allclose(process.time_at(ratio), t, rtol=1e-8)
    slope = jax.vmap(jax.grad(process.noise_to_signal))(t)
    inverse = jax.grad(lambda ratio: process.time_at(ratio).sum())(ratio)
    np.testing.assert_allclose(inverse * slope, 1.0, rtol=1e-6)
    least = process.noise_to_signal(jnp.asarray([0.0]))
    ends = process.time_at(jnp.concatenate([least / 2, 2 * ratio[-1:] + 1e9]))
    np.testing.assert_allclose(ends, [0.0, process.latest], atol=1e-9 * process.latest)
