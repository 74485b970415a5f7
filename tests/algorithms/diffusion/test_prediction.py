"""What the networks predict changes nothing: not paths, divergence, ratio, objective or update.

One network, of the data, is wrapped as each prediction. The grids start where nothing of the data
is left, a(T) = 0, wherever the process has such a time.
"""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    DiffusionControl,
    PairBatch,
    PolicyUpdate,
    make_dpok,
    make_offline_preference,
    make_online_preference,
    uniform_times,
)
from ctrl_jax.algorithms.diffusion.problem import Rollout, compare_paths
from ctrl_jax.losses import preference
from ctrl_jax.processes import VP, Prediction, RectifiedFlow, TabulatedSchedule, grids
from ctrl_jax.processes import prediction as predictions
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, simulate

EVERY = get_args(Prediction)
ENDING = VP(schedule=TabulatedSchedule.linear(5e-2, 0.6, 8).of_zero_terminal_snr())
BATCH = Batch(jnp.ones(16))


def model(process, name: str, mean: float) -> Model:
    """A network of the data, the posterior mean under N(m, 1/4), as the prediction `name`."""

    def apply(params, t, x, *conditions):
        (scale, std), rate = jax.tree.map(lambda c: expand(c, x), process.rates(t))
        mean = params["mean"][None]
        data = mean + scale / 4 * (x - scale * mean) / (scale**2 / 4 + std**2)
        noise = (x - scale * data) / std
        flow = rate.scale * data + rate.std * noise
        made = {"data": data, "noise": noise, "flow": flow, "score": -noise / std}
        return {**made, "v": scale * noise - std * data}[name]

    return Model(lambda key: {"mean": jnp.full(2, mean)}, apply)


def problem(process, name, solver, level=1.0):
    grid = grids.uniform(process, 6, end=0.02)
    assert np.asarray(grid)[0] == 0.0
    reference = model(process, name, 1.0)
    return DiffusionControl(
        process,
        reference,
        lambda x: x.sum(axis=1),
        (2,),
        grid,
        0.3,
        solver,
        prediction=name,
        noise_level=level,
    )


def one_step(steered, make):
    """The rollout of one step of an algorithm, its metrics and what the policy has moved."""
    policy = model(steered.process, steered.prediction, 1.2)
    algorithm = make(steered, policy, optax.sgd(1e-2))
    state = algorithm.init(jax.random.key(0))
    rollout = algorithm.collect(state, BATCH)
    state, metrics = algorithm.learn(state, rollout, rewards_of(rollout))
    metrics = {name: metrics[name] for name in ("kl/path", "objective")}
    moved = (state.policy.params["mean"] - 1.2) / 1e-2
    rollouts = jax.tree.leaves(rollout, is_leaf=is_rollout)
    states = [r.states for r in rollouts]
    kl = [compare_paths(steered, state.reference, r).kl for r in rollouts]
    return {"moved": moved, "states": states, "kl": kl, **metrics}


def is_rollout(value):
    return isinstance(value, Rollout)


def rewards_of(rollout):
    return jax.tree.map(lambda r: r.states[-1].sum(axis=1), rollout, is_leaf=is_rollout)


def dpok(steered, policy, optimizer):
    return make_dpok(steered, policy, optimizer, update=PolicyUpdate(epochs=2, minibatches=1))


def pairs(steered, policy, optimizer):
    return make_online_preference(
        steered, policy, optimizer, lambda w, r, _: preference.dpo(w, r, beta=0.5)
    )


QUICK = ("vp, zero snr", "rectified flow, pairs")  # steps alone: `solvers/test_prediction`
CASES = {
    "vp": (VP(0.1, 5.0), ("noise", "v"), EulerMaruyama(), dpok),
    "vp, zero snr": (ENDING, ("v", "flow"), ExponentialEuler(), dpok),
    "rectified flow": (RectifiedFlow(), ("data", "flow"), ExponentialEuler(0.7), dpok),
    "rectified flow, pairs": (RectifiedFlow(), ("data", "flow"), ExponentialEuler(), pairs),
}


@pytest.mark.parametrize(
    "case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_steps_do_not_depend_on_what_is_predicted(case):
    process, names, solver, make = CASES[case]
    problems = {name: problem(process, name, solver) for name in names}
    found = jax.jit(lambda: {n: one_step(steered, make) for n, steered in problems.items()})()
    one, other = (found[name] for name in names)
    assert float(jnp.min(jnp.asarray(one["kl"]))) > 1e-4  # of every step, the first included
    assert np.abs(one["moved"]).min() > 0.02
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_the_pairs_of_data_neither():
    process = VP()

    def step(name):
        algorithm = make_offline_preference(
            process,
            model(process, name, 1.0),
            optax.sgd(1e-2),
            lambda w, r, _: preference.dpo(w, r, beta=2.0),
            sample_times=uniform_times(process, 0.05),
            prediction=name,
        )
        draws = jax.random.normal(jax.random.key(3), (2, 8, 2))
        batch = PairBatch(draws[0], draws[1], jnp.ones(8))
        return algorithm.step(algorithm.init(jax.random.key(0)), batch)[0].policy.params["mean"]

    found = jax.jit(lambda: {name: step(name) for name in EVERY})()
    assert np.abs(found["score"] - 1.0).min() > 1e-4
    for name in EVERY:
        np.testing.assert_allclose(found[name] - 1, found["score"] - 1, rtol=1e-3, err_msg=name)


def test_a_problem_with_a_noise_level_steps_that_equation():
    """The rollout is the path of `simulate` at that level, and its rate that of the kernel."""
    level, process = 0.6, RectifiedFlow()
    steered, policy = problem(process, "flow", ExponentialEuler(), level), model(process, "flow", 1)
    params = policy.init(jax.random.key(0))
    sde = process.reverse(
        lambda t, x: policy.apply(params, t, x), noise_level=level, prediction="flow"
    )
    x_0 = steered.start(jax.random.key(1), BATCH)
    path = simulate(jax.random.key(2), sde, x_0, steered.grid, solver=steered.solver, save="path")
    same = ExponentialEuler(level).kernel(
        process, steered.grid[:-1], steered.grid[1:], prediction="flow"
    )
    for a, b in zip(steered.kernel(), same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert path.noise is not None
    action = policy.apply(params, jnp.asarray(1.0), x_0)
    first = jax.tree.map(lambda c: c[0], same)
    np.testing.assert_allclose(
        path.states[1], first.mean(x_0, action) + first.std * path.noise[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("process", [ENDING], ids=["zero snr"])
@pytest.mark.parametrize("name", predictions.BLIND)
def test_what_says_nothing_of_the_data_is_refused_by_name(process, name):
    with pytest.raises(
        ValueError, match=f"prediction: received '{name}'; at the forward time 1 .*"
    ):
        problem(process, name, ExponentialEuler())


def test_other_refusals_name_the_argument(unchecked):
    with pytest.raises(ValueError, match=r"prediction: received 'velocity'; .* give score\|noise"):
        problem(VP(), "velocity", ExponentialEuler())
    with pytest.raises(ValueError, match=r"noise_level: received 0\.0; it must be above zero"):
        problem(VP(), "score", ExponentialEuler(), 0.0)
    with pytest.raises(ValueError, match=r"solver: received 'EulerMaruyama'; .* ExponentialEuler"):
        problem(RectifiedFlow(), "flow", EulerMaruyama())
