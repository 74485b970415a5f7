"""The importance ratio is one at the old parameters, whatever the network and the minibatches.

Swapping the network changes no line of the algorithm: the table is one of models.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch, Critic, DiffusionControl, PolicyUpdate, make_dpok, make_ppo
from ctrl_jax.networks import MLP, DiT, UNet, ValueMLP, as_model
from ctrl_jax.processes import VP, grids
from ctrl_jax.processes import parameterization as parameterization
from tests.networks.drawn import drawn

pytestmark = pytest.mark.usefixtures("optimized")

SHAPE, STEPS, BATCH, CLASSES = (4, 4, 1), 10, 6, 3
PROCESS = VP()


def score_model(make) -> Model:
    """A network that predicts the velocity, away from its zero start, as a score."""
    network = drawn(as_model(make))

    def apply(params, t, x, *conditions):
        predict = parameterization.from_v(PROCESS, lambda *a: network.apply(params, *a))
        return predict(t, x, *conditions)

    return Model(network.init, apply)


MODELS = {
    "DiT": lambda rngs: DiT(SHAPE, width=8, depth=1, heads=2, classes=CLASSES, rngs=rngs),
    "MLP": lambda rngs: MLP(SHAPE, width=16, depth=1, embedding=8, classes=CLASSES, rngs=rngs),
    "UNet": lambda rngs: UNet(SHAPE, width=4, classes=CLASSES, rngs=rngs),
}


def problem_with(policy: Model) -> DiffusionControl:
    return DiffusionControl(
        PROCESS,
        policy,
        lambda x, label: x.reshape(x.shape[0], -1).mean(axis=1) * (label + 1.0),
        SHAPE,
        grids.log_snr(PROCESS, STEPS),
        0.1,
    )


def labeled_batch() -> Batch:
    return Batch(jnp.ones(BATCH), (jnp.arange(BATCH) % CLASSES,))


def check(algorithm):
    step = jax.jit(algorithm.step)
    state = algorithm.init(jax.random.key(0))
    for _ in range(3):
        before = state.policy.params
        state, metrics = step(state, labeled_batch())
        assert float(metrics["ratio/max_deviation"]) == 0.0
        assert float(metrics["ratio/rollout_deviation"]) <= 1e-4
        moved = jax.tree.map(lambda a, b: (a != b).any(), state.policy.params, before)
        assert any(jax.tree.leaves(moved)), "nothing was learned: the ratio is trivially one"


@pytest.mark.parametrize(
    "network", ["MLP", *(pytest.param(n, marks=pytest.mark.slow) for n in ("DiT", "UNet"))]
)
def test_the_rollouts_own_predictions_are_the_old_ones(network):
    """Bit for bit where a piece is one time of the whole batch."""
    policy = score_model(MODELS[network])
    update = PolicyUpdate(2, minibatches=5, chunks=2, old="rollout", per_step=True)
    algorithm = make_dpok(problem_with(policy), policy, optax.sgd(1e-1), clip=1e-3, update=update)
    step, state = jax.jit(algorithm.step), algorithm.init(jax.random.key(0))
    for _ in range(2):
        state, metrics = step(state, labeled_batch())
        for name in ("max_deviation", "rollout_deviation", "rollout_deviation_mean"):
            assert float(metrics[f"ratio/{name}"]) == 0.0
        moved = [float(metrics[f"ratio/step_{i:03d}"]) for i in range(STEPS)]
        assert min(moved) > 0, "of two passes"
        clipped = [float(metrics[f"ppo/clip_fraction/step_{i:03d}"]) for i in range(STEPS)]
        assert 0 <= min(clipped) < max(clipped) <= 1
        np.testing.assert_allclose(np.mean(clipped), metrics["ppo/clip_fraction"], rtol=1e-5)


@pytest.mark.slow  # quick, `test_guided_control` has the ratio of a policy that is scored
@pytest.mark.parametrize("network", MODELS)
@pytest.mark.parametrize("minibatches", [1, 2, 5])
def test_the_ratio_starts_at_exactly_one(network, minibatches):
    policy = score_model(MODELS[network])
    update = PolicyUpdate(minibatches=minibatches)
    check(make_dpok(problem_with(policy), policy, optax.adam(1e-3), update=update))


@pytest.mark.slow  # quick, `test_laws` has it of PPO
def test_the_ratio_starts_at_exactly_one_beside_a_critic():
    policy = score_model(MODELS["MLP"])
    value = as_model(
        lambda rngs: ValueMLP(SHAPE, width=8, depth=1, embedding=8, classes=CLASSES, rngs=rngs)
    )
    update, critic = PolicyUpdate(minibatches=5, epochs=2), Critic(drawn(value), optax.sgd(1e-3))
    check(make_ppo(problem_with(policy), policy, optax.sgd(1e-1), critic, update=update))
