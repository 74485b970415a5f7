"""What the reference model says of the data: computed once, kept in the run's folder."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._typing import Params
from ctrl_jax.algorithms import Reference, make_reference_pass
from ctrl_jax.data import PreferenceRows
from ctrl_jax.data.preferences.rows import pad_rows, take_rows
from ctrl_jax.losses import preference
from ctrl_jax.networks import LanguageModel
from ctrl_jax.runtime import on_mesh, own_part, progress, shard_batch, state_digest
from ctrl_jax.runtime.run.arrays import keep_arrays, kept_arrays


class Referred(NamedTuple):
    """Rows with their reference, and the dispersion index of each pair, (rows, pairs)."""

    rows: PreferenceRows
    index: np.ndarray


def refer(
    file: Path,
    model: LanguageModel,
    params: Params,
    parts: dict[str, PreferenceRows],
    mesh: Mesh,
    *,
    at_a_time: int,
    chunk: int | None,
    show: bool,
) -> dict[str, Referred]:
    """Return rows with their reference, read from a file or computed and written there.

    Args:
        file: kept for a resumed run, which must not compute them again from other bits; what is
            damaged, or of another model or other data, is computed again.
        model: the model that is trained.
        params: its pretrained parameters.
        parts: rows by name.
        mesh: devices that rows are divided over.
        at_a_time: rows per compiled call, as in training: log-ratios begin at exactly zero.
        chunk: as in training.
        show: whether to show progress.
    """
    digest = _digest(model, params, parts)
    kept = kept_arrays(file, digest)
    if kept is None:
        run = _compiled(model, mesh, chunk)
        total = sum(-(-len(rows.tokens) // at_a_time) for rows in parts.values())
        kept, done = {}, 0
        with progress(total, "reference model", enabled=show) as update:
            for name, rows in parts.items():
                found = []
                for start in range(0, len(rows.tokens), at_a_time):
                    some = take_rows(rows, slice(start, start + at_a_time))
                    found.append(run(params, pad_rows(some, at_a_time)))
                    done += 1
                    update(done)
                log_probs, index = (
                    np.concatenate(values)[: len(rows.tokens)]
                    for values in zip(*jax.device_get(found), strict=True)
                )
                kept |= {f"log_probs/{name}": log_probs, f"index/{name}": index}
        if jax.process_index() == 0:
            keep_arrays(file, kept, digest)
    return {
        name: Referred(rows._replace(reference=kept[f"log_probs/{name}"]), kept[f"index/{name}"])
        for name, rows in parts.items()
    }


def estimate_dispersion(parts: dict[str, Referred]) -> tuple[dict[str, Referred], float]:
    """Return rows with phi from the index, and the scale, by which -2 log phi has the mean 1.

    The mean is over the training pairs with their weights: one of weight 2 is as two of them.
    """
    train = parts["train"]
    there = train.rows.numbers >= 0
    index, weights = (jnp.asarray(part[there]) for part in (train.index, train.rows.weights))
    scale = preference.dispersion_scale(index, weights=weights)

    def with_phi(part: Referred) -> Referred:
        phi = preference.dispersion_from_index(jnp.asarray(part.index), scale)
        return part._replace(rows=part.rows._replace(dispersion=np.asarray(phi)))

    return {name: with_phi(part) for name, part in parts.items()}, float(scale)


def _compiled(
    model: LanguageModel, mesh: Mesh, chunk: int | None
) -> Callable[[Params, PreferenceRows], Reference]:
    # Replicated results, which every process can read.
    everywhere = NamedSharding(mesh, PartitionSpec())
    score = on_mesh(mesh, make_reference_pass(model, chunk=chunk))
    run = jax.jit(score, out_shardings=everywhere)
    return lambda params, rows: run(params, shard_batch(mesh, own_part(mesh, rows)))


def _digest(model: LanguageModel, params: Params, parts: dict[str, PreferenceRows]) -> str:
    """The model with the type of its arithmetic, and the data."""
    arithmetic = jax.eval_shape(model.head, params).dtype
    words = f"{state_digest(params)} {arithmetic} {rows_digest(parts.values())}"
    return hashlib.sha256(words.encode()).hexdigest()


def rows_digest(parts: Iterable[PreferenceRows]) -> str:
    """Return the sha256 of the tokens of rows, and of which of them belong together."""
    found = hashlib.sha256()
    for rows in parts:
        for leaf in (rows.tokens, rows.texts, rows.branches):
            found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()
