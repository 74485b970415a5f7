"""Reinforcement learning in continuous time on linear-quadratic control, whose optimum is known.

Two questions: what one update costs (simulate a batch of trajectories, estimate, fit policy and
critic), and how long a whole run takes until its policy is within 1 % of the optimum, relative to
the starting gap. Ours is one compiled program. PyTorch makes the same arithmetic; what
stable-baselines3 is given is its own PPO with our linear policy, quadratic critic, data and number
of passes.
"""

import dataclasses
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Case, Contender, Runner, compile_jax
from ctrl_jax.algorithms import (
    Algorithm,
    ContinuousControl,
    OccupationConfig,
    ProximalConfig,
    make_cppo,
    make_discrete_ppo,
)
from ctrl_jax.environments import LinearGaussian, LinearQuadratic
from ctrl_jax.networks.policies import linear_policy, quadratic_value

CLAIM = "Continuous-time PPO as one program is faster, per update and to the optimum, than peers."
COEFFICIENTS = {"A": -1.0, "B": 0.6, "C": 0.3, "D": 0.5, "M": 2.0, "N": 2.0, "R": 1.0}
COEFFICIENTS |= {"P": 1.0, "Q": 2.0, "discount": 1.0, "temperature": 0.1}
START = (0.4, 0.7)
"""Raw moments of the normal start law."""
FIRST = LinearGaussian(-0.3, 0.2, 0.8)
MOST_UPDATES = 400


@dataclasses.dataclass(frozen=True)
class Settings:
    """One size of the problem and of the updates, equal for all sides."""

    batch: int
    dt: float = 0.02
    horizon: float = 4.0
    draws: int = 16
    epochs: int = 15
    value_epochs: int = 10
    policy_rate: float = 0.02
    value_rate: float = 0.05
    clip: float = 0.2
    trace: float = 0.95
    goal: float = 0.01

    @property
    def steps(self) -> int:
        """Steps of a trajectory."""
        return round(self.horizon / self.dt)


QUICK = {"dt": 0.2, "horizon": 1.0, "draws": 2, "epochs": 2, "value_epochs": 2, "goal": 3.0}


def cases(quick: bool = False) -> Iterator[Case]:
    """Yield updates of both algorithms at two sizes, and whole runs."""
    small = QUICK if quick else {}
    for batch in (4,) if quick else (32, 512):
        arguments = {"batch": batch, **small}
        name = f"CPPO update, {batch} trajectories of {Settings(**arguments).steps} steps"
        yield Case(name, list(_updates("cppo", arguments)))
    arguments = {"batch": 4 if quick else 32, **small}
    steps = Settings(**arguments).steps
    everything = arguments | {"draws": steps, "value_epochs": Settings(**arguments).epochs}
    name = f"discrete-time PPO update on all transitions, {arguments['batch']} of {steps} steps"
    yield Case(name, list(_updates("ppo", everything)))
    yield Case("time to 1 % of the starting gap", list(_runs(arguments, everything)))


def _updates(algorithm: str, arguments: dict[str, Any]) -> Iterator[Contender]:
    named = {"algorithm": algorithm, **arguments}
    yield Contender("ctrl_jax, one program", update, named)
    yield Contender("ctrl_jax, ten seeds in one program", update, named | {"seeds": 10})
    if algorithm == "cppo":
        yield Contender("PyTorch eager, same arithmetic", torch_update, arguments, target=1.0)
    else:
        yield Contender("stable-baselines3 PPO", sb3_update, arguments, target=1.0)


def _runs(arguments: dict[str, Any], everything: dict[str, Any]) -> Iterator[Contender]:
    yield Contender("ctrl_jax CPPO, one program", solve, {"algorithm": "cppo", **arguments})
    yield Contender(
        "ctrl_jax discrete-time PPO on all transitions", solve, {"algorithm": "ppo", **everything}
    )
    yield Contender("PyTorch eager CPPO, same arithmetic", torch_solve, arguments, target=1.0)
    yield Contender("stable-baselines3 PPO", sb3_solve, everything, target=1.0)


def environment() -> LinearQuadratic:
    """Return the problem: control in drift and noise."""
    return LinearQuadratic(**COEFFICIENTS)


def make(algorithm: str, settings: Settings) -> Algorithm:
    """Return CPPO with clipped ratios and the pathwise rate, or discrete-time PPO."""
    problem = ContinuousControl(environment(), settings.dt, settings.horizon)
    policy = linear_policy([[FIRST.slope]], [FIRST.intercept], [FIRST.std])
    schedule = optax.cosine_decay_schedule(settings.policy_rate, settings.epochs, alpha=0.1)
    optimizers = (optax.adam(schedule), optax.adam(settings.value_rate))
    models = (problem, policy, quadratic_value(1), *optimizers)
    occupation = OccupationConfig(draws=settings.draws, value_epochs=settings.value_epochs)
    if algorithm == "cppo":
        proximal = ProximalConfig("clipped", clip=settings.clip, epochs=settings.epochs)
        return make_cppo(*models, proximal, occupation)
    return make_discrete_ppo(
        *models,
        trace=settings.trace,
        clip=settings.clip,
        epochs=settings.epochs,
        occupation=occupation,
    )


def start_states(key: jax.Array, batch: int) -> jax.Array:
    """Draw start states (batch, 1)."""
    spread = (START[1] - START[0] ** 2) ** 0.5
    return START[0] + spread * jax.random.normal(key, (batch, 1))


def suboptimality(slope: Any, intercept: Any, std: Any) -> Any:
    """Return the distance of a policy from the optimum over that of the first one."""
    problem = environment()
    best = problem.mean_value(problem.optimal_linear_policy(), START)
    policy = LinearGaussian(slope, intercept, std)
    gap = best - problem.mean_value(policy, START)
    first = best - problem.mean_value(FIRST, START)
    return jnp.where(problem.stable(policy), gap / first, jnp.inf)


def advance(made: Algorithm, settings: Settings, state: Any, key: jax.Array):
    """Return state and metrics after one update from fresh start states."""
    return made.step(state, start_states(key, settings.batch))


def update(algorithm: str, seeds: int = 1, **options: Any) -> Runner:
    """Build one update of ours, of several seeds at once where asked for."""
    settings = Settings(**options)
    made = make(algorithm, settings)
    keys = jax.random.split(jax.random.key(0), seeds)

    def step(states, keys):
        def one(state, key):
            key, start_key = jax.random.split(key)
            return *advance(made, settings, state, start_key), key

        return jax.vmap(one)(states, keys)

    states = jax.vmap(made.init)(keys)
    compiled, seconds, memory = compile_jax(step, states, keys, donate=(0,))

    def run():
        nonlocal states, keys
        states, metrics, keys = compiled(states, keys)
        jax.block_until_ready((states, metrics))

    facts = {"environment_steps": seeds * settings.batch * settings.steps}
    return Runner(run, seconds, memory, facts=facts)


def solve(algorithm: str, **options: Any) -> Runner:
    """Build a whole run of ours, stopped at the goal, as one program; a new seed every time."""
    settings = Settings(**options)
    made = make(algorithm, settings)

    def train(key):
        init_key, start_key = jax.random.split(key)

        def going_on(carry):
            _, updates, gap = carry
            return (gap > settings.goal) & (updates < MOST_UPDATES)

        def body(carry):
            state, updates, _ = carry
            state, _ = advance(made, settings, state, jax.random.fold_in(start_key, updates))
            table = state.policy.params
            gap = suboptimality(table.slope[0, 0], table.intercept[0], jnp.exp(table.log_std[0]))
            return state, updates + 1, gap

        start = (made.init(init_key), jnp.zeros((), int), jnp.ones(()) * jnp.inf)
        return jax.lax.while_loop(going_on, body, start)[1:]

    compiled, seconds, memory = compile_jax(train, jax.random.key(0))
    seeds, counted = itertools.count(), Counted(settings)

    def run():
        updates, gap = jax.device_get(compiled(jax.random.key(next(seeds))))
        counted.finish(int(updates), float(gap))

    return Runner(run, seconds, memory, facts=counted.facts)


class Counted:
    """Counts the updates of whole runs; `facts` are medians over the runs so far."""

    def __init__(self, settings: Settings):
        self.settings, self.counts = settings, []
        self.facts: dict[str, float] = {}

    def finish(self, updates: int, gap: float) -> None:
        """Take a run into account; RuntimeError if it did not reach the goal."""
        if not gap <= self.settings.goal:
            raise RuntimeError(f"the goal was not reached in {updates} updates")
        self.counts.append(updates)
        middle = float(np.median(self.counts))
        time = middle * self.settings.batch * self.settings.horizon
        self.facts |= {"updates": middle, "environment_time": time}


def torch_update(**options: Any) -> Runner:
    """Build one update of the port to eager PyTorch."""
    from benchmarks.peers import torch_control

    settings = Settings(**options)
    learner = torch_control.Learner(COEFFICIENTS, START, FIRST, settings, seed=0)
    facts = {"environment_steps": settings.batch * settings.steps}
    return Runner(learner.update, facts=facts)


def torch_solve(**options: Any) -> Runner:
    """Build a whole run of the port."""
    from benchmarks.peers import torch_control

    settings = Settings(**options)

    def begin(seed):
        learner = torch_control.Learner(COEFFICIENTS, START, FIRST, settings, seed=seed)

        def step():
            learner.update()
            return learner.policy()

        return step

    return _until_the_goal(begin, settings)


def sb3_update(**options: Any) -> Runner:
    """Build one update of stable-baselines3's PPO."""
    settings = Settings(**options)
    ask, close = _start_sb3(settings)
    ask("reset 0")
    facts = {"environment_steps": settings.batch * settings.steps}
    return Runner(lambda: ask("update"), close=close, facts=facts)


def sb3_solve(**options: Any) -> Runner:
    """Build a whole run of stable-baselines3's PPO."""
    settings = Settings(**options)
    ask, close = _start_sb3(settings)

    def begin(seed):
        ask(f"reset {seed}")
        return lambda: ask("update")

    return _until_the_goal(begin, settings)._replace(close=close)


def _start_sb3(settings: Settings) -> tuple[Callable, Callable]:
    """Start the trainer in this interpreter, or in the one that ``--sb3-python`` names."""
    here = importlib.util.find_spec("stable_baselines3") is not None
    python = os.environ.get("BENCHMARKS_SB3_PYTHON") or (sys.executable if here else None)
    if python is None:
        raise ModuleNotFoundError("stable_baselines3; install it or name an interpreter")
    from benchmarks.peers import process

    specification = {"problem": COEFFICIENTS, "start": START, "first": FIRST._asdict()}
    specification |= {"settings": dataclasses.asdict(settings), "steps": settings.steps}
    return process.start(python, "benchmarks.peers.sb3_ppo", specification)


def _until_the_goal(begin: Callable, settings: Settings) -> Runner:
    """Run ``step = begin(seed)`` until the policy that it returns is good enough."""
    gap_of = jax.jit(suboptimality)
    gap_of(*FIRST)
    seeds, counted = itertools.count(), Counted(settings)

    def run():
        step, gap, updates = begin(next(seeds)), np.inf, 0
        while gap > settings.goal and updates < MOST_UPDATES:
            gap, updates = float(gap_of(*step())), updates + 1
        counted.finish(updates, gap)

    return Runner(run, facts=counted.facts)
