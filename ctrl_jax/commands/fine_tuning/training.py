"""A run on a user's model, from its inputs to what was trained."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from ctrl_jax._typing import Params
from ctrl_jax.algorithms import RunState
from ctrl_jax.commands.fine_tuning.chunks import fitted
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
from ctrl_jax.commands.fine_tuning.value import Unit
from ctrl_jax.commands.fine_tuning.watch import Watch
from ctrl_jax.networks.sharding import SCORE, partition_specs
from ctrl_jax.runtime import (
    Checkpoints,
    CountTraces,
    LoopOptions,
    MetricsLog,
    OutsideStep,
    Run,
    in_flight,
    make_adapters,
    own_part,
    replicate,
    shard_batch,
    train,
    train_outside,
)
from ctrl_jax.runtime.checkpoints.stored import placed_as
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


class Setting(NamedTuple):
    """What a run's updates need.

    Fields:
        config: the options.
        inputs: what was read.
        run: its place on disk.
        mesh: its devices.
        course: its prompts.
        fixed: what no gradient moves.
        shardings: of its state.
    """

    config: Config
    inputs: Inputs
    run: Run
    mesh: Mesh
    course: Course
    fixed: Fixed
    shardings: Any


class Ended(NamedTuple):
    """Where the updates ended: the state, how many there were, and why, if before the last."""

    state: RunState
    updates: int
    stopped: Mapping[str, Any] | None


def tune(config: Config, inputs: Inputs, run: Run, mesh: Mesh) -> Outcome:
    """Train, evaluate and save checkpoints in the run's folder."""
    weights = [prompt.weight for prompt in inputs.given.train]
    course = Course(PromptOrder(weights, config.run.seed), config.places)
    frozen = placed(inputs, mesh)
    evaluate = make_evaluation(config, inputs, frozen, mesh)
    shardings = shardings_of(config, inputs, abstract_state(config, inputs, frozen), mesh)
    watch = Watch(config, inputs, run, evaluate, begun(inputs, run, evaluate, shardings))
    # Rewards that are scaled have their unit already.
    plain = inputs.summing.plain
    unit = watch.before.unit(inputs.rewards.weights) if plain else Unit(0.0, 1.0)
    fixed = Fixed(frozen, replicate(mesh, jax.tree.map(jnp.float32, unit)))
    if config.method.chunks == "auto":
        batch = shard_batch(mesh, own_part(mesh, inputs.batch(course.prompts(0), config.together)))
        state = abstract_state(config, inputs, frozen)
        config = fitted(config, inputs, run, mesh, batch, fixed, placed_as(state, shardings))
    outside = bool(inputs.rewards.outside) or config.split
    step = two_programs(config, inputs, course, mesh) if outside else one_program(config, inputs)
    ended = updated(Setting(config, inputs, run, mesh, course, fixed, shardings), step, watch)
    facts = {
        "traces": traces_of(step),
        "updates": ended.updates,
        "reward_queries": ended.updates * config.queries,
        "epochs": course.epochs(ended.updates),
    }
    if ended.stopped is not None:
        facts["stopped"] = f"path KL {ended.stopped['kl']:.4g} > --kl-budget {config.kl_budget:g}"
    return Outcome(ended.state.params, watch.before, watch.of(ended.updates, ended.state), facts)


def updated(setting: Setting, step: CountTraces | OutsideStep, watch: Watch) -> Ended:
    """Run the updates, from the newest checkpoint on where there is one."""
    config, inputs, run, mesh, course, fixed, shardings = setting
    algorithm, overlap = control(config, inputs, fixed), config.rewarding.overlap
    stopped: list[Any] = []

    def batch(k: int):
        return own_part(mesh, inputs.batch(course.prompts(k), config.together))

    def first() -> Any:
        state = algorithm.init(jax.random.key(config.run.seed))
        return in_flight(state) if overlap else state

    def stop(k: int, metrics: Mapping[str, Any]):
        stopped.extend(filter(None, [watch.stop(k, metrics)]))
        return stopped[0] if stopped else None

    options = LoopOptions(
        fetch_every=1,  # an update takes seconds, and who waits wants to see it
        checkpoint_every=config.evaluation.checkpoint_every,
        evaluate_every=config.evaluation.every,
        evaluate=watch.evaluate,
        stop=stop,
        amounts={"images": config.queries},
        progress=config.run.progress,
        description=f"fine-tuning ({config.method.algorithm})",
        mesh=mesh,
        shardings=shardings,
        fixed=fixed,
        record=run.record,
        profile=run.folder / "profile" if config.run.profile else None,
    )
    keep, every = config.run.keep, config.run.keep_every
    with Checkpoints(run.checkpoints, keep, keep_every=every) as checkpoints:
        start, record, *states = begin(first, shardings, overlap, run, checkpoints)
        before = record.get("stopped")
        steps = start if before and watch.exceeds(before["kl"]) else config.updates
        stopped += [before] if steps == start and before else []
        adapters = make_adapters(config.run.log, run.folder, config)
        known = {"start": start, "digest": record.get("lines")}
        with MetricsLog(run.metrics, adapters=adapters, **known) as log:
            watch.begin(start, log)
            given = {"steps": steps, "start": start, "log": log, "checkpoints": checkpoints}
            given |= {"options": options}
            # The loop's own copy of the state is the only one.
            if isinstance(step, OutsideStep):
                state = train_outside(step, states.pop, batch, overlap=overlap, **given)
            else:
                state = train(step, states.pop, batch, **given)
    last = stopped[0] if stopped else None
    updates = last["update"] if last else max(start, steps)
    return Ended(state.state if overlap else state, updates, last)


def placed(inputs: Inputs, mesh: Mesh) -> dict[str, Any]:
    """Return networks that no gradient moves, on the devices."""
    towers = {"rewards": inputs.rewards.params, "held_out": inputs.held_out.params}
    return {**inputs.subject.frozen, **replicate(mesh, jax.tree.map(jnp.asarray, towers))}


def begun(inputs: Inputs, run: Run, evaluate: Evaluate, shardings: Any) -> Found:
    """Return the evaluation of the pretrained model, kept in the run's folder: asked for once."""
    path = run.folder / BEFORE
    if run.resumed and (found := kept(path)) is not None:
        return found
    # Placed as those of the state, so that all evaluations are one program.
    found = evaluate(place(inputs.subject.params, shardings.learners["policy"].params))
    found.check()
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
    divided = partial(partition_specs, mesh=mesh, fully=config.fully_sharded)
    value = {name: each for name, each in state.learners.items() if name == "value"}
    policy = {name: each for name, each in state.learners.items() if name != "value"}
    specs = divided(state._replace(learners=policy), rules=inputs.subject.rules)
    specs.learners.update(divided(value, rules=SCORE))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def begin(first, shardings: Any, overlap: bool, run: Run, checkpoints: Checkpoints):
    """Return the updates so far, the record of the checkpoint, and the state to go on with."""
    if not run.resumed:
        return 0, {}, first()
    whole = in_flight(shardings) if overlap else shardings
    start, state, record = checkpoints.restore(jax.eval_shape(first), shardings=whole)
    run.check_restored(record)
    return start, record, state
