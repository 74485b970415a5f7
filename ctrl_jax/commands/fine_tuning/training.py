"""A run on a user's model, from its inputs to what was trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from ctrl_jax._typing import Params
from ctrl_jax.algorithms import RunState
from ctrl_jax.commands.fine_tuning.algorithms import Unit
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.evaluation import (
    Evaluate,
    Found,
    keep,
    kept,
    make_evaluation,
)
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.prompts import Course, PromptOrder
from ctrl_jax.commands.fine_tuning.steps import (
    Fixed,
    control,
    one_program,
    traces_of,
    two_programs,
)
from ctrl_jax.networks.sharding import partition_specs
from ctrl_jax.runtime import (
    Checkpoints,
    LoopOptions,
    MetricsLog,
    OutsideStep,
    Run,
    in_flight,
    make_adapters,
    own_part,
    replicate,
    train,
    train_outside,
)
from ctrl_jax.runtime.devices.distributed import barrier
from ctrl_jax.runtime.devices.mesh import place

BEFORE = "before.npz"


class Outcome(NamedTuple):
    """What a run ends with.

    Fields:
        params: what was trained, averaged where asked for.
        before: the evaluation of the pretrained model.
        after: that of the trained one.
        facts: what is known besides.
    """

    params: Params
    before: Found
    after: Found
    facts: dict[str, Any]


def tune(config: Config, inputs: Inputs, run: Run, mesh: Mesh) -> Outcome:
    """Train, evaluate and save checkpoints in the run's folder."""
    course = Course(
        PromptOrder([prompt.weight for prompt in inputs.given.train], config.run.seed),
        config.places,
    )
    frozen = placed(inputs, mesh)
    evaluate = make_evaluation(config, inputs, frozen, mesh)
    shardings = shardings_of(config, inputs, abstract_state(config, inputs, frozen), mesh)
    # Placed as those of the state, so that all evaluations are one program.
    before = begun(run, evaluate, place(inputs.subject.params, shardings.learners["policy"].params))
    # Rewards that are scaled have their unit already.
    plain = inputs.summing.plain
    unit = before.unit(inputs.rewards.weights) if plain else Unit(0.0, 1.0)
    unit = replicate(mesh, jax.tree.map(jnp.float32, unit))
    fixed = Fixed(frozen, unit)
    state, traces = loop(config, inputs, run, mesh, course, fixed, shardings, evaluate, before)
    each = 2 if config.method.of_pairs else 1
    facts = {
        "traces": traces,
        "updates": config.updates,
        "reward_queries": config.updates * config.batch * each,
        "epochs": course.epochs(config.updates),
    }
    return Outcome(state.params, before, evaluate(state.params), facts)


def loop(
    config: Config,
    inputs: Inputs,
    run: Run,
    mesh: Mesh,
    course: Course,
    fixed: Fixed,
    shardings: Any,
    evaluate: Evaluate,
    before: Found,
) -> tuple[RunState, int]:
    """Run the updates; return the last state and how often the step was traced."""
    weights, options = inputs.rewards.weights, config.evaluation
    outside, overlap = bool(inputs.rewards.outside), config.rewarding.overlap
    step = two_programs(config, inputs, course) if outside else one_program(config, inputs)
    algorithm = control(config, inputs, fixed)

    def batch(k: int):
        return own_part(inputs.batch(course.prompts(k), config.together))

    def first() -> Any:
        state = algorithm.init(jax.random.key(config.run.seed))
        return in_flight(state) if overlap else state

    with Checkpoints(run.checkpoints) as checkpoints:
        start, *states = begin(first, shardings, overlap, run, checkpoints)
        adapters = make_adapters(config.run.log, run.folder, config)
        with MetricsLog(run.metrics, start=start, adapters=adapters) as log:
            if start == 0:
                log.write(0, named(before.metrics(weights)))
            given = {
                "steps": config.updates,
                "start": start,
                "log": log,
                "checkpoints": checkpoints,
                "options": LoopOptions(
                    checkpoint_every=options.checkpoint_every,
                    evaluate_every=options.every,
                    evaluate=lambda k, s: named(evaluate(s.params).metrics(weights)),
                    progress=config.run.progress,
                    description=f"fine-tuning ({config.method.algorithm})",
                    mesh=mesh,
                    shardings=shardings,
                    fixed=fixed,
                    record=run.record,
                    profile=run.folder / "profile" if config.run.profile else None,
                ),
            }
            # The loop's own copy of the state is the only one.
            if isinstance(step, OutsideStep):
                state = train_outside(step, states.pop(), batch, overlap=overlap, **given)
            else:
                state = train(step, states.pop(), batch, **given)
    return state.state if overlap else state, traces_of(step)


def placed(inputs: Inputs, mesh: Mesh) -> dict[str, Any]:
    """Return networks that no gradient moves, on the devices."""
    towers = {"rewards": inputs.rewards.params, "held_out": inputs.held_out.params}
    return {**inputs.subject.frozen, **replicate(mesh, jax.tree.map(jnp.asarray, towers))}


def begun(run: Run, evaluate: Evaluate, params: Params) -> Found:
    """Return the evaluation of the pretrained model, kept in the run's folder: asked for once."""
    path = run.folder / BEFORE
    if run.resumed and (found := kept(path)) is not None:
        return found
    found = evaluate(params)
    if jax.process_index() == 0:
        keep(path, found)
    barrier(BEFORE)
    return found


def abstract_state(config: Config, inputs: Inputs, frozen: dict[str, Any]) -> RunState:
    """Return shapes and types of a state."""
    algorithm = control(config, inputs, Fixed(frozen, Unit(0.0, 1.0)))
    return jax.eval_shape(algorithm.init, jax.random.key(0))


def shardings_of(config: Config, inputs: Inputs, state: RunState, mesh: Mesh) -> Any:
    """Return how the state is divided, by the names of the network's parameters in it."""
    specs = partition_specs(state, mesh, fully=config.fully_sharded, rules=inputs.subject.rules)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def begin(first, shardings: Any, overlap: bool, run: Run, checkpoints: Checkpoints):
    """Return the number of updates so far, and the state after them: the first, or a kept one."""
    if not run.resumed:
        return 0, first()
    whole = in_flight(shardings) if overlap else shardings

    def abstractly(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    target = jax.tree.map(abstractly, jax.eval_shape(first), whole)
    start, state, record = checkpoints.restore(target)
    run.check_restored(record)
    return start, state


def named(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics of an evaluation as the log has them."""
    return {f"evaluation/{name}": value for name, value in metrics.items()}
