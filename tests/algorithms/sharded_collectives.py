"""Run by a test on eight simulated devices: what a compiled step says to other devices, and where.

    python -m tests.algorithms.sharded_collectives NETWORK:ALGORITHM ... decoder

Laws, of any network under its own table:

1. Weights whole everywhere, batch over 8 devices: the rollout says nothing. A step says its
   metrics, the gradient once per update, and of examples one number each.
2. Weights over 4 x 2 devices, batch over 4: weights are gathered, once in a pass of the network at
   most and once more in its second pass; sums over ``model`` end pairs of layers, and gradients are
   summed over ``data``. Nothing is moved from device to device (all-to-all, collective-permute).
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax import algorithms, processes
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch, Critic, DiffusionControl, PolicyUpdate, PreferenceUpdate
from ctrl_jax.losses import preference
from ctrl_jax.networks import MLP, DiT, UNet, ValueMLP, as_model, count_parameters
from ctrl_jax.networks.sharding import DECODER, MMDIT, SCORE, Rules, partition_specs
from ctrl_jax.networks.text_to_image.mmdit import mmdit
from ctrl_jax.networks.text_to_image.mmdit_config import MMDiTConfig
from ctrl_jax.runtime import MeshOptions, make_mesh, on_mesh
from ctrl_jax.runtime.devices.costs import costs_of
from tests.algorithms.laws import lm_preference

BATCH, STEPS, MINIBATCHES = 16, 6, 2
PICTURE, TEXT, POOLED = (4, 4, 4), (5, 16), (16,)


def of_pictures() -> Model:
    """A small MMDiT; its texts are the conditions."""
    network = mmdit(MMDiTConfig(4, 4, 2, 3, 4, 4, 16, 16, 4, 2, (), "rms"))

    def apply(params, t, x, *texts):
        return network.apply(params, x, jnp.broadcast_to(1000 * t, x.shape[:1]), *texts)

    return Model(network.init, apply)


NETWORKS: dict[str, tuple[Callable[[], Model], tuple[int, ...], Rules]] = {
    "MLP": (
        lambda: as_model(lambda rngs: MLP((8,), width=16, depth=1, embedding=16, rngs=rngs)),
        (8,),
        SCORE,
    ),
    "DiT": (
        lambda: as_model(lambda rngs: DiT(PICTURE, width=16, heads=2, depth=2, rngs=rngs)),
        PICTURE,
        SCORE,
    ),
    "UNet": (
        lambda: as_model(lambda rngs: UNet(PICTURE, width=8, embedding=16, rngs=rngs)),
        PICTURE,
        SCORE,
    ),
    "MMDiT": (of_pictures, PICTURE, MMDIT),
}


def of_algorithm(name: str, network: Model, shape: tuple[int, ...]) -> algorithms.Control:
    """An algorithm whose every update is of one piece."""
    process, optimizer = processes.VP(0.1, 20.0), optax.sgd(1e-2, momentum=0.9)
    grid = processes.grids.log_snr(process, STEPS)

    def reward(x, *conditions):
        return jnp.sum(x**2, axis=tuple(range(1, x.ndim)))

    problem = DiffusionControl(process, network, reward, shape, grid, 0.1)
    update = PolicyUpdate(minibatches=MINIBATCHES, old="rollout", average_decay=0.9)
    if name == "ppo":
        value = as_model(lambda rngs: ValueMLP(shape, width=16, embedding=16, rngs=rngs))
        seen = value._replace(apply=lambda params, t, x, *_: value.apply(params, t, x))
        return algorithms.make_ppo(
            problem, network, optimizer, Critic(seen, optimizer), update=update
        )
    if name == "value_gradient":  # of the reward, along the path
        return algorithms.make_value_gradient(problem, network, optimizer, update=update)
    if name == "grpo":
        return algorithms.make_grpo(problem, network, optimizer, scale="batch", update=update)
    return algorithms.make_online_preference(
        problem,
        network,
        optimizer,
        lambda chosen, rejected, *_: preference.dpo(chosen, rejected, beta=0.5),
        config=PreferenceUpdate(epochs=MINIBATCHES),
    )


def compiled(function, mesh: Mesh, state: Any, batch: Any, fully: bool, rules: Rules, **options):
    """What a program of abstract arguments says, state and batch placed as `train` places them."""
    specs = partition_specs(state, mesh, fully=fully, rules=rules)
    if value := state.learners.get("value"):
        specs.learners["value"] = partition_specs(value, mesh, fully=fully, rules=SCORE)
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def shaped(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    arguments = jax.tree.map(shaped, state, places), jax.tree.map(lambda x: shaped(x, rows), batch)
    if options.pop("keeps", False):
        options |= {"donate_argnums": 0}
        options |= {"out_shardings": (places, NamedSharding(mesh, PartitionSpec()))}
    text = jax.jit(on_mesh(mesh, function), **options).lower(*arguments).compile().as_text()
    found = costs_of(text or "", mesh.size).collectives
    # One number of every example, for statistics over groups.
    return [one for one in found if not (one.kind == "all-gather" and one.sent <= 4 * BATCH)]


def check_whole(collect, step, state, batch, params: int, updates: int, rules: Rules) -> None:
    """Law 1."""
    mesh = make_mesh(MeshOptions(8))
    if collect is not None:
        found = compiled(collect, mesh, state, batch, False, rules)
        assert not found, found
    found = compiled(step, mesh, state, batch, False, rules, keeps=True)
    assert {one.kind for one in found} == {"all-reduce"}, found
    # Every device sends a number of 4 bytes 2 (n - 1) / n times; metrics are few. What the end of a
    # network does not look at, texts behind the last block of an MMDiT, has no gradient.
    sent = sum(one.sent * one.times for one in found) / (2 * 7 / 8 * 4)
    assert 0.98 * updates * params <= sent <= updates * params + 200, (sent, params, updates)


def check_divided(collect, step, state, batch, weights: float, passes: int, rules: Rules) -> None:
    """Law 2; `weights` are the bytes of the network, `passes` how often a step evaluates it."""
    mesh = make_mesh(MeshOptions(4, 2))
    programs = [(step, {"keeps": True})] + ([] if collect is None else [(collect, {})])
    for function, options in programs:
        found = compiled(function, mesh, state, batch, True, rules, **options)
        moved = [one for one in found if one.kind in ("all-to-all", "collective-permute")]
        assert not moved, moved
        gathered = [one.sent * one.times for one in found if one.kind == "all-gather"]
        assert gathered and sum(gathered) <= 3 / 4 * weights * passes * 1.05, (gathered, weights)


def check_decoder() -> None:
    algorithm, batch = lm_preference(BATCH, ("dpo",))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    params = count_parameters(state.policy.params)
    # Each of its two parts ends in a sum.
    check_whole(None, algorithm.step, state, batch, params, 2, DECODER)
    # Two parts of a batch, each with two passes and the head's.
    check_divided(None, algorithm.step, state, batch, 4 * params, 6, DECODER)


def check_control(network: str, name: str) -> None:
    make, shape, rules = NETWORKS[network]
    model = make()
    size = count_parameters(jax.eval_shape(model.init, jax.random.key(0)))
    texts = tuple(jnp.ones((BATCH, *each)) for each in (TEXT, POOLED)) if rules is MMDIT else ()
    batch = Batch(jnp.ones(BATCH), texts, prompts=jnp.zeros(BATCH, jnp.int32))
    algorithm = of_algorithm(name, model, shape)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    params, updates = size, MINIBATCHES
    if name == "ppo":
        # Its critic's updates are as large as they are, and as many.
        critic = count_parameters(state.learners["value"].params)
        params += critic * 5
    check_whole(algorithm.collect, algorithm.step, state, batch, params, updates, rules)
    # Rollout, reference, and an update forward and backward; policy and reference once more along
    # the path, forward and backward.
    passes = 8 if name == "value_gradient" else 4
    check_divided(algorithm.collect, algorithm.step, state, batch, 4 * size, passes * STEPS, rules)


def main(*cases: str) -> None:
    assert jax.device_count() == 8
    for case in cases:
        if case == "decoder":
            check_decoder()
        else:
            check_control(*case.split(":"))
        print("agreed")


if __name__ == "__main__":
    main(*sys.argv[1:])
