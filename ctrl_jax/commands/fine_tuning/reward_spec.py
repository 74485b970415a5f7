"""Rewards as `ctrl-jax fine-tune` is told of them.

    clip_score:FOLDER:0.7       a reward of `ctrl_jax.rewards` from its folder; pickscore, hps,
                                image_reward, and aesthetic:FOLDER:HEAD.safetensors alike
    jpeg_size:-0.1              one without a folder; soft_jpeg_size has a derivative
    jax:my.module:function:2    a function of pictures in [0, 1], in jax.numpy
    jax:my.module:make:FOLDER   what make(FOLDER) returns, a `PictureReward` of pictures and prompts
    my.module:function:0.3      a function of bytes, prompts and records, on the host
    http://host:8000/path#0.3   a server

The number at the end is the weight, 1 where there is none. An address has its weight behind #,
which no server is sent. In front a name may stand, `ocr=my.module:function`, for the metrics.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from ctrl_jax._checks import check_finite, refuse
from ctrl_jax.rewards.outside.exchange import read_url
from ctrl_jax.runtime.run.contents import content_digest, module_digest

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)
NAMED = re.compile(r"([\w.-]+)=(.*)", re.DOTALL)
OF_FOLDERS = ("clip_score", "pickscore", "hps", "image_reward")
PLAIN = ("jpeg_size", "soft_jpeg_size")
WITHOUT_DERIVATIVE = ("jpeg_size", "python", "server")
KINDS = (*OF_FOLDERS, "aesthetic", *PLAIN)
FORMS = f"{', '.join(KINDS)}, my.module:function, jax:my.module:function or http://host:8000/path"


class Spec(NamedTuple):
    """A reward as it was written.

    Fields:
        text: all of it.
        name: what metrics call it.
        kind: a key of `KINDS`, "jax", "python" or "server".
        place: folder and file, module:function, or address; empty where there is none.
        weight: what it is multiplied by.
    """

    text: str
    name: str
    kind: str
    place: tuple[str, ...]
    weight: float

    @property
    def outside(self) -> bool:
        """Whether it is computed outside JAX."""
        return self.kind in ("python", "server")


def parse_rewards(texts: Sequence[str], *, option: str = "reward") -> tuple[Spec, ...]:
    """Return rewards as they were written; nothing is loaded.

    Args:
        texts: one for each, in the forms of this module's page.
        option: what errors call them; only those of "reward" are summed, and have weights.

    Raises:
        ValueError: one has another form, two have one name, or no weight differs from zero.
    """
    found: dict[str, Spec] = {}
    for text in texts:
        spec = _parse(option, text)
        if spec.weight != 1 and option != "reward":
            raise refuse(option, text, "each is shown by itself", "leave its weight out")
        if (before := found.get(spec.name)) is not None:
            rule = f"it has the name {spec.name!r} of {before.text!r}"
            raise refuse(option, text, rule, f"give it another: {spec.name}_2={text}")
        found[spec.name] = spec
    if found and not any(spec.weight for spec in found.values()):
        rule = "at least one weight must differ from zero"
        raise refuse(option, list(texts), rule, "give a reward that counts")
    return tuple(found.values())


def reward_digests(texts: Sequence[str], *, option: str = "reward") -> dict[str, str]:
    """Return the digests of the folders, files and modules that rewards are made of.

    Args:
        texts: one for each, in the forms of this module's page.
        option: what they are called.
    """
    found = {}
    for spec in parse_rewards(texts, option=option):
        if spec.kind in ("python", "jax"):
            found[f"{option}: {spec.name}"] = module_digest(spec.place[0])
            found |= {f"{option}: {spec.name} folder": content_digest(p) for p in spec.place[1:]}
        elif spec.kind != "server":
            places = zip(("", " head"), spec.place, strict=False)
            found |= {f"{option}: {spec.name}{part}": content_digest(p) for part, p in places}
    return found


def _parse(option: str, text: str) -> Spec:
    named = NAMED.fullmatch(text)
    name, rest = named.groups() if named else ("", text)
    if re.match(r"https?://", rest, re.IGNORECASE):
        address, weight = _split_address(option, text, rest)
        last = read_url(option, address).path.rstrip("/").rpartition("/")[2]
        name = name or re.sub(r"[^\w.-]", "_", last) or "server"
        return Spec(text, name, "server", (address,), weight)
    *parts, last = rest.split(":")
    weight = 1.0
    if parts and NUMBER.fullmatch(last):
        weight = check_finite(f"{option} {text!r}: the weight", float(last))
    else:
        parts = [*parts, last]
    kind, *place = parts
    return _of_parts(option, text, name, kind, place, weight)


def _of_parts(
    option: str, text: str, name: str, kind: str, place: list[str], weight: float
) -> Spec:
    kind = {"pick_score": "pickscore", "hpsv2": "hps"}.get(kind, kind)
    if kind in OF_FOLDERS:
        if not (folder := ":".join(place)):
            raise refuse(option, text, "its folder is missing", f"give {kind}:FOLDER:1")
        return Spec(text, name or kind, kind, (folder,), weight)
    if kind == "aesthetic":
        if len(place) != 2 or not all(place):
            rule = "the folder of its CLIP model and the file of its head must follow"
            raise refuse(option, text, rule, "give aesthetic:FOLDER:HEAD.safetensors:1")
        return Spec(text, name or kind, kind, tuple(place), weight)
    if kind in PLAIN:
        if place:
            raise refuse(option, text, "only a weight may follow it", f"give {kind}:-1")
        return Spec(text, name or kind, kind, (), weight)
    function, folder = (place[:2], place[2:]) if kind == "jax" else ([kind, *place], [])
    names = [part for name_in in function for part in name_in.split(".")]
    if len(function) == 2 and all(part.isidentifier() for part in names):
        of = "jax" if kind == "jax" else "python"
        own = (":".join(folder),) if any(folder) else ()
        return Spec(text, name or function[1], of, (":".join(function), *own), weight)
    if kind == "jax":
        rule = "the names of a module and of a function must follow"
        raise refuse(option, text, rule, "give jax:my.module:function:1")
    near = difflib.get_close_matches(kind, KINDS, 1)
    near = [f"http://{text}"] if re.match(r"[\w.-]+:\d+(/|$)", text) else near
    if len(place) == 1 and kind.endswith(".py"):
        near = [f"{'.'.join(PurePath(kind).with_suffix('').parts)}:{place[0]}"]
    repair = f"perhaps {near[0]}; " if near else ""
    raise refuse(option, text, "it is none of the known forms", f"{repair}give {FORMS}")


def meant(spec: Spec) -> str:
    """Return the named reward that a module which is not there was perhaps meant to be, or ""."""
    near = difflib.get_close_matches(spec.place[0].partition(":")[0], KINDS, 1, cutoff=0.8)
    return near[0] if near else ""


def _split_address(option: str, text: str, rest: str) -> tuple[str, float]:
    """An address and its weight: behind #, because a colon stands before a port."""
    address, mark, weight = rest.partition("#")
    if not mark:
        before, colon, last = address.rpartition(":")
        host = before.partition("//")[2]
        a_port = last.isdigit() and not re.search(r"[/?]|:[^\]]*$", host)
        if colon and NUMBER.fullmatch(last) and not a_port:
            rule = "the weight of an address stands behind #"
            raise refuse(option, text, rule, f"give {before}#{last}")
        return address, 1.0
    if not NUMBER.fullmatch(weight):
        rule = "behind the # of an address its weight must stand"
        raise refuse(option, text, rule, f"give {address}#1")
    return address, check_finite(f"{option} {text!r}: the weight", float(weight))
