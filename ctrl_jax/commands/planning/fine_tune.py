"""The update of `ctrl-jax fine-tune`, from the configs of a folder alone."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ctrl_jax._checks import refuse
from ctrl_jax.commands.fine_tuning.algorithms import make_algorithm
from ctrl_jax.commands.fine_tuning.chunks import whole_update
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import (
    Column,
    Inputs,
    check_prompts_wanted,
    check_rewards,
)
from ctrl_jax.commands.fine_tuning.of_pipeline import subject_of
from ctrl_jax.commands.fine_tuning.of_run import is_run, load_of_run
from ctrl_jax.commands.fine_tuning.prompts import Given, read_given
from ctrl_jax.commands.fine_tuning.rewards import RewardSet, read_rewards
from ctrl_jax.commands.fine_tuning.scoring import reading
from ctrl_jax.commands.fine_tuning.steps import Fixed
from ctrl_jax.commands.fine_tuning.subject import Subject
from ctrl_jax.commands.fine_tuning.training import shardings_of
from ctrl_jax.commands.fine_tuning.value import Unit
from ctrl_jax.commands.planning.program import Program, placed, shapes_of
from ctrl_jax.data.prompts import Prompt
from ctrl_jax.networks.sharding import partition_specs
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline, load_pipeline
from ctrl_jax.pretrained.diffusers.pipeline_index import AUTOENCODER_NAME
from ctrl_jax.runtime import check_batch
from ctrl_jax.runtime.devices.mesh import batch_shapes


def batch_of(config: Config) -> int:
    """Return the batch of an update."""
    return config.batch


def with_batch(config: Config, batch: int) -> Config:
    """Return the options with another batch."""
    return dataclasses.replace(config, batch=batch, group=config.together)


def unit_of(config: Config, mesh: Mesh) -> int:
    """Return what every batch is a multiple of."""
    return math.lcm(mesh.shape["data"], config.together)


def program(config: Config, mesh: Mesh) -> Program:
    """Return the update on shapes.

    Args:
        config: the options of the command. Without prompts there are as many as an update has
            places for.
        mesh: the devices.

    Raises:
        ValueError: an option or a file does not fit the others.
    """
    if config.method.chunks == "auto":
        rule = "it is found on the devices themselves"
        raise refuse("chunks", "auto", rule, "give a number, a divisor of the solver steps")
    check_batch(mesh, config.batch, "batch")
    inputs, frozen = inputs_of(config, mesh)
    params = shapes_of(inputs.subject.params)
    scalar: Any = jax.ShapeDtypeStruct((), jnp.float32)
    unit = Unit(scalar, scalar)

    def first(frozen, params, unit):
        subject = inputs.subject._replace(params=params)
        made = make_algorithm(config, inputs._replace(subject=subject), frozen, unit)
        return made.init(jax.random.key(0))

    state = jax.eval_shape(first, frozen, params, unit)
    shardings = shardings_of(config, inputs, state, mesh)
    batch = inputs.batch(np.arange(config.places) % len(inputs.given.train), config.together)
    inputs = inputs._replace(subject=inputs.subject._replace(params=params))
    return Program(
        step=whole_update(config, inputs),
        state=placed(state, mesh, jax.tree.map(lambda sharding: sharding.spec, shardings)),
        batch=batch_shapes(mesh, batch),
        fixed=Fixed(frozen, placed(unit, mesh)),
        examples=config.queries,
        unit="images",
    )


def inputs_of(config: Config, mesh: Mesh) -> tuple[Inputs, dict[str, Any]]:
    """Return the inputs of a run with shapes for weights, and what no gradient moves, placed."""
    ours = is_run(config.model)
    if ours or config.prompts is not None:
        check_prompts_wanted(config, ours)
        shown = config.evaluation.prompts
        given = read_given(config.prompts, config.validation_prompts, shown=shown)
    else:
        given = Given((Prompt(""),) * config.places, ())
    read = partial(read_rewards, options=config.rewarding.outside, dtype=config.run.dtype)
    rewards, held_out = read(config.reward), read((), option="held_out_reward")
    if ours:
        subject, tables = load_of_run(config), []
        frozen = placed(shapes_of(subject.frozen), mesh)
    else:
        subject, frozen, tables = _of_pipeline(config, mesh)
    check_rewards(subject, rewards, held_out)
    frozen |= {name: placed(shapes_of(r.params), mesh) for name, r in _sets(rewards, held_out)}
    places = np.zeros(len(given.all), np.int64)
    network = tuple(Column(_zeros(shape), places) for shape in tables)
    own = (
        tuple(Column(np.asarray(rows), places) for rows in rewards.encode([""]).values())
        if reading(rewards)
        else ()
    )
    scale = 1.0 if ours else config.sampler.scale
    summing = config.rewarding.summing(rewards.weights, config.method.algorithm)
    found = Inputs(subject, given, rewards, held_out, network, own, (), summing, scale)
    return found, frozen


def _of_pipeline(config: Config, mesh: Mesh) -> tuple[Subject, dict[str, Any], list[Any]]:
    dtype = config.run.dtype
    kept = jnp.promote_types(dtype, jnp.float32) if config.full else dtype
    found = load_pipeline(
        config.model,
        dtype=dtype,
        param_dtype=kept,
        variant=config.variant,
        weights=(),
        remat=config.remat,
    )
    size: dict[str, Any] = {"height": config.height, "width": config.width}
    params = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, kept), part.plain.shapes)
        for name, part in found.parts.items()
    }
    encode = partial(found.encode, [""], **size)
    texts = jax.eval_shape(lambda params: encode(params=params), params)
    held = (found.kind.denoiser, AUTOENCODER_NAME)
    found = dataclasses.replace(found, params={name: params[name] for name in held})
    widths = tuple(text.shape[-1] for text in texts)
    subject = subject_of(config, found, found.shape(**size), widths, mesh.shape["data"])
    frozen = {
        name: _divided(config, found, part, mesh)
        for name, part in zip(("denoiser", "decoder"), held, strict=True)
    }
    return subject, frozen, [*texts] * (1 if config.sampler.scale == 1 else 2)


def _divided(config: Config, pipeline: Pipeline, name: str, mesh: Mesh) -> Any:
    tree, rules = pipeline.params[name], pipeline.parts[name].kind.rules
    specs = partition_specs(tree, mesh, fully=config.fully_sharded, rules=rules)
    return placed(tree, mesh, specs)


def _sets(rewards: RewardSet, held_out: RewardSet):
    return (("rewards", rewards), ("held_out", held_out))


def _zeros(shape: Any) -> np.ndarray:
    """An array of one row that takes no room."""
    return np.broadcast_to(np.zeros((), shape.dtype), shape.shape)
