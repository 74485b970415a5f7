"""CPPO with clipped ratios on linear-quadratic control in eager PyTorch, pass by pass as ours.

The fastest form of each pass that PyTorch has: fused Adam, reverse sums in one operation, no
gradient recorded where none is taken. Randomness can be handed in, and then an update agrees with
ours number by number.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.threads import cores

torch.set_num_threads(cores())
LOG_TWO_PI = math.log(2 * math.pi)


class Learner:
    """A run of CPPO.

    Args:
        problem: coefficients of the problem by name.
        start: raw moments of the normal start law.
        first: slope, intercept and std of the first policy.
        settings: of `benchmarks.continuous_rl`.
        seed: of PyTorch's generator.
    """

    def __init__(self, problem: Mapping[str, float], start, first, settings: Any, *, seed: int):
        self.problem, self.start, self.settings = problem, start, settings
        self.generator = torch.Generator().manual_seed(seed)
        slope, intercept, std = first
        self.actor = [torch.tensor(float(v)) for v in (slope, intercept, math.log(std))]
        self.critic = [torch.zeros(()) for _ in range(3)]  # curvature, slope, constant
        for leaf in (*self.actor, *self.critic):
            leaf.requires_grad_()
        self.critic_adam = torch.optim.Adam(self.critic, lr=settings.value_rate, fused=True)

    def policy(self) -> tuple[float, float, float]:
        """Return slope, intercept and std."""
        slope, intercept, log_std = (float(leaf.detach()) for leaf in self.actor)
        return slope, intercept, math.exp(log_std)

    def update(self, draws: Mapping[str, torch.Tensor] | None = None) -> dict[str, float]:
        """Simulate, estimate, and fit policy and critic once; return metrics named as ours."""
        draws = self._draw() if draws is None else draws
        with torch.no_grad():
            states, actions, means, increments, rewards = self._simulate(draws)
        std = self.actor[2].detach().exp()
        gamma, h = self.problem["temperature"], self.settings.dt
        entropy = std.log() + (LOG_TWO_PI + 1) / 2
        values, rates = self._residual_rates(states, increments, rewards + gamma * entropy)
        with torch.no_grad():
            log_probs = _log_prob(means, std.log(), actions)
            advantages = rates - gamma * (log_probs + entropy)
            corrections = h * self._discounted_sums(rates)
            fields = (states[:-1], actions, means, advantages, values + corrections)
            sampled = self._pick(draws["uniform"], fields)
            discounts = torch.exp(-self.problem["discount"] * h * torch.arange(len(rates)))
            objective = (values[0] + h * (discounts @ rates)).mean()
        norm = self._fit_policy(sampled, std)
        loss = self._fit_values(sampled[0], sampled[4])
        return {"objective": float(objective), "policy/gradient_norm": norm, "value/loss": loss}

    def _draw(self):
        s = self.settings

        def normal(*shape):
            return torch.randn(shape, generator=self.generator)

        spread = (self.start[1] - self.start[0] ** 2) ** 0.5
        uniform = torch.rand((s.draws, s.batch), generator=self.generator)
        return {
            "x_0": self.start[0] + spread * normal(s.batch),
            "actions": normal(s.steps, s.batch),
            "noise": normal(s.steps, s.batch),
            "uniform": uniform,
        }

    def _simulate(self, draws):
        p, h = self.problem, self.settings.dt
        slope, intercept, log_std = self.actor
        std, x = log_std.exp(), draws["x_0"]
        kicks, noises = std * draws["actions"], h**0.5 * draws["noise"]
        states, actions, means, increments = [x], [], [], []
        for kick, noise in zip(kicks, noises, strict=True):
            mean = slope * x + intercept
            a = mean + kick
            increment = (p["C"] * x + p["D"] * a) * noise
            x = x + (p["A"] * x + p["B"] * a) * h + increment
            for name, value in ((states, x), (actions, a), (means, mean), (increments, increment)):
                name.append(value)
        states, actions, means, increments = map(torch.stack, (states, actions, means, increments))
        x = states[:-1]
        cost = p["M"] / 2 * x**2 + p["R"] * x * actions + p["N"] / 2 * actions**2
        rewards = -(cost + p["P"] * x + p["Q"] * actions)
        return states, actions, means, increments, rewards

    def _value(self, x):
        curvature, slope, constant = self.critic
        return curvature * x**2 / 2 + slope * x + constant

    def _residual_rates(self, states, increments, rewards):
        """Value and the pathwise rate of every step."""
        x = states.detach().requires_grad_()
        values = self._value(x)
        (slope,) = torch.autograd.grad(values.sum(), x)
        values, h = values.detach(), self.settings.dt
        later = math.exp(-self.problem["discount"] * h) * values[1:]
        return values[:-1], rewards + (later - values[:-1] - slope[:-1] * increments) / h

    def _discounted_sums(self, rates):
        exponent = self.problem["discount"] * self.settings.dt * torch.arange(len(rates))[:, None]
        weighted = rates * torch.exp(-exponent)
        return weighted.flip(0).cumsum(0).flip(0) * torch.exp(exponent)

    def _pick(self, uniform, fields):
        s, beta = self.settings, self.problem["discount"]
        u = (torch.arange(s.draws)[:, None] + uniform) / s.draws
        u = -torch.log1p(u * math.expm1(-beta * s.horizon)) / (beta * s.horizon)
        index = (u * s.steps).long().clamp(0, s.steps - 1)
        return [field.gather(0, index).flatten() for field in fields]

    def _fit_policy(self, sampled, std_old):
        s, gamma = self.settings, self.problem["temperature"]
        states, actions, means, advantages, _ = sampled
        old = _log_prob(means, std_old.log(), actions)
        adam = torch.optim.Adam(self.actor, lr=s.policy_rate, fused=True)
        norms = []
        for epoch in range(s.epochs):
            fall = 0.9 * (1 + math.cos(math.pi * epoch / s.epochs)) / 2 + 0.1
            adam.param_groups[0]["lr"] = s.policy_rate * fall
            slope, intercept, log_std = self.actor
            mean = slope * states + intercept
            ratio = (_log_prob(mean, log_std, actions) - old).exp()
            clipped = ratio.clamp(1 - s.clip, 1 + s.clip)
            change = (log_std - std_old.log()).exp()
            kl = (change**2 - 1 + ((mean - means) / std_old) ** 2) / 2 - change.log()
            losses = -torch.minimum(ratio * advantages, clipped * advantages) + gamma * kl
            norms.append(_step(adam, self.actor, losses.mean()))
        return sum(norms) / len(norms)

    def _fit_values(self, states, targets):
        losses = []
        for _ in range(self.settings.value_epochs):
            loss = (targets - self._value(states)).square().mean() / 2
            _step(self.critic_adam, self.critic, loss)
            losses.append(loss.detach())
        return float(losses[0])


def _log_prob(mean, log_std, action):
    return -(((action - mean) / log_std.exp()) ** 2 + LOG_TWO_PI) / 2 - log_std


def _step(adam, leaves, loss):
    """Take one step unless the gradient is not finite; return its norm."""
    adam.zero_grad()
    loss.backward()
    norm = float(torch.nn.utils.get_total_norm([leaf.grad for leaf in leaves]))
    if math.isfinite(norm):
        adam.step()
    return norm
