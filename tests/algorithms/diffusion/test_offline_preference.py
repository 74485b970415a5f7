"""Offline preference optimization of a diffusion model on pairs of numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import PairBatch, make_offline_preference, uniform_times
from ctrl_jax.losses import preference
from ctrl_jax.processes import VP

PROCESS, BETA = VP(0.1, 10.0), 2.0


def score(params, t, x):
    """The score of N(mean, 1) noised, the mean to be learned; the variance stays one."""
    return params["mean"][None] * PROCESS.marginal(t).scale[:, None] - x


MODEL = Model(lambda key: {"mean": jnp.zeros(2)}, score)


def dpo(chosen, rejected, batch):
    return preference.dpo(chosen, rejected, beta=BETA)


def make(loss_fn=dpo, optimizer=None, **options):
    sample_times = uniform_times(PROCESS, 1e-3)
    optimizer = optimizer or optax.sgd(1.0)
    return make_offline_preference(
        PROCESS, MODEL, optimizer, loss_fn, sample_times=sample_times, **options
    )


def pairs(key, size=64):
    x = jax.random.normal(key, (2, size, 2))
    better = x[0, :, 0] > x[1, :, 0]  # the first coordinate is what people look at
    chosen, rejected = (jnp.where((better == w)[:, None], x[0], x[1]) for w in (True, False))
    return PairBatch(chosen, rejected, jnp.ones(size))


def test_the_first_loss_is_log_two_and_its_gradient_the_formula():
    """With e = |eps + std s|^2 / d and s = a m - x_t the gradient of e in m at m = 0 is
    2 std a (eps - std x_t) / d; that of the loss -beta/4 times the difference of the pair's."""
    algorithm, batch = make(), pairs(jax.random.key(1))
    state = algorithm.init(jax.random.key(0))
    moved, metrics = jax.jit(algorithm.step)(state, batch)
    np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-6)
    assert float(metrics["rewards/chosen"]) == float(metrics["rewards/margins"]) == 0.0
    _, time_key, noise_key = jax.random.split(state.key, 3)
    t = uniform_times(PROCESS, 1e-3)(time_key, 64)
    scale, std = (np.asarray(c, float)[:, None] for c in PROCESS.marginal(t))
    noise = np.asarray(jax.random.normal(noise_key, (64, 2)), float)
    slopes = [
        std * scale * (noise - std * (scale * np.asarray(x, float) + std * noise))
        for x in (batch.chosen, batch.rejected)
    ]
    gradient = BETA / 4 * (slopes[0] - slopes[1]).mean(axis=0)
    np.testing.assert_allclose(moved.policy.params["mean"], -gradient, rtol=1e-4, atol=1e-7)


def test_what_is_preferred_grows_and_what_nobody_sees_does_not():
    algorithm = make(optimizer=optax.adam(3e-2))

    @jax.jit
    def run(key):
        def body(state, key):
            return algorithm.step(state, pairs(key, 256))

        return jax.lax.scan(body, algorithm.init(key), jax.random.split(key, 200))

    state, metrics = run(jax.random.key(0))
    mean = np.asarray(state.policy.params["mean"])
    assert mean[0] > 0.5 and abs(mean[1]) < 0.1 * mean[0]
    # Accuracy on fresh pairs, 20 batches of 256: half is 63 standard errors away.
    assert metrics["rewards/accuracies"][-20:].mean() > 0.9
    np.testing.assert_array_equal(state.reference["mean"], 0.0)


def test_padding_and_a_pair_without_agreement_change_nothing():
    """Weight zero, and Mallows-theta at phi = 1 (everybody differs)."""
    batch = pairs(jax.random.key(1), 8)
    odd = PairBatch(
        jnp.concatenate([batch.chosen, jnp.full((4, 2), 1e3)]),
        jnp.concatenate([batch.rejected, jnp.zeros((4, 2))]),
        jnp.concatenate([batch.weights, jnp.zeros(4)]),
    )
    theta = partial(preference.mallows_theta, beta=BETA)
    dispersion = jnp.where(jnp.arange(12) < 8, jnp.exp(-0.5), 1.0)

    def loss_fn(chosen, rejected, batch):
        return theta(chosen, rejected, dispersion=dispersion[: batch.weights.shape[0]])

    def sample_times(key, size):
        return jnp.linspace(0.1, 0.9, 12)[:size]

    found = []
    for rows, options in ((odd, loss_fn), (odd._replace(weights=jnp.ones(12)), loss_fn)):
        algorithm = make_offline_preference(
            PROCESS, MODEL, optax.sgd(1.0), options, sample_times=sample_times
        )
        state, _ = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)), rows)
        found.append(np.asarray(state.policy.params["mean"]) * float(rows.weights.sum()))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_every_loss_of_log_ratios_works_on_diffusion_paths():
    """The first step of each is towards what is preferred, and not along what nobody looks at."""
    batch = pairs(jax.random.key(1), 256)
    losses = {
        name: partial(
            row.loss, beta=BETA, **row.defaults, **({"dispersion": 0.3} if row.dispersed else {})
        )
        for name, row in preference.NAMED.items()
        # DiscoPOP is not monotone, and rises where training starts.
        if "ratios" in row.inputs and name != "discopop"
    }

    @jax.jit
    def first_step(key, which):
        def loss_fn(chosen, rejected, batch):
            return jax.lax.switch(which, list(losses.values()), chosen, rejected)

        algorithm = make(loss_fn, nats=2.0)
        return algorithm.step(algorithm.init(key), batch)[0].params["mean"]

    for number, name in enumerate(losses):
        mean = np.asarray(first_step(jax.random.key(0), number))
        assert mean[0] > 0 and abs(mean[1]) < 0.4 * mean[0], name


def test_the_unit_of_the_log_ratios_is_that_of_beta():
    """DPO at beta of rho times nats is DPO at beta nats of rho, and the rewards are in nats."""
    batch, found = pairs(jax.random.key(1), 8), []
    for nats, beta in ((4.0, BETA), (1.0, 4 * BETA)):
        algorithm = make(lambda w, r, batch, b=beta: preference.dpo(w, r, beta=b), nats=nats)
        state, _ = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)), batch)
        again, metrics = jax.jit(algorithm.step)(state, batch)
        found.append((again.params["mean"], metrics["rewards/margins"] / nats))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
