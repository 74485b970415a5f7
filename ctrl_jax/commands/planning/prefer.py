"""The update of `ctrl-jax prefer`, from a config alone."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ctrl_jax._checks import refuse, under_names
from ctrl_jax._records import read_json
from ctrl_jax.commands.planning.batches import batch_of as batch_of
from ctrl_jax.commands.planning.batches import with_batch as with_batch
from ctrl_jax.commands.planning.program import Program, placed
from ctrl_jax.commands.preference.config import Config
from ctrl_jax.commands.preference.data import load_data
from ctrl_jax.commands.preference.training import amounts_of, frozen_of, make_algorithm
from ctrl_jax.data import PreferenceRows, load_tokenizer
from ctrl_jax.networks import DecoderConfig, language_model, partition_specs
from ctrl_jax.pretrained.language.record import read_record
from ctrl_jax.runtime import check_batch
from ctrl_jax.runtime.devices.mesh import batch_shapes

NONE = "-"
"""In the place of the data: pairs as long as they may be."""


def unit_of(config: Config, mesh: Mesh) -> int:
    """Return what every batch is a multiple of."""
    return mesh.shape["data"] * config.optimization.accumulate


def program(config: Config, mesh: Mesh) -> Program:
    """Return the update on shapes.

    Args:
        config: the options of the command. With ``--data -`` every pair is one row of as many
            tokens as `texts` allows, half of `max_length` its prompt.
        mesh: the devices.

    Raises:
        ValueError: an option or a file does not fit the others.
    """
    options, run = config.optimization, config.run
    part = options.batch // options.accumulate
    check_batch(mesh, part, "optimization.batch / optimization.accumulate")
    record = read_json(
        Path(config.model) / "config.json", name="model", repair="give the folder of a saved model"
    )
    network = read_record(record)
    kept = jnp.promote_types(run.dtype, jnp.float32)
    lora = config.adapters.lora
    model = language_model(
        network, dtype=run.dtype, param_dtype=kept, lora=lora, remat=options.remat
    )
    algorithm = make_algorithm(config, model, run.steps or 1000)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    frozen = frozen_of(config, model.shapes)
    specs_of = partial(partition_specs, mesh=mesh, fully=options.fully_sharded)
    # The reference model, whose answers and divergence are looked at until the run ends.
    pretrained = None if lora is not None else placed(model.shapes, mesh, specs_of(model.shapes))
    if config.data == NONE:
        rows = longest_rows(config, options.batch)
        # A prompt with one answer, and the other answer: half of the slots. A row may be longer.
        tokens = options.batch * (config.texts.max_length + rows.sources.shape[1] // 2)
    else:
        rows, tokens = _rows(config, network, mesh)
    return Program(
        step=algorithm.step,
        state=placed(state, mesh, specs_of(state)),
        batch=batch_shapes(mesh, rows),
        fixed=placed(frozen, mesh, specs_of(frozen)),
        examples=options.batch,
        unit="pairs",
        beside=pretrained,
        tokens=tokens,
    )


def longest_rows(config: Config, pairs: int) -> PreferenceRows:
    """Return rows of one pair each, as long as pairs may be."""
    texts = config.texts
    prompt = min(texts.max_prompt_length or texts.max_length // 2, texts.max_length - 1)
    slots = 2 * (texts.max_length - prompt)
    length = texts.row_length or prompt + slots
    if length < prompt + slots:
        rule = f"a pair may take {prompt + slots} tokens"
        repair = "give as many, leave it out, or lower --texts.max-length"
        raise refuse("texts.row_length", length, rule, repair)

    def of(*shape: int, dtype: Any = np.int32) -> Any:
        return jax.ShapeDtypeStruct((pairs, *shape), dtype)

    return PreferenceRows(
        *3 * [of(length)],
        *3 * [of(slots)],
        weights=of(1, dtype=np.float32),
        numbers=of(1),
        dispersion=of(1, dtype=np.float32) if config.objective.estimates_dispersion else None,
        reference=of(1, 2, dtype=np.float32),
    )


def _rows(config: Config, network: DecoderConfig, mesh: Mesh) -> tuple[PreferenceRows, float]:
    """Shapes of a batch of the data, and how many tokens are in one on average."""
    options = config.optimization
    with under_names(folder="model"):
        tokenizer = load_tokenizer(config.model)
    data = load_data(
        config.data,
        tokenizer,
        network,
        config.texts,
        config.evaluation,
        batch=options.batch,
        parts=options.accumulate,
        devices=mesh.shape["data"],
        seed=config.run.seed,
        show=config.run.progress,
    )
    rows = data.packing.batch
    found = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), data.train)
    pairs = found.weights.shape
    dispersed = config.objective.estimates_dispersion or found.dispersion is not None
    number = jax.ShapeDtypeStruct(pairs, np.float32)
    found = found._replace(
        dispersion=number if dispersed else None,
        reference=jax.ShapeDtypeStruct((*pairs, 2), np.float32),
    )
    return found, amounts_of(data.train, rows)["tokens"]
