r"""Sampling of a 2-D diffusion model: the reversal of VP by Euler-Maruyama, and its gradient.

The score is a perceptron of (x, t) with two hidden layers of 128; 500 equal steps. The gradient is
that of the mean square of the samples in the parameters, through all the steps. Then every sampler
on every process: error and cost, `work_precision`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from benchmarks import perceptron, work_precision
from benchmarks.harness import Case, Contender, Runner, jax_runner
from benchmarks.perceptron import score
from ctrl_jax.processes import VP, grids
from ctrl_jax.solvers import EulerMaruyama, simulate

CLAIM = "Sampling costs what a hand-written lax.scan costs, and less than every other system."
END = 1e-3


def cases(quick: bool = False) -> Iterator[Case]:
    """Yield the sizes; targets are those of the project's design."""
    steps = 8 if quick else 500
    for batch in (4, 8) if quick else (16, 256, 4096):
        yield Case(f"samples, batch {batch}", list(_samplers(batch, steps)))
    for batch in (4,) if quick else (16, 256, 4096):
        yield Case(f"samples and reverse gradient, batch {batch}", list(_gradients(batch, steps)))
    yield from work_precision.cases(quick)


def plot(folder: Path) -> None:
    """Draw what a run wrote into `folder`."""
    work_precision.plot(folder)


def _samplers(batch: int, steps: int) -> Iterator[Contender]:
    from_scan = {16: 1 / 1.2, 4096: 1 / 1.05}.get(batch)
    large = batch == 4096
    arguments = {"batch": batch, "steps": steps}
    yield Contender("ctrl_jax", ours, arguments)
    yield Contender("hand-written lax.scan", by_hand, arguments, from_scan)
    yield Contender("diffrax, vmapped diffeqsolve + VirtualBrownianTree", tree, arguments, 3.0)
    yield Contender("ctrl_jax, batch split over the cores as devices", ours_split, arguments)
    yield Contender("PyTorch eager", torch_eager, arguments, 1.3 if large else None, True)
    yield Contender("torch.compile", torch_compiled, arguments, 1.15 if large else None, True)
    yield Contender("torchsde", torchsde, arguments, 1.6 if large else None, True)


def _gradients(batch: int, steps: int) -> Iterator[Contender]:
    arguments = {"batch": batch, "steps": steps, "gradient": True}
    yield Contender("ctrl_jax", ours, arguments)
    yield Contender("hand-written lax.scan, checkpointed step", by_hand, arguments)
    yield Contender(
        "diffrax, vmapped diffeqsolve + VirtualBrownianTree", tree, arguments, target=4.0
    )
    if batch <= 256:  # without checkpoints 4096 paths need several gigabytes
        yield Contender("PyTorch eager", torch_eager, arguments, host_memory=True)


def problem(batch: int, steps: int) -> tuple[Array, list[tuple[Array, Array]], Array, Array]:
    """Return key, score parameters, start states and grid."""
    key = jax.random.key(0)
    params = perceptron.make(key)
    x_0 = jax.random.normal(jax.random.fold_in(key, 3), (batch, 2))
    return jax.random.fold_in(key, 4), params, x_0, grids.uniform(VP(), steps, end=END)


def sample_ours(params: Any, key: Array, x_0: Array, grid: Array) -> Array:
    """Return samples by this library."""
    sde = VP().reverse(lambda t, x: score(params, t, x))
    return simulate(key, sde, x_0, grid, solver=EulerMaruyama()).states


def sample_by_hand(params: Any, key: Array, x_0: Array, grid: Array, checkpoint: bool) -> Array:
    """Return the same samples by the shortest loop one would write."""

    def step(x, inputs):
        i, r_0, r_1 = inputs
        t, dt = 1 - r_0, r_1 - r_0
        beta = 0.1 + 19.9 * t
        noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
        x = x + (beta * score(params, t, x) + beta / 2 * x) * dt + jnp.sqrt(beta * dt) * noise
        return x, None

    step = jax.checkpoint(step) if checkpoint else step
    return jax.lax.scan(step, x_0, (jnp.arange(grid.size - 1), grid[:-1], grid[1:]))[0]


def sample_tree(params: Any, key: Array, x_0: Array, grid: Array) -> Array:
    """Return samples as diffrax's examples draw them: one solve per example, vmapped."""
    steps, end = grid.size - 1, 1.0 - END
    dt = end / steps

    def beta(r):
        return 0.1 + 19.9 * (1 - r)

    def solve(key, x):
        def drift(r, x, args):
            return beta(r) * (score(params, 1 - r, x) + x / 2)

        def diffusion(r, x, args):
            return lx.DiagonalLinearOperator(jnp.broadcast_to(jnp.sqrt(beta(r)), x.shape))

        path = diffrax.VirtualBrownianTree(0.0, end, tol=dt / 2, shape=x.shape, key=key)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path))
        solution = diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, end, dt, x, max_steps=steps + 8, throw=False
        )
        assert solution.ys is not None
        return solution.ys[0]

    return jax.vmap(solve)(jax.random.split(key, x_0.shape[0]), x_0)


def ours(batch: int, steps: int, gradient: bool = False) -> Runner:
    """Build our side."""
    return _build(sample_ours, batch, steps, gradient)


def by_hand(batch: int, steps: int, gradient: bool = False) -> Runner:
    """Build the hand-written loop."""

    def sample(*arguments):
        return sample_by_hand(*arguments, checkpoint=gradient)

    return _build(sample, batch, steps, gradient)


def tree(batch: int, steps: int, gradient: bool = False) -> Runner:
    """Build diffrax's usual set-up."""
    return _build(sample_tree, batch, steps, gradient)


def ours_split(batch: int, steps: int) -> Runner:
    """Build our side with the batch sharded over every device of this process."""
    devices = len(jax.devices())
    if devices == 1 or batch % devices:
        raise RuntimeError(f"{devices} devices do not split a batch of {batch}")
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    key, params, x_0, grid = problem(batch, steps)
    x_0 = jax.device_put(x_0, NamedSharding(mesh, PartitionSpec("data")))
    key, params, grid = jax.device_put((key, params, grid), NamedSharding(mesh, PartitionSpec()))
    return jax_runner(sample_ours, params, key, x_0, grid)


def torch_eager(batch: int, steps: int, gradient: bool = False) -> Runner:
    """Build the loop in eager PyTorch."""
    from benchmarks.peers import torch_sampling

    return torch_sampling.eager(*_as_numpy(batch, steps), gradient=gradient)


def torch_compiled(batch: int, steps: int) -> Runner:
    """Build the loop over a step compiled by PyTorch."""
    from benchmarks.peers import torch_sampling

    return torch_sampling.compiled(*_as_numpy(batch, steps))


def torchsde(batch: int, steps: int) -> Runner:
    """Build torchsde's Euler-Maruyama."""
    from benchmarks.peers import torchsde_sampling

    return torchsde_sampling.euler(*_as_numpy(batch, steps))


def _build(sample, batch, steps, gradient) -> Runner:
    key, params, x_0, grid = problem(batch, steps)

    def loss(params, key, x_0, grid):
        return jnp.mean(jnp.square(sample(params, key, x_0, grid)))

    return jax_runner(jax.grad(loss) if gradient else sample, params, key, x_0, grid)


def _as_numpy(batch, steps):
    _, params, x_0, grid = problem(batch, steps)
    return jax.device_get((params, x_0, grid))
