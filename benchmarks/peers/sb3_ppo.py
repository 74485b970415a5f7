"""stable-baselines3's PPO on linear-quadratic control, as a process of its own.

It reads a specification, then requests: ``reset SEED`` starts a run, ``update`` collects one batch
and trains on it; both answer with slope, intercept and std of the policy. The problem is a
Gymnasium environment, the trainer stable-baselines3's own, with a linear policy, a quadratic critic
and full-batch passes. Advantages are not standardized and the entropy bonus is gamma per unit of
time, so that its optimum is that of the problem.
"""

import json
import math
import os
import sys
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.threads import cores

BOUND = 1e3
"""stable-baselines3 wants finite limits of the action; these are never met."""


class LinearQuadraticEnv(gymnasium.Env):
    """One trajectory at a time, its reward that of a step, cut after `steps` steps.

    Args:
        specification: coefficients, start law, step and number of steps.
    """

    def __init__(self, specification: dict[str, Any]):
        self.problem, self.steps = specification["problem"], specification["steps"]
        self.start, self.dt = specification["start"], specification["settings"]["dt"]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-BOUND, BOUND, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Draw a start state."""
        super().reset(seed=seed)
        spread = math.sqrt(self.start[1] - self.start[0] ** 2)
        self.x, self.count = self.start[0] + spread * self.np_random.standard_normal(), 0
        return self._observation(), {}

    def step(self, action):
        """Take one Euler-Maruyama step."""
        p, x, a, h = self.problem, self.x, float(action[0]), self.dt
        cost = p["M"] / 2 * x * x + p["R"] * x * a + p["N"] / 2 * a * a + p["P"] * x + p["Q"] * a
        noise = (p["C"] * x + p["D"] * a) * math.sqrt(h) * self.np_random.standard_normal()
        self.x, self.count = x + (p["A"] * x + p["B"] * a) * h + noise, self.count + 1
        return self._observation(), -cost * h, False, self.count == self.steps, {}

    def _observation(self):
        return np.array([self.x], np.float32)


class Features(torch.nn.Module):
    """The state for the policy; the state and its square for the critic."""

    latent_dim_pi, latent_dim_vf = 1, 2

    def forward(self, x):
        """Return both."""
        return self.forward_actor(x), self.forward_critic(x)

    def forward_actor(self, x):
        """Return what the policy is linear in."""
        return x

    def forward_critic(self, x):
        """Return what the critic is linear in."""
        return torch.cat([x, x.square()], dim=1)


class TablePolicy(ActorCriticPolicy):
    """A linear-Gaussian policy and a quadratic critic."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor: Any = Features()


def make_trainer(specification: dict[str, Any], seed: int) -> PPO:
    """Return a PPO at the first policy."""
    settings, problem = specification["settings"], specification["problem"]
    environments = DummyVecEnv(
        [lambda: LinearQuadraticEnv(specification) for _ in range(settings["batch"])]
    )
    trainer = PPO(
        TablePolicy,
        environments,
        learning_rate=settings["policy_rate"],
        n_steps=specification["steps"],
        batch_size=specification["steps"] * settings["batch"],
        n_epochs=settings["epochs"],
        gamma=math.exp(-problem["discount"] * settings["dt"]),
        gae_lambda=settings["trace"],
        clip_range=settings["clip"],
        ent_coef=problem["temperature"] * settings["dt"],
        normalize_advantage=False,
        seed=seed,
        device="cpu",
    )
    first = specification["first"]
    with torch.no_grad():
        trainer.policy.action_net.weight.fill_(first["slope"])
        trainer.policy.action_net.bias.fill_(first["intercept"])
        trainer.policy.log_std.fill_(math.log(first["std"]))
    return trainer


def policy_of(trainer: PPO) -> list[float]:
    """Return slope, intercept and std."""
    policy: Any = trainer.policy
    std = math.exp(float(policy.log_std.detach()[0]))
    return [float(policy.action_net.weight[0, 0]), float(policy.action_net.bias[0]), std]


def main() -> None:
    """Serve requests until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the trainer prints is not an answer
    torch.set_num_threads(cores())
    specification = json.loads(sys.stdin.readline())
    answers.write('"ready"\n')
    trainer = None
    for line in sys.stdin:
        request, *arguments = line.split()
        if request == "reset" or trainer is None:
            trainer = make_trainer(specification, int(arguments[0]))
        else:
            transitions = specification["steps"] * specification["settings"]["batch"]
            trainer.learn(transitions, reset_num_timesteps=False)
        answers.write(json.dumps(policy_of(trainer)) + "\n")


if __name__ == "__main__":
    main()
