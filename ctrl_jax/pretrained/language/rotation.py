"""The rotations of a decoder from the entries of its config.json, of every version of the format.

What transformers ignores in a family is never honored: where such an entry says something else than
what counts, the record is refused.
"""

import math
from collections.abc import Callable
from typing import Any

from ctrl_jax.networks.layers.rotary import Rotary
from ctrl_jax.networks.layers.rotary_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Scaling,
    YarnScaling,
)
from ctrl_jax.pretrained.record_entries import REQUIRED, Entries

LENGTH, ORIGINAL = "max_position_embeddings", "original_max_position_embeddings"
UNREAD = {"attn_factor"}  # by transformers, though not by all
INNER = "config.json, rotation"
TWO = "rope_scaling and rope_parameters are two entries for one thing"


def read_rotary(
    entries: Entries,
    *,
    base: float = 10_000.0,
    base_key: str = "rope_theta",
    fraction: float | None = None,
    fraction_key: str = "partial_rotary_factor",
    kinds: dict[str, str] | None = None,
) -> Rotary:
    """Return the one rotation of a model.

    Args:
        entries: of the record.
        base: where none is given.
        base_key: what it is called beside the rotation's own entries.
        fraction: where none is given; None where transformers rotates whole heads in this family,
            whatever the record says.
        fraction_key: what it is called beside the rotation's own entries.
        kinds: the kinds of scaling that this family has, and how others call them; None for all.
    """
    new, old = (entries.get(key, dict, None) for key in ("rope_parameters", "rope_scaling"))
    if new and old and new != old:
        raise entries.refuse("rope_scaling", old, TWO, "take one of them out")
    inner = Entries(old or new or {}, INNER)
    theta = _counts(entries, inner, "rope_theta", (base_key, "rope_theta"), base)
    if fraction is None:
        share = 1.0
        for part in (entries, inner):
            _expect_whole(part)
    else:
        name = "partial_rotary_factor"
        share = _counts(entries, inner, name, (fraction_key, name), fraction)
    scaling = _scaling(inner, entries, kinds)
    entries.over += inner.finish({"finetuned"}, lambda key, value: key in UNREAD)
    return Rotary(theta, share, scaling)


def read_layer_rotaries(entries: Entries, *, bases: dict[str, tuple[str, float]]) -> list[Rotary]:
    """Return the rotation of each type of layer, in the order of `bases`.

    Args:
        entries: of the record.
        bases: by type, how its base is called in older files, and which it has where none is given.
            Older files scale the first of them alone, by ``rope_scaling``.
    """
    new, old = (entries.get(key, dict, None) for key in ("rope_parameters", "rope_scaling"))
    if new and old:
        raise entries.refuse("rope_scaling", old, TWO, "take one of them out")
    nested = Entries(new or {}, INNER)
    parts = [nested.get(kind, dict, {}) for kind in bases]
    nested.finish(set())
    _expect_whole(entries)
    found = []
    for part, (key, base) in zip([old or parts[0], *parts[1:]], bases.values(), strict=True):
        inner = Entries(part, INNER)
        _expect_whole(inner)
        scaling = _scaling(inner, entries, None, nested=True)
        found.append(Rotary(_counts(entries, inner, "rope_theta", (key,), base), 1.0, scaling))
        entries.over += inner.finish({"finetuned"}, lambda key, value: key in UNREAD)
    return found


def _counts(
    entries: Entries, inner: Entries, key: str, outer: tuple[str, ...], default: float
) -> float:
    """The number that counts: the rotation's own, else the first beside it, else the default.

    Under any of its names one that is given must say the same.
    """
    own, beside = inner.get(key, float, None), entries.get(outer[0], float, None)
    used = default if beside is None else beside
    used = used if own is None else own
    for name in outer:
        given = entries.get(name, float, None)
        if given is not None and given != used:
            rule = f"it must agree with {used}, which counts for this family"
            raise entries.refuse(name, given, rule, "take out what does not hold")
    return used


def _expect_whole(entries: Entries) -> None:
    """Refuse a share of the heads where this family rotates them whole."""
    given = entries.get("partial_rotary_factor", float, None)
    if given not in (None, 1.0):
        rule = "transformers rotates whole heads in this family, whatever it says"
        raise entries.refuse("partial_rotary_factor", given, rule, "take it out if that is right")


def _scaling(
    inner: Entries, entries: Entries, known: dict[str, str] | None, *, nested: bool = False
) -> Scaling | None:
    kinds = {inner.get(key, str, None) for key in ("rope_type", "type")} - {None}
    if len(kinds) > 1:
        raise inner.refuse("rope_type", sorted(map(str, kinds)), "it differs from type")
    known = known or {name: name for name in SCALINGS}
    kind = str(kinds.pop()) if kinds else "default"
    if kind not in known:
        raise inner.refuse("rope_type", kind, f"it must be one of {', '.join(known)}")
    kind = known[kind]
    top = None if nested else entries.count(ORIGINAL, None)
    own = inner.count(ORIGINAL, None)
    longest = entries.count(LENGTH, None)
    if kind in ("llama3", "yarn", "longrope"):
        if top and own and top != own:
            rule = f"it must agree with {ORIGINAL} beside the rotation, {top}"
            raise inner.refuse(ORIGINAL, own, rule)
        length = top or own or longest
    else:
        length = longest
        if kind == "dynamic" and own and own != longest:
            rule = f"transformers takes {LENGTH}, {longest}, in its place"
            raise inner.refuse(ORIGINAL, own, rule, "take it out if that is right")
    if length is None and kind not in ("default", "linear"):
        raise entries.refuse(LENGTH, None, f"it must be given where rotations are {kind}")
    return SCALINGS[kind](inner, length, longest)


def _none(inner: Entries, length: Any, longest: int | None) -> None:
    return None


def _linear(inner: Entries, length: Any, longest: int | None) -> Scaling:
    return LinearScaling(inner.positive("factor"))


def _llama3(inner: Entries, length: Any, longest: int | None) -> Scaling:
    low, high = (inner.positive(f"{name}_freq_factor") for name in ("low", "high"))
    return Llama3Scaling(inner.positive("factor"), low, high, length)


def _dynamic(inner: Entries, length: Any, longest: int | None) -> Scaling:
    return DynamicScaling(inner.positive("factor"), length)


def _yarn(inner: Entries, length: Any, longest: int | None) -> Scaling:
    factor = inner.positive("factor", longest / length if longest else REQUIRED)
    both = [inner.get(name, float, 0.0) for name in ("mscale", "mscale_all_dim")]
    attention = inner.positive("attention_factor", None)
    if attention is None and all(both):
        above, below = (0.1 * scale * math.log(max(factor, 1.0)) + 1.0 for scale in both)
        attention = above / below
    return YarnScaling(
        factor,
        length,
        inner.get("beta_fast", float, 0.0) or 32.0,
        inner.get("beta_slow", float, 0.0) or 1.0,
        attention,
        inner.get("truncate", bool, True),
    )


def _longrope(inner: Entries, length: Any, longest: int | None) -> Scaling:
    factor = inner.positive("factor", longest / length if longest else REQUIRED)
    grown = math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(length)) if length > 1 else 1.0
    return LongScaling(
        inner.numbers("short_factor"),
        inner.numbers("long_factor"),
        length,
        inner.positive("attention_factor", grown),
    )


SCALINGS: dict[str, Callable[[Entries, Any, int | None], Scaling | None]] = {
    "default": _none,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "dynamic": _dynamic,
}
