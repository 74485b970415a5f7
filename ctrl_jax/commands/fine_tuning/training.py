"""A run on a user's model, from its inputs to what was trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from ctrl_jax._typing import Params
from ctrl_jax.algorithms import Control, RunState
from ctrl_jax.commands.fine_tuning.algorithms import make_algorithm
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.evaluation import Found, make_evaluation
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.prompts import PromptOrder
from ctrl_jax.commands.fine_tuning.scoring import Scores
from ctrl_jax.networks.sharding import partition_specs
from ctrl_jax.runtime import (
    Checkpoints,
    CountTraces,
    LoopOptions,
    MetricsLog,
    Run,
    make_adapters,
    own_part,
    replicate,
    train,
)
from ctrl_jax.runtime.devices.mesh import place


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
    frozen = placed(inputs, mesh)
    algorithm = control(config, inputs, frozen)
    step = CountTraces(
        lambda state, batch, frozen: control(config, inputs, frozen).step(state, batch)
    )
    evaluate = make_evaluation(config, inputs, frozen, mesh)
    weights = inputs.rewards.weights
    abstract = jax.eval_shape(algorithm.init, jax.random.key(config.run.seed))
    shardings = shardings_of(config, inputs, abstract, mesh)
    # Placed as those of the state, so that all evaluations are one program.
    before = evaluate(place(inputs.subject.params, shardings.learners["policy"].params))
    order = PromptOrder([prompt.weight for prompt in inputs.given.train], config.run.seed)
    number = config.prompts_per_batch

    def batch(k: int):
        return own_part(inputs.batch(order.prompts(k * number, number), config.group))

    with Checkpoints(run.checkpoints) as checkpoints:
        start, *states = begin(algorithm, abstract, shardings, run, checkpoints, config)
        adapters = make_adapters(config.run.log, run.folder, config)
        with MetricsLog(run.metrics, start=start, adapters=adapters) as log:
            if start == 0:
                log.write(0, named(before.metrics(weights)))
            state = train(
                step,
                states.pop(),  # the loop's own copy is the only one
                batch,
                steps=config.updates,
                start=start,
                log=log,
                checkpoints=checkpoints,
                options=LoopOptions(
                    checkpoint_every=config.evaluation.checkpoint_every,
                    evaluate_every=config.evaluation.every,
                    evaluate=lambda k, s: named(evaluate(s.params).metrics(weights)),
                    progress=config.run.progress,
                    description=f"fine-tuning ({config.algorithm})",
                    mesh=mesh,
                    shardings=shardings,
                    fixed=frozen,
                    record=run.record,
                    profile=run.folder / "profile" if config.run.profile else None,
                ),
            )
    facts = {
        "traces": step.traces,
        "updates": config.updates,
        "reward_queries": config.updates * config.batch,
        "epochs": order.epoch_of(config.updates * number),
    }
    return Outcome(state.params, before, evaluate(state.params), facts)


def placed(inputs: Inputs, mesh: Mesh) -> dict[str, Any]:
    """Return what no gradient moves, on the devices."""
    towers = {"rewards": inputs.rewards.params, "held_out": inputs.held_out.params}
    return {**inputs.subject.frozen, **replicate(mesh, jax.tree.map(jnp.asarray, towers))}


def control(config: Config, inputs: Inputs, frozen: dict[str, Any]) -> Control:
    """Return the algorithm, `frozen` also traced."""
    reward_fn = Scores(inputs.subject, frozen, inputs.rewards, len(inputs.network))
    return make_algorithm(config, inputs.subject, frozen, reward_fn, scale=inputs.scale)


def shardings_of(config: Config, inputs: Inputs, state: RunState, mesh: Mesh) -> Any:
    """Return how the state is divided, by the names of the network's parameters in it."""
    specs = partition_specs(state, mesh, fully=config.fully_sharded, rules=inputs.subject.rules)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def begin(
    algorithm: Control,
    abstract: RunState,
    shardings: Any,
    run: Run,
    checkpoints: Checkpoints,
    config: Config,
) -> tuple[int, RunState]:
    """Return the state to go on with, and the number of updates that it has seen."""
    if not run.resumed:
        return 0, algorithm.init(jax.random.key(config.run.seed))

    def abstractly(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    start, state, record = checkpoints.restore(jax.tree.map(abstractly, abstract, shardings))
    run.check_restored(record)
    return start, state


def named(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics of an evaluation as the log has them."""
    return {f"evaluation/{name}": value for name, value in metrics.items()}
