"""An update as one compiled program, or as two with rewards asked on the host between them.

In both the algorithm is made inside the program, of arrays that no gradient moves: they are its
argument and no part of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ctrl_jax.algorithms import Control, Rollout
from ctrl_jax.commands.fine_tuning.algorithms import make_algorithm
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.prompts import Course
from ctrl_jax.commands.fine_tuning.reward_exchange import as_shown, make_ask
from ctrl_jax.commands.fine_tuning.scoring import parts_of
from ctrl_jax.commands.fine_tuning.value import Unit
from ctrl_jax.data.prompts import Prompt
from ctrl_jax.runtime import CountTraces, OutsideStep, own_part


class Fixed(NamedTuple):
    """What no gradient moves.

    Fields:
        frozen: networks, those of the rewards too.
        unit: of the reward.
    """

    frozen: dict[str, Any]
    unit: Unit


def control(config: Config, inputs: Inputs, fixed: Fixed) -> Control:
    """Return the algorithm, `fixed` also traced."""
    return make_algorithm(config, inputs, fixed.frozen, fixed.unit)


def one_program(config: Config, inputs: Inputs) -> CountTraces:
    """Return ``step(state, batch, fixed)``: rollout, rewards and update."""

    def step(state, batch, fixed):
        algorithm = control(config, inputs, fixed)
        rollouts = algorithm.collect(state, batch)
        parts = [_scored(inputs, fixed, each)[1] for each in _each(rollouts)]
        return inputs.summing.learn(algorithm, state, rollouts, parts)

    return CountTraces(step)


def two_programs(config: Config, inputs: Inputs, course: Course, mesh: Mesh) -> OutsideStep:
    """Return the step whose rewards are asked on the host; those on the device are in `collect`."""

    def collect(state, batch, fixed):
        rollouts = control(config, inputs, fixed).collect(state, batch)
        scored = (_scored(inputs, fixed, each) for each in _each(rollouts))
        pictures, parts = zip(*scored, strict=True)
        return (rollouts, parts), as_shown(jnp.stack(pictures, axis=1))

    def prompts(k: int) -> list[Prompt]:
        rows = own_part(mesh, np.repeat(course.prompts(k), config.together))
        return [inputs.given.train[number] for number in rows]

    def learn(state, collected, answers, fixed):
        rollouts, parts = collected
        found = [
            here | {name: values[:, i] for name, values in answers.items()}
            for i, here in enumerate(parts)
        ]
        return inputs.summing.learn(control(config, inputs, fixed), state, rollouts, found)

    ask = make_ask(inputs.rewards.outside, prompts)
    return OutsideStep(CountTraces(collect), ask, CountTraces(learn))


def traces_of(step: CountTraces | OutsideStep) -> int:
    """Return how often the programs of a step were traced, the most of them."""
    if isinstance(step, CountTraces):
        return step.traces
    return max(part.traces for part in (step.collect, step.learn) if isinstance(part, CountTraces))


def _each(rollouts: Rollout | Sequence[Rollout]) -> Sequence[Rollout]:
    return [rollouts] if isinstance(rollouts, Rollout) else rollouts


def _scored(inputs: Inputs, fixed: Fixed, rollout: Rollout):
    """Pictures of the ends, and the rewards on the device."""
    pictures = inputs.subject.decode(fixed.frozen, rollout.states[-1])
    conditions = rollout.batch.gathered()[len(inputs.network) :]
    return pictures, parts_of(inputs.rewards, fixed.frozen["rewards"], pictures, conditions)
