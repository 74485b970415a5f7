"""One rollout and update in eager PyTorch: the arithmetic of `ctrl_jax.algorithms`, pass by pass.

The same forward and backward passes in the same order, the fastest form of each that PyTorch has:
fused Adam, fused layer norm and attention, no gradient recorded where none is taken. Randomness can
be handed in, and then the epoch agrees with ours number by number.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Runner
from benchmarks.peers import torch_networks


@dataclasses.dataclass(frozen=True)
class Problem:
    """The data of a `DiffusionControl` and of its `UpdateConfig`, as tensors and numbers.

    Fields:
        network, value: score and value networks, ``network(params, t, x)``.
        shape: (batch, ...).
        times: forward time of each grid point.
        state_gain, action_gain, std: coefficients of each step.
        lean: leave out what a usual implementation leaves out: the reference's passes, and the
            scoring passes (the rollout's own log-probabilities serve instead).
    """

    network: Callable[..., torch.Tensor]
    value: Callable[..., torch.Tensor] | None
    shape: tuple[int, ...]
    times: torch.Tensor
    state_gain: torch.Tensor
    action_gain: torch.Tensor
    std: torch.Tensor
    penalty: float
    epochs: int
    minibatches: int
    value_epochs: int
    value_minibatches: int
    trace: float
    clip: float
    lean: bool = False

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.std.shape[0]

    @property
    def kl_rate(self) -> torch.Tensor:
        """(action_gain / std)**2 of each step."""
        return (self.action_gain / self.std) ** 2


class Learner:
    """Parameters with fused Adam."""

    def __init__(self, params: Any, learning_rate: float):
        self.params = torch_networks.load(params)
        self.leaves = torch_networks.leaves(self.params)
        self.optimizer = torch.optim.Adam(self.leaves, lr=learning_rate, fused=True)

    def update(self, loss: torch.Tensor) -> torch.Tensor:
        """Take one step unless the gradient is not finite; return its norm."""
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.leaves if p.grad is not None])
        if torch.isfinite(norm):
            self.optimizer.step()
        return norm


def reward(x):
    """Return minus the mean square distance from 1."""
    return -(x - 1).square().flatten(1).mean(1)


def score(problem, params, t, x):
    """Return the network's velocity as a score."""
    return problem.network(params, t, x) - x


def roll_out(problem: Problem, params, reference, draws) -> dict[str, torch.Tensor]:
    """Return trajectories, time-major."""
    x = torch.randn(problem.shape) if draws is None else draws["x_0"]
    states, noises, actions, references, divergences, log_probs = [x], [], [], [], [], []
    batch, constant = problem.shape[0], np.log(2 * np.pi) / 2
    for i in range(problem.steps):
        t, std = problem.times[i : i + 1], problem.std[i]
        action = score(problem, params, t, x)
        noise = torch.randn(problem.shape) if draws is None else draws["noise"][i]
        if not problem.lean:
            other = score(problem, reference, t, x)
            divergence = problem.kl_rate[i] / 2 * (action - other).square().flatten(1).sum(1)
            references.append(other)
            divergences.append(divergence)
        x = problem.state_gain[i] * x + problem.action_gain[i] * action + std * noise
        log_prob = -noise.square().reshape(batch, -1).sum(1) / 2
        log_probs.append(log_prob - noise[0].numel() * (std.log() + constant))
        states.append(x)
        noises.append(noise)
        actions.append(action)
    named = {"states": states, "noise": noises, "actions": actions, "log_probs": log_probs}
    named |= {"reference": references, "kl": divergences} if references else {}
    return {name: torch.stack(values) for name, values in named.items()} | {"rewards": reward(x)}


def minibatches(batch, steps, epochs, parts):
    """Return time indices (epochs * parts, batch, steps // parts), random per row."""
    order = torch.rand(epochs, batch, steps).argsort(-1)[..., : steps // parts * parts]
    return (
        order.reshape(epochs, batch, parts, -1).transpose(1, 2).reshape(epochs * parts, batch, -1)
    )


def epoch(problem: Problem, policy: Learner, reference, value: Learner | None, draws=None):
    """Roll out and update once; return metrics with the names of ours."""
    with torch.no_grad():
        rollout = roll_out(problem, policy.params, reference, draws)
        batch, steps = problem.shape[0], problem.steps
        rewards = rollout["rewards"]
        zero = torch.zeros(steps, batch)
        running = -problem.penalty * rollout["kl"] if "kl" in rollout else zero
        if value is None:
            centred = rewards - rewards.mean()
            advantages = (centred / (centred.square().mean().sqrt() + 1e-8)).expand(steps, batch)
        else:
            advantages = _traced_advantages(problem, value, rollout, running)
    gradients = None if value is None else _value_gradients(problem, value, rollout)
    fields = {"states": rollout["states"][:-1], "noise": rollout["noise"]}
    fields |= {"advantages": advantages, "old": rollout["actions"].clone()}
    fields |= {"reference": rollout["reference"]} if "reference" in rollout else {}
    fields |= {"gradients": gradients} if gradients is not None else {}
    fields = {name: array.transpose(0, 1) for name, array in fields.items()}
    index = draws and draws["index"]
    if index is None:
        index = minibatches(batch, steps, problem.epochs, problem.minibatches)
    if not problem.lean:
        _score_old(problem, policy.params, fields, index[: problem.minibatches])
    history = [_update(problem, policy, fields, i) for i in index]
    metrics = {name: float(np.mean([float(m[name]) for m in history])) for name in history[0]}
    if value is not None:
        index = draws and draws["value_index"]
        metrics["value/loss"] = _fit(problem, value, rollout, running, index)
    return metrics | {"reward/mean": float(rewards.mean())}


def _score_old(problem, params, fields, index):
    """Store the scores of the old policy, in the update's own minibatches."""
    rows = torch.arange(problem.shape[0])[:, None]
    with torch.no_grad():
        for i in index:
            states = fields["states"][rows, i].flatten(0, 1)
            old = score(problem, params, problem.times[i].flatten(), states)
            fields["old"][rows, i] = old.unflatten(0, i.shape)


def _update(problem, policy, fields, index):
    rows = torch.arange(problem.shape[0])[:, None]
    at = {name: array[rows, index].flatten(0, 1) for name, array in fields.items()}
    flat = index.flatten()
    acted = score(problem, policy.params, problem.times[flat], at["states"])

    def expand(c):
        return c[flat].reshape(-1, *(1,) * (acted.ndim - 1))

    shift = expand(problem.action_gain / problem.std) * (at["old"] - acted)
    log_ratio = -((at["noise"] * shift).flatten(1).sum(1) + shift.square().flatten(1).sum(1) / 2)
    ratio, advantages = log_ratio.exp(), at["advantages"]
    expected = 0.0
    if "gradients" in at:
        moved = expand(problem.std) * at["noise"]
        advantages = advantages - (at["gradients"] * moved).flatten(1).sum(1)
        mean = expand(problem.state_gain) * at["states"] + expand(problem.action_gain) * acted
        expected = -(mean * at["gradients"]).flatten(1).sum(1)
    clipped = ratio.clamp(1 - problem.clip, 1 + problem.clip)
    loss = -torch.minimum(ratio * advantages, clipped * advantages) + expected
    if problem.penalty:
        divergence = (acted - at["reference"]).square().flatten(1).sum(1) / 2
        loss = loss + problem.penalty * problem.kl_rate[flat] * divergence
    loss = loss.mean()
    norm = policy.update(loss)
    with torch.no_grad():
        approximate = (ratio - 1 - log_ratio).mean()
    named = {"policy/loss": loss.detach(), "policy/approx_kl": approximate}
    return named | {"policy/gradient_norm": norm}


def _traced_advantages(problem, value, rollout, running):
    assert problem.value is not None
    values = [
        problem.value(value.params, problem.times[i : i + 1], rollout["states"][i])[:, 0]
        for i in range(problem.steps)
    ]
    following = [*values[1:], rollout["rewards"]]
    advantages, later = [], torch.zeros_like(rollout["rewards"])
    for i in reversed(range(problem.steps)):
        later = following[i] + running[i] - values[i] + problem.trace * later
        advantages.append(later)
    return torch.stack(advantages[::-1])


def _value_gradients(problem, value, rollout):
    assert problem.value is not None
    gradients = []
    for i in range(problem.steps):
        x = rollout["states"][i + 1] - problem.std[i] * rollout["noise"][i]
        x.requires_grad_()
        total = problem.value(value.params, problem.times[i + 1 : i + 2], x).sum()
        gradients.append(torch.autograd.grad(total, x)[0])
    return torch.stack(gradients)


def _fit(problem, value, rollout, running, index):
    assert problem.value is not None
    to_go = rollout["rewards"] + running.flip(0).cumsum(0).flip(0)
    returns = torch.cat([to_go, rollout["rewards"][None]]).transpose(0, 1)
    states = rollout["states"].transpose(0, 1)
    batch, points = returns.shape
    if index is None:
        index = minibatches(batch, points, problem.value_epochs, problem.value_minibatches)
    rows, losses = torch.arange(batch)[:, None], []
    for i in index:
        x, target = states[rows, i].flatten(0, 1), returns[rows, i].flatten()
        predicted = problem.value(value.params, problem.times[i].flatten(), x)[:, 0]
        loss = (target - predicted).square().mean() / 2
        value.update(loss)
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


def runner(problem: Problem, policy: Learner, reference, value: Learner | None) -> Runner:
    """Return the timed epoch."""
    return Runner(lambda: epoch(problem, policy, reference, value))
