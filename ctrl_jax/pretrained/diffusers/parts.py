"""The networks that a pipeline may be made of, each by the name of its class in diffusers."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from ctrl_jax._checks import refuse, under_names
from ctrl_jax._records import read_json
from ctrl_jax._typing import Params
from ctrl_jax.networks.functional import Network
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.sharding import Rules, partition_specs
from ctrl_jax.pretrained.key_table import Source, fill
from ctrl_jax.pretrained.weight_files import read_weights

FLOATS = (np.float32, np.float16, jnp.bfloat16)
MODEL, DIFFUSERS = "model", "diffusion_pytorch_model"


class Kind(NamedTuple):
    """A class of networks.

    Fields:
        read: ``read(record, name=) -> config``, the name that of the file in errors.
        make: ``make(config, dtype=, param_dtype=, lora=, ...) -> Network``.
        table: ``table(shapes)``, the key table.
        arrays: ``arrays(found)``, a file's arrays by the names of the table.
        stem: of the weight files' names.
        rules: how its parameters are divided over a mesh.
    """

    read: Callable[..., Any]
    make: Callable[..., Network]
    table: Callable[[Any], dict[str, Source]]
    arrays: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    stem: str
    rules: Rules


class Part(NamedTuple):
    """A network of a pipeline.

    Fields:
        kind: its class.
        record: the content of its config.json.
        config: the same as its description.
        plain: as pure functions, without adapters.
        network: the same with its adapters, if any.
        make: ``make(lora)``, the same network with adapters.
    """

    kind: Kind
    record: Mapping[str, Any]
    config: Any
    plain: Network
    network: Network
    make: Callable[[LoRA], Network]

    @property
    def table(self) -> dict[str, Source]:
        """The key table of the network without adapters."""
        return self.kind.table(self.plain.shapes)


def read_part(folder: str | os.PathLike[str], kind: Kind, **options: Any) -> Part:
    """Return a network of a pipeline from its config.json, without its weights.

    Args:
        folder: of the part.
        kind: its class.
        **options: of the network's maker, such as `dtype`, `param_dtype` and `remat`.

    Raises:
        ValueError: config.json is missing, or says what is not understood.
    """
    record = read_json(
        Path(folder) / "config.json", name="model", repair="give the folder of a saved pipeline"
    )
    config = kind.read(record, name=f"{Path(folder).name}/config.json")

    plain = kind.make(config, **options)

    def make(lora: LoRA) -> Network:
        return kind.make(config, lora=lora, **options)

    return Part(kind, record, config, plain, plain, make)


def load_part(
    folder: str | os.PathLike[str],
    part: Part,
    *,
    param_dtype: DTypeLike = jnp.float32,
    variant: str | None = None,
    mesh: Mesh | None = None,
    fully: bool = False,
) -> Params:
    """Return the weights of a network of a pipeline.

    Args:
        folder: of the part.
        part: by `read_part`.
        param_dtype: type of the weights; those of the files are converted to it.
        variant: of the weight files, such as fp16.
        mesh: with axes ``data`` and ``model``, over which the weights are divided as they are read;
            None for the default device.
        fully: whether they are divided over ``data`` too.

    Raises:
        ValueError: a file is missing, truncated or damaged, or the weights do not fit config.json.
    """
    if fully and mesh is None:
        raise refuse("fully", fully, "it needs a mesh", "give one")
    arrays = part.kind.arrays(read_weights(folder, stem=part.kind.stem, variant=variant))
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, param_dtype), part.plain.shapes
    )
    shardings = None
    if mesh is not None:
        specs = partition_specs(target, mesh, fully=fully, rules=part.kind.rules)
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    table = part.kind.table(target)
    with under_names(weights=f"weights of {Path(folder).name}"):
        return fill(target, table, arrays, converted=FLOATS, shardings=shardings)
