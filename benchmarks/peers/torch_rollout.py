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
    """The data of a `DiffusionControl` and of how its learners are updated, as tensors and numbers.

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
    states, noises, actions, log_probs = [x], [], [], []
    batch, constant = problem.shape[0], np.log(2 * np.pi) / 2
    for i in range(problem.steps):
        t, std = problem.times[i : i + 1], problem.std[i]
        action = score(problem, params, t, x)
        noise = torch.randn(problem.shape) if draws is None else draws["noise"][i]
        x = problem.state_gain[i] * x + problem.action_gain[i] * action + std * noise
        log_prob = -noise.square().reshape(batch, -1).sum(1) / 2
        log_probs.append(log_prob - noise[0].numel() * (std.log() + constant))
        states.append(x)
        noises.append(noise)
        actions.append(action)
    named = {"states": states, "noise": noises, "actions": actions, "log_probs": log_probs}
    rollout = {name: torch.stack(values) for name, values in named.items()}
    if not problem.lean:
        times = problem.times[:-1]

        def compare(t, x):
            return score(problem, reference, t, x)

        rollout["reference"] = along_path(compare, times, rollout["states"][:-1])
        square = (rollout["actions"] - rollout["reference"]).square().flatten(2).sum(2)
        rollout["kl"] = problem.kl_rate[:, None] / 2 * square
    return rollout | {"rewards": reward(x)}


def along_path(function, times, states, rows: int = 8192):
    """Return function(t, x) at every time of a path, about `rows` examples at once, as ours."""
    points, batch = states.shape[:2]
    divisors = (d for d in range(1, points + 1) if points % d == 0)
    together = max(d for d in divisors if d * batch <= max(rows, batch))
    pieces = [
        function(t.repeat_interleave(batch), x.flatten(0, 1))
        for t, x in zip(times.split(together), states.split(together), strict=True)
    ]
    return torch.cat(pieces).unflatten(0, (points, batch))


def minibatches(batch, steps, parts, epochs):
    """Return time indices (parts, batch, steps // parts), and the order of the passes."""
    k = steps // parts
    blocks = torch.randperm(steps)[: parts * k].reshape(parts, 1, k)
    order = (blocks + torch.randint(0, steps, (batch, 1))) % steps
    return order, torch.cat([torch.randperm(parts) for _ in range(epochs)])


def arrange(array, order):
    """Return array (batch, steps, ...) in minibatches (parts, rows, ...)."""
    rows = torch.arange(array.shape[0])[:, None]
    return array[rows, order].flatten(1, 2)


def epoch(problem: Problem, policy: Learner, reference, value: Learner | None, draws=None):
    """Roll out and update once; return metrics with the names of ours."""
    with torch.no_grad():
        rollout = roll_out(problem, policy.params, reference, draws)
        batch, steps = problem.shape[0], problem.steps
        rewards = rollout["rewards"]
        zero = torch.zeros(steps, batch)
        running = -problem.penalty * rollout["kl"] if "kl" in rollout else zero
        if value is None:
            centered = rewards - rewards.mean()
            advantages = (centered / (centered.square().mean().sqrt() + 1e-8)).expand(steps, batch)
        else:
            advantages, values = _traced_advantages(problem, value, rollout, running)
    gradients = None
    if value is not None:
        expected, gradients = _expected_values(problem, value, rollout)
        std = problem.std.reshape(-1, *(1,) * (gradients.ndim - 1))
        increment = (gradients * std * rollout["noise"]).flatten(2).sum(2)
        advantages = advantages - (expected - values + running) - increment
    fields = {"states": rollout["states"][:-1], "noise": rollout["noise"]}
    fields |= {"advantages": advantages, "old": rollout["actions"]}
    fields |= {"reference": rollout["reference"]} if "reference" in rollout else {}
    fields |= {"gradients": gradients} if gradients is not None else {}
    if draws is None:
        order, passes = minibatches(batch, steps, problem.minibatches, problem.epochs)
    else:
        order, passes = draws["order"], draws["passes"]
    fields = {name: arrange(array.transpose(0, 1), order) for name, array in fields.items()}
    index = order.flatten(1)
    if not problem.lean:
        with torch.no_grad():
            for m, steps_m in enumerate(index):
                times = problem.times[steps_m]
                fields["old"][m] = score(problem, policy.params, times, fields["states"][m])
    history = []
    for m in passes:
        at = {name: array[m] for name, array in fields.items()}
        history.append(_update(problem, policy, at, index[m]))
    metrics = {name: float(np.mean([float(m[name]) for m in history])) for name in history[0]}
    if value is not None:
        metrics["value/loss"] = _fit(problem, value, rollout, running, draws)
    return metrics | {"reward/mean": float(rewards.mean())}


def _update(problem, policy, at, flat):
    acted = score(problem, policy.params, problem.times[flat], at["states"])

    def expand(c):
        return c[flat].reshape(-1, *(1,) * (acted.ndim - 1))

    shift = expand(problem.action_gain / problem.std) * (at["old"] - acted)
    log_ratio = -((at["noise"] * shift).flatten(1).sum(1) + shift.square().flatten(1).sum(1) / 2)
    ratio, advantages = log_ratio.exp(), at["advantages"]
    expected = 0.0
    if "gradients" in at:
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

    def evaluate(t, x):
        return problem.value(value.params, t, x)

    states = rollout["states"][:-1]
    values = along_path(evaluate, problem.times[:-1], states)[..., 0]
    following = torch.cat([values[1:], rollout["rewards"][None]])
    advantages, later = [], torch.zeros_like(rollout["rewards"])
    for i in reversed(range(problem.steps)):
        later = following[i] + running[i] - values[i] + problem.trace * later
        advantages.append(later)
    return torch.stack(advantages[::-1]), values


def _expected_values(problem, value, rollout):
    """Return the value at the mean of every next state, and its gradient there."""
    std = problem.std.reshape(-1, *(1,) * (rollout["noise"].ndim - 1))
    mean = rollout["states"][1:] - std * rollout["noise"]

    def evaluate(t, x):
        x = x.detach().requires_grad_()
        values = problem.value(value.params, t, x)[:, 0]
        (gradient,) = torch.autograd.grad(values.sum(), x)
        return torch.cat([values.detach()[:, None], gradient.flatten(1)], dim=1)

    both = along_path(evaluate, problem.times[1:], mean)
    return both[..., 0], both[..., 1:].reshape(mean.shape)


def _fit(problem, value, rollout, running, draws):
    to_go = rollout["rewards"] + running.flip(0).cumsum(0).flip(0)
    returns = torch.cat([to_go, rollout["rewards"][None]]).transpose(0, 1)
    batch, points = returns.shape
    if draws is None:
        order, passes = minibatches(batch, points, problem.value_minibatches, problem.value_epochs)
    else:
        order, passes = draws["value_order"], draws["value_passes"]
    states, targets = arrange(rollout["states"].transpose(0, 1), order), arrange(returns, order)
    index, losses = order.flatten(1), []
    for m in passes:
        predicted = problem.value(value.params, problem.times[index[m]], states[m])[:, 0]
        loss = (targets[m] - predicted).square().mean() / 2
        value.update(loss)
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


def runner(problem: Problem, policy: Learner, reference, value: Learner | None) -> Runner:
    """Return the timed epoch."""
    return Runner(lambda: epoch(problem, policy, reference, value))
