"""Sharding rules: which axes of the mesh a network's parameters are divided over, by their names.

Over ``model`` (tensor parallelism, 1909.08053) a pair of products is divided inside: the outputs of
the first (queries, keys, values; gate, up) and the inputs of the second (out; down), so that a
device computes its heads and its hidden entries alone, and one sum over devices ends each half of a
block. Over ``data`` (fully sharded data parallelism, 2004.13336) the other axis is divided too: a
layer's weights are gathered when it is their turn.

A table says it for one kind of network: the end of a parameter's dotted path, as a regular
expression, and an axis of the mesh or None for each of its axes; the first line that fits counts.
Where ``model`` does not divide its axis of a parameter, such as 50257 tokens, the parameter is not
divided over it, which a warning says; ``data`` takes another axis if it divides that. Where blocks
alike are stacked, a line is of one of them, and their own axis stays whole: every device takes part
in every block.

That weights are gathered, rather than what they are multiplied with moved about, the networks say
themselves (`gathered`), where JAX knows the mesh while they are traced; all that `runtime` compiles
is traced so.
"""

import contextlib
import contextvars
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning

DATA, MODEL = "data", "model"
STACK = re.compile(r"\d+-\d+")  # names of `layers.blocks`
Rule = tuple[str | None, ...]
Rules = Mapping[str, Rule]

LARGEST: Rule = ("largest",)
"""Over ``data``, on the largest axis that it divides; for parameters of any rank."""


def pairs(first: str, second: str) -> Rules:
    """Return the lines of products that are divided inside.

    Args:
        first: names of the layers that are divided by outputs, joined by ``|``.
        second: of those after them, divided by inputs.
    """
    first, second = rf"({first})\.", rf"({second})\."
    return {
        first + "kernel": (DATA, MODEL),
        first + "bias": (MODEL,),
        first + "lora_a": (DATA, None),
        first + "lora_b": (None, MODEL),
        second + "kernel": (MODEL, DATA),
        second + "lora_a": (MODEL, None),
        second + "lora_b": (None, DATA),
    }


DECODER: Rules = {
    **pairs("query|key|value|gate|up", "out|down"),
    "tokens": (MODEL, DATA),
    "positions": (None, DATA),
    "head": (DATA, MODEL),
}
"""Of `language_model`."""

CLIP: Rules = {
    **pairs("q_proj|k_proj|v_proj|fc1", "out_proj|fc2"),
    r"token_embedding\.embedding": (MODEL, DATA),
    "kernel|embedding": LARGEST,
}
"""Of `clip`, `clip_text` and `clip_vision`."""

T5: Rules = {
    **pairs("q|k|v|wi|wi_0|wi_1", "o|wo"),
    r"shared\.embedding": (MODEL, DATA),
}
"""Of `t5`."""

MMDIT: Rules = {
    **pairs(r"to_[qkv]|add_[qkv]_proj|net\.0\.proj", r"to_out\.0|to_add_out|net\.2"),
    "kernel|pos_embed": LARGEST,
}
"""Of `mmdit`; what makes shifts, scales and gates is divided over ``data`` alone."""

RESNETS: Rules = {
    r"conv1\.kernel": (None, None, DATA, MODEL),
    r"conv1\.lora_a": (None, None, DATA, None),
    r"conv1\.lora_b": (None, None, None, MODEL),
    r"time_emb_proj\.kernel": (DATA, MODEL),
    r"time_emb_proj\.lora_a": (DATA, None),
    r"time_emb_proj\.lora_b": (None, MODEL),
    r"(conv1|time_emb_proj)\.bias|resnets\.\d+\.norm2\.(scale|bias)": (MODEL,),
    r"conv2\.kernel": (None, None, MODEL, DATA),
    r"conv2\.lora_a": (None, None, MODEL, None),
    r"conv2\.lora_b": (None, None, None, DATA),
}
"""Of residual blocks of pictures, whose two convolutions are a pair."""

UNET: Rules = {
    **pairs("to_[qkv]", r"to_out\.0"),
    **RESNETS,
    "kernel": LARGEST,
}
"""Of `unet`, whose perceptrons have gates beside what they gate: not divided inside."""

AUTOENCODER: Rules = {**RESNETS, "kernel": LARGEST}
"""Of `autoencoder`, whose attention has one head, which is not divided."""

BLIP: Rules = {
    **pairs(r"query|key|value|fc1|intermediate\.dense", r"attn\.proj|fc2|output\.dense"),
    r"word_embeddings\.embedding": (MODEL, DATA),
    "kernel|embedding|pos_embed": LARGEST,
}
"""Of `image_reward_network`, whose queries, keys and values of pictures lie in one layer, which is
not divided inside."""

_RESIDUAL = r"(blocks\.\d+|halve|double|middle\.(first|second))\."
SCORE: Rules = {
    **pairs(r"blocks\.\d+\.hidden", r"blocks\.\d+\.out"),
    _RESIDUAL + r"first\.kernel": (None, None, DATA, MODEL),
    _RESIDUAL + r"shift\.kernel": (DATA, MODEL),
    _RESIDUAL + r"((first|shift)\.bias|second_norm\.(scale|bias))": (MODEL,),
    _RESIDUAL + r"second\.kernel": (None, None, MODEL, DATA),
    "kernel|embedding|positions": LARGEST,
}
"""Of `MLP`, `DiT`, `UNet` and `NCSNpp`, of values, policies and rewards made of these, and of any
other network of kernels and tables. The perceptrons of `MLP` and `DiT` and the convolutions of
NCSN++ are pairs. All else is divided over ``data`` alone: layers that hold several things side by
side (modulations; queries, keys and values), the blocks of `UNet`, which are modulated between
their convolutions, and attention of one head. What few numbers there are, such as those of
`linear_policy`, every device holds."""

INCEPTION: Rules = {"kernel": LARGEST}
"""Of `InceptionV3`, whose branches are joined by channels and are not divided inside."""


def partition_specs(
    tree: Any, mesh: Mesh | AbstractMesh, *, fully: bool = False, rules: Rules = DECODER
) -> Any:
    """Return how a network's parameters are divided, as a tree of `PartitionSpec`.

    Args:
        tree: parameters, gradients, or the state of an optimizer: whatever ends in the names of the
            network's parameters; all else is replicated. Abstract arrays will do.
        mesh: with axes ``data`` and ``model``.
        fully: whether parameters are divided over ``data`` too.
        rules: the network's table: `DECODER`, `SCORE`, `UNET`, or one of the same form.

    Raises:
        ValueError: the mesh lacks an axis.
    """
    if {DATA, MODEL} - {*mesh.shape}:
        repair = "make it with both, of size 1 where nothing is divided"
        raise refuse("mesh", tuple(mesh.shape), f"it must have {DATA!r} and {MODEL!r}", repair)
    placed, left = _places(tree, mesh, (DATA, MODEL) if fully else (MODEL,), rules)
    for axis in (DATA, MODEL):
        if names := left[axis]:
            others = "" if len(names) == 1 else f" and {len(names) - 1} more"
            text = (
                f"mesh.{axis} = {mesh.shape[axis]} finds no axis to divide in {names[0]}{others}: "
                "they are not divided over it"
            )
            warnings.warn(text, RunWarning, stacklevel=2)
    return placed


def _places(
    tree: Any, mesh: Mesh | AbstractMesh, used: tuple[str, ...], rules: Rules
) -> tuple[Any, dict[str, list[str]]]:
    """Return the tree of `PartitionSpec`, and what each axis should have divided and does not."""
    endings = [(re.compile(rf"(.*\.)?(?P<end>{ending})"), rule) for ending, rule in rules.items()]
    left: dict[str, dict[str, None]] = {axis: {} for axis in (DATA, MODEL)}

    def spec(path, leaf) -> PartitionSpec:
        names = _names(path)
        name, stacks = ".".join(names), sum(map(bool, map(STACK.fullmatch, names)))
        found = ((ending.fullmatch(name), rule) for ending, rule in endings)
        matched, rule = next((pair for pair in found if pair[0]), (None, ()))
        shape = leaf.shape[stacks:]
        if rule == LARGEST:
            rule = tuple(DATA if i == _largest(shape, mesh) else None for i in range(len(shape)))
        if len(rule) != len(shape):
            return PartitionSpec()
        placed = _fit([axis if axis in used else None for axis in rule], shape, mesh)
        for axis in used:
            if axis in rule and axis not in placed:
                # By the end of its name, which the optimizer's numbers of it have too.
                left[axis][f"{matched and matched['end']} {shape}"] = None
        return PartitionSpec(*[None] * stacks, *placed)

    placed = jax.tree_util.tree_map_with_path(spec, tree)
    return placed, {axis: sorted(names) for axis, names in left.items()}


def _largest(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> int:
    """The largest axis that ``data`` divides; the largest of all where it divides none."""
    fits = [size % mesh.shape[DATA] == 0 for size in shape]
    return max(range(len(shape)), key=lambda i: (fits[i], shape[i]), default=0)


_AUTO = jax.sharding.AxisType.Auto
_TABLE: contextvars.ContextVar[Rules] = contextvars.ContextVar("table", default={})  # noqa: B039


@contextlib.contextmanager
def in_turn(rules: Rules) -> Iterator[None]:
    """Trace a network within, whose parameters are divided by these rules, for `gathered`.

    Args:
        rules: of the network's parameters.

    Yields:
        Nothing.
    """
    token = _TABLE.set(rules)
    try:
        yield
    finally:
        _TABLE.reset(token)


def gathered(params: Any, *, later: Iterable[str] = ()) -> Any:
    """Return parameters of the network `in_turn` that are whole over ``data``: it is their turn.

    It does nothing where JAX knows of no mesh while this is traced (`jax.set_mesh`), or one with an
    axis that is not the compiler's to divide (within `jax.shard_map`), and nothing to what is not
    divided over ``data``.

    Args:
        params: a tree that ends in the names of the network's parameters.
        later: names of what has its turn later, besides stacks of blocks.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if {DATA, MODEL} - {*mesh.shape} or mesh.shape[DATA] == 1 or {*mesh.axis_types} - {_AUTO}:
        return params
    places, _ = _places(params, mesh, (MODEL,), _TABLE.get())

    def whole(path, leaf, spec):
        names = _names(path)
        if {*later} & {*names} or any(map(STACK.fullmatch, names)):
            return leaf
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(whole, params, places)


def _names(path: Any) -> list[str]:
    names = [*map(_name, path)]
    # Within modules of Flax a parameter is the value of a variable.
    return names[:-1] if names[-1:] == ["value"] else names


def _name(part: Any) -> str:
    return str(next((getattr(part, kind) for kind in ("key", "name") if hasattr(part, kind)), ""))


def _fit(
    rule: list[str | None], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> list[str | None]:
    placed: list[str | None] = [
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=True)
    ]
    free = [i for i, axis in enumerate(placed) if axis is None]
    fits = [i for i in free if shape[i] % mesh.shape[DATA] == 0]
    if DATA in rule and DATA not in placed and fits:
        placed[fits[0]] = DATA
    return placed
