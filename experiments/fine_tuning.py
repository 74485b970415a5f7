"""A fine-tuning task: everything that the algorithms, the evaluation and the plots need of it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._typing import Model, RewardFn
from ctrl_jax.algorithms import Batch, DiffusionControl, roll_out
from ctrl_jax.metrics import frontier
from ctrl_jax.processes import LinearProcess, grids
from ctrl_jax.runtime import own_part, replicate, shard_batch
from ctrl_jax.runtime.loop.signals import stop_point
from ctrl_jax.solvers import ExponentialEuler, GaussianSolver

TEMPERATURES = np.geomspace(0.01, 10.0, 121)
"""Temperatures of the ideal frontier, in units of the standardized reward per nat."""


class Task(NamedTuple):
    """What is fine-tuned, towards what, and how success is told.

    Fields:
        process: forward process.
        shape: of one example.
        reference: the pretrained score; its ``init`` returns the pretrained parameters.
        policy: the acting score, which starts as the reference.
        value: value network.
        reward_fn: the proxy reward, as the algorithms see it.
        success_fn: 0/1 per sample on the host, the gold measure; never seen by the algorithms.
        diversity_fn: diversity of the successful samples, on the host; None where undefined.
        end: forward time at which sampling stops.
        facts: metrics known before fine-tuning.
        solver: sampler.
        start_std: of the start law; None for the process's prior.
    """

    process: LinearProcess
    shape: tuple[int, ...]
    reference: Model
    policy: Model
    value: Model
    reward_fn: RewardFn
    success_fn: Callable[[np.ndarray], np.ndarray]
    diversity_fn: Callable[[np.ndarray], float] | None
    end: float
    facts: dict[str, Any]
    solver: GaussianSolver = ExponentialEuler()
    start_std: Any = None

    def problem(self, steps: int, penalty: Any) -> DiffusionControl:
        """Return the control problem on a grid of `steps` steps."""
        return DiffusionControl(
            self.process,
            self.reference,
            self.reward_fn,
            self.shape,
            grids.quadratic(self.process, steps, end=self.end),
            penalty,
            solver=self.solver,
            start_std=self.start_std,
            path_kl=True,
        )


ROUNDING = 16
"""Rewards closer than this many units in the last place of the largest are the same."""


def success_threshold(rewards: np.ndarray, *, share: float) -> float:
    """Return the reward above which about `share` of base samples lie, between two plateaus.

    A success is a reward above it. Rewards may sit on few values: the threshold then lies in the
    gap below or above the quantile's own value, whichever leaves a share nearer to the one asked
    for, never none and never all. Where all rewards are the same it is that value.

    Args:
        rewards: of base samples.
        share: of successes asked for, in (0, 1).
    """
    gap = ROUNDING * float(np.finfo(rewards.dtype).eps) * float(np.abs(rewards).max())
    ordered = np.sort(rewards.astype(np.float64))
    # Where one value ends and the next begins.
    ends = np.flatnonzero(np.diff(ordered) > gap)
    if not len(ends):
        return float(ordered[-1])
    above = 1 - (ends + 1) / ordered.size
    best = ends[np.argmin(np.abs(np.log(above / share)))]
    return float((ordered[best] + ordered[best + 1]) / 2)


class BaseSamples(NamedTuple):
    """Rewards and successes of many samples of the pretrained model: what the frontier needs."""

    rewards: np.ndarray
    successes: np.ndarray

    def frontier(self) -> frontier.Frontier:
        """Return the ideal frontier over `TEMPERATURES`."""
        return frontier.ideal(self.rewards, TEMPERATURES, self.successes)


class Evaluation(NamedTuple):
    """A policy on fresh rollouts: samples (number, ...) and means of what was measured."""

    samples: np.ndarray
    rewards: np.ndarray
    successes: np.ndarray
    reward: float
    success: float
    path_kl: float
    diversity: float | None


def make_evaluation(task: Task, steps: int, mesh: Mesh, *, number: int, chunk: int = 2048):
    """Return ``evaluate(key, params) -> Evaluation``, compiled once, in chunks of equal size.

    Args:
        task: the task.
        steps: solver steps.
        mesh: devices that the samples are divided over.
        number: samples; rounded up to a multiple of `chunk`.
        chunk: samples per compiled call.
    """
    problem = task.problem(steps, 0.0)
    data = mesh.shape["data"]
    chunk = -(-min(chunk, number) // data) * data
    batch = shard_batch(mesh, own_part(mesh, Batch(jnp.ones(chunk))))

    # Replicated results, which every process can read.
    @partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def simulate(key, params, reference, batch):
        rollout = roll_out(key, problem, task.policy, params, reference, batch)
        return rollout.states[-1], problem.rewards(rollout), rollout.path_kl

    def evaluate(key, params) -> Evaluation:
        params, reference = replicate(mesh, (params, task.reference.init(key)))
        keys = jax.random.split(key, -(-number // chunk))
        parts = []
        for k in keys:
            parts.append(jax.device_get(simulate(replicate(mesh, k), params, reference, batch)))
            stop_point()
        samples, rewards, kls = (np.concatenate(part) for part in zip(*parts, strict=True))
        # A sample that is not a number is no success, and no classifier takes it.
        finite = np.isfinite(samples).reshape(len(samples), -1).all(axis=1)
        successes = np.zeros(len(samples))
        if finite.any():
            successes[finite] = task.success_fn(samples[finite])
        kept = samples[successes > 0]
        diverse = task.diversity_fn is not None and len(kept) > 1
        return Evaluation(
            samples=samples,
            rewards=rewards,
            successes=successes,
            reward=float(np.mean(rewards, dtype=np.float64)),
            success=float(np.mean(successes)),
            path_kl=float(np.mean(kls, dtype=np.float64)),
            diversity=task.diversity_fn(kept) if diverse else None,  # pyright: ignore
        )

    return evaluate
