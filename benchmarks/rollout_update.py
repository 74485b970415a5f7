"""One epoch of fine-tuning: rollout, reward, advantages and minibatch updates, T = 50 steps.

The lean cases are an epoch as one would write it in PyTorch: no pass of the reference, which DDPO
does not need, and the rollout's own predictions as the old ones. The others have both passes on all
sides.

Ours is one compiled program with its state donated. The peers do the same arithmetic: eager PyTorch
pass by pass, and our own functions dispatched from the host one time step at a time.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.harness import Case, Contender, Runner, compile_jax
from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    Critic,
    DiffusionControl,
    PolicyUpdate,
    ValueUpdate,
    make_ddpo,
    make_ppo,
)
from ctrl_jax.algorithms.diffusion.ddpo import standardize
from ctrl_jax.algorithms.diffusion.policy_update import minibatch_order, minibatch_passes
from ctrl_jax.losses import policy as policy_losses
from ctrl_jax.networks import MLP, DiT, UNet, ValueMLP, as_model
from ctrl_jax.processes import VP, grids
from ctrl_jax.solvers import girsanov

CLAIM = "Rollout and update in one compiled program beat the same arithmetic in eager PyTorch."
LEARNING_RATE = 1e-4
TRACE, CLIP, VALUE = 0.9, 0.2, ValueUpdate()
SHAPES = {"perceptron": (2,), "mlp": (2,), "dit": (8, 8, 1), "unet": (16, 16, 3)}
TINY: dict[str, dict[str, int]] = {
    "perceptron": {"width": 8},
    "mlp": {"width": 8, "depth": 1},
    "dit": {"width": 16, "depth": 1},
    "unet": {"width": 4},
}
FULL: dict[str, dict[str, int]] = {
    "perceptron": {},
    "mlp": {},
    "dit": {"width": 128},
    "unet": {"width": 32},
}


def cases(quick: bool = False) -> Iterator[Case]:
    """Yield algorithms, networks and sizes; targets are those of the project's design."""
    small, many = (4,) if quick else (16,), (4,) if quick else (16, 256, 4096)
    sizes = {"perceptron": many, "mlp": many[1:2], "dit": small, "unet": small}
    targets = {("perceptron", 16): 15.0, ("perceptron", 256): 4.0, ("perceptron", 4096): 1.5}
    targets |= {("dit", 16): 1.2, ("unet", 16): 1.0}
    lean = {("perceptron", 16): 3.0, ("perceptron", 256): 1.3, ("perceptron", 4096): 1.0}
    lean |= {("dit", 16): 1.2, ("unet", 16): 1.0}
    for algorithm, few in (("ddpo", False), ("ddpo", True), ("ppo", False)):
        for network, batches in sizes.items():
            for batch in batches:
                arguments = {"algorithm": algorithm, "network": network, "batch": batch}
                arguments |= {"steps": 10 if quick else 50, "tiny": quick, "lean": few}
                target = (lean if few else targets).get((network, batch))
                name = f"{algorithm}{', lean' if few else ''}, {network}, batch {batch}"
                yield Case(name, list(_contenders(arguments, target)))


def _contenders(arguments: dict[str, Any], target: float | None) -> Iterator[Contender]:
    yield Contender("ctrl_jax, one program", ours, arguments)
    yield Contender("PyTorch eager, same arithmetic", torch_eager, arguments, target, True)
    plain = {name: value for name, value in arguments.items() if name != "lean"}
    if arguments["algorithm"] == "ddpo" and not arguments["lean"]:
        yield Contender("ctrl_jax, one step at a time from the host", from_host, plain)
    if arguments["lean"]:
        yield Contender("TRL 0.23.1 DDPOTrainer, same network", trl, plain)


def models(network: str, tiny: bool) -> tuple[Model, Model]:
    """Return a score model whose output is not zero, and a value model."""
    shape, options = SHAPES[network], (TINY if tiny else FULL)[network]
    kind = {"perceptron": Perceptron, "mlp": MLP, "dit": DiT, "unet": UNet}[network]
    raw = as_model(lambda rngs: kind(shape, rngs=rngs, **options))

    def init(key):
        leaves, tree = jax.tree.flatten(raw.init(key))
        keys = jax.random.split(key, len(leaves))
        pairs = zip(leaves, keys, strict=True)
        return tree.unflatten([a + 0.02 * jax.random.normal(k, a.shape) for a, k in pairs])

    def apply(params, t, x):
        return raw.apply(params, t, x) - x

    width = 8 if tiny else 128
    return Model(init, apply), as_model(lambda rngs: ValueMLP(shape, width=width, rngs=rngs))


class Perceptron(nnx.Module):
    """Two hidden layers of 128 on (x, t): the network of the `sampling` benchmark."""

    def __init__(self, shape: tuple[int, ...], *, width: int = 128, rngs: nnx.Rngs):
        sizes = (shape[0] + 1, width, width, shape[0])
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        """Return an array of x's shape."""
        time = jnp.broadcast_to(jnp.reshape(t, (-1, 1)), (x.shape[0], 1))
        hidden = jnp.concatenate([x, time], axis=1)
        for layer in self.layers[:-1]:
            hidden = jax.nn.silu(layer(hidden))
        return self.layers[-1](hidden)


def reward(x: jax.Array) -> jax.Array:
    """Return minus the mean square distance from 1."""
    return -jnp.mean(jnp.square(x - 1).reshape(x.shape[0], -1), axis=1)


@functools.cache
def set_up(algorithm: str, network: str, steps: int, tiny: bool, lean: bool = False):
    """Return problem, score model, value model, configuration and algorithm."""
    policy, value = models(network, tiny)
    problem = DiffusionControl(
        process=VP(),
        reference=policy,
        reward_fn=reward,
        shape=SHAPES[network],
        grid=grids.uniform(VP(), steps, end=5e-3),
        penalty=0.0 if algorithm == "ddpo" else 0.1,
        path_kl=not lean,
    )
    config, adam = PolicyUpdate(old="rollout" if lean else "scored"), optax.adam(LEARNING_RATE)
    if algorithm == "ddpo":
        made = make_ddpo(problem, policy, adam, clip=CLIP, update=config)
    else:
        critic = Critic(value, optax.adam(LEARNING_RATE), VALUE)
        made = make_ppo(problem, policy, adam, critic, trace=TRACE, clip=CLIP, update=config)
    return problem, policy, value, config, made


def ours(
    algorithm: str, network: str, batch: int, steps: int, tiny: bool, lean: bool = False
) -> Runner:
    """Build our step, compiled once, its state donated."""
    _, _, _, _, made = set_up(algorithm, network, steps, tiny, lean)
    data = Batch(jnp.ones(batch))
    state = made.init(jax.random.key(0))
    step, seconds, memory = compile_jax(made.step, state, data, donate=(0,))

    def run():
        nonlocal state
        state, metrics = step(state, data)
        jax.block_until_ready((state, metrics))

    return Runner(run, seconds, memory)


def from_host(algorithm: str, network: str, batch: int, steps: int, tiny: bool) -> Runner:
    """Build DDPO from jitted pieces: one solver step, one scoring pass, one update."""
    problem, policy, _, config, made = set_up(algorithm, network, steps, tiny)
    kernel, times = problem.kernel(), problem.forward_times()
    optimizer, data = optax.adam(LEARNING_RATE), Batch(jnp.ones(batch))
    state = made.init(jax.random.key(0))
    learner, reference, rows = state.policy, state.reference, jnp.arange(batch)[:, None]

    @jax.jit
    def solver_step(params, reference, key, i, x):
        noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
        kernel_i = jax.tree.map(lambda c: c[i], kernel)
        action = policy.apply(params, times[i], x)
        other = problem.reference.apply(reference, times[i], x)
        kl = girsanov.kl_rate(kernel_i.kl_rate, action, other)
        return kernel_i.mean(x, action) + kernel_i.std * noise, noise, kl

    @jax.jit
    def score(params, scored, states, index):
        x = states[rows, index].reshape(-1, *states.shape[2:])
        values = policy.apply(params, times[index.reshape(-1)], x)
        return scored.at[rows, index].set(values.reshape(*index.shape, *x.shape[1:]))

    @functools.partial(jax.jit, donate_argnums=(0,))
    def update(learner, scored, states, noises, advantages, index):
        def pick(array):
            return array[rows, index].reshape(-1, *array.shape[2:])

        flat = index.reshape(-1)
        coefficients = jax.tree.map(lambda c: c[flat], kernel)
        repeated = jnp.repeat(advantages, index.shape[1])

        def loss_fn(params):
            acted = policy.apply(params, times[flat], pick(states))
            log_ratio = -girsanov.log_ratio(coefficients, pick(noises), pick(scored), acted)
            return jnp.mean(policy_losses.clipped_surrogate(log_ratio, repeated, clip=CLIP))

        loss, gradient = jax.value_and_grad(loss_fn)(learner.params)
        updates, moved = optimizer.update(gradient, learner.optimizer, learner.params)
        return type(learner)(optax.apply_updates(learner.params, updates), moved), loss

    stack = jax.jit(lambda arrays: jnp.stack(arrays, axis=1))
    advantage = jax.jit(lambda x: standardize(reward(x), data))
    draw = jax.jit(functools.partial(_draw, problem, config, batch))
    key = jax.random.key(1)

    def run():
        nonlocal learner, key
        key, path_key, x, order, passes = draw(key)
        states, noises = [], []
        for i in range(steps):
            states.append(x)
            x, noise, _ = solver_step(learner.params, reference, path_key, i, x)
            noises.append(noise)
        before, noises = stack(states), stack(noises)
        advantages, scored = advantage(x), jnp.zeros_like(before)
        for m in range(config.minibatches):
            scored = score(learner.params, scored, before, order[m])
        for m in passes:
            learner, loss = update(learner, scored, before, noises, advantages, order[m])
        jax.block_until_ready((learner, loss))

    return Runner(run)


def _draw(problem, config, batch, key):
    key, start_key, path_key, order_key, pass_key = jax.random.split(key, 5)
    x = expand(problem.process.prior_std(), jnp.zeros((batch, *problem.shape)))
    x = x * jax.random.normal(start_key, (batch, *problem.shape))
    order = minibatch_order(order_key, batch, problem.steps, config.minibatches)
    passes = minibatch_passes(pass_key, config.minibatches, config.epochs)
    return key, path_key, x, order, passes


def torch_eager(
    algorithm: str, network: str, batch: int, steps: int, tiny: bool, lean: bool = False
) -> Runner:
    """Build the port to eager PyTorch."""
    from benchmarks.peers import torch_rollout

    return torch_rollout.runner(*port(algorithm, network, batch, steps, tiny, lean))


def trl(algorithm: str, network: str, batch: int, steps: int, tiny: bool) -> Runner:
    """Start TRL's trainer in the interpreter that ``--trl-python`` names."""
    python = os.environ.get("BENCHMARKS_TRL_PYTHON")
    if not python:
        raise RuntimeError("needs an environment of its own; name it with --trl-python")
    from benchmarks.peers import trl_ddpo

    problem, policy, _, config, _ = set_up(algorithm, network, steps, tiny)
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    coefficients = problem.kernel()._asdict() | {"times": problem.forward_times()}
    specification = {
        "network": network,
        "batch": batch,
        "shape": problem.shape,
        "weights": jax.tree.map(lambda leaf: leaf.shape, shapes),
        "minibatches": config.minibatches,
        "learning_rate": LEARNING_RATE,
        **{name: np.asarray(values).tolist() for name, values in coefficients.items()},
    }
    run, close = trl_ddpo.start(python, specification)
    return Runner(run, close=close)


def port(algorithm: str, network: str, batch: int, steps: int, tiny: bool, lean: bool = False):
    """Return problem, policy, reference parameters and value of the port, at our own weights."""
    import torch

    from benchmarks.peers import torch_networks, torch_rollout

    problem, _, _, config, made = set_up(algorithm, network, steps, tiny, lean)
    state = jax.device_get(made.init(jax.random.key(0)))
    kernel = problem.kernel()

    def tensor(array):
        return torch.from_numpy(np.array(array))

    networks: dict[str, Callable] = {
        "perceptron": torch_networks.perceptron,
        "mlp": torch_networks.mlp,
        "dit": torch_networks.dit,
        "unet": torch_networks.unet,
    }
    ported = torch_rollout.Problem(
        network=networks[network],
        value=lambda params, t, x: torch_networks.mlp(params["network"], t, x),
        shape=(batch, *problem.shape),
        times=tensor(problem.forward_times()),
        state_gain=tensor(kernel.state_gain),
        action_gain=tensor(kernel.action_gain),
        std=tensor(kernel.std),
        penalty=float(problem.penalty),
        epochs=config.epochs,
        minibatches=config.minibatches,
        value_epochs=VALUE.epochs,
        value_minibatches=VALUE.minibatches,
        trace=TRACE,
        clip=CLIP,
        lean=lean,
    )
    policy = torch_rollout.Learner(state.policy.params, LEARNING_RATE)
    reference = None if lean else torch_networks.load(state.reference)
    value = state.value and torch_rollout.Learner(state.value.params, LEARNING_RATE)
    return ported, policy, reference, value


def draws(algorithm: str, network: str, batch: int, steps: int, tiny: bool) -> dict[str, Any]:
    """Return the randomness of our first step as arrays, so that a port can repeat it."""
    problem, _, _, config, made = set_up(algorithm, network, steps, tiny)
    _, rollout_key, policy_key, value_key = jax.random.split(made.init(jax.random.key(0)).key, 4)
    start_key, path_key = jax.random.split(rollout_key)
    shape = (batch, *problem.shape)

    def minibatches(key, points, parts, epochs):
        order_key, pass_key = jax.random.split(key)
        order = minibatch_order(order_key, batch, points, parts)
        return order, minibatch_passes(pass_key, parts, epochs)

    order, passes = minibatches(policy_key, steps, config.minibatches, config.epochs)
    value_order, value_passes = minibatches(value_key, steps + 1, VALUE.minibatches, VALUE.epochs)
    noise = [jax.random.normal(jax.random.fold_in(path_key, i), shape) for i in range(steps)]
    return {
        "x_0": problem.process.prior_std() * jax.random.normal(start_key, shape),
        "noise": jnp.stack(noise),
        "order": order,
        "passes": passes,
        "value_order": value_order,
        "value_passes": value_passes,
    }
