"""Rewards as `ctrl-jax fine-tune` is told of them.

    clip_score:FOLDER:0.7       a reward of `ctrl_jax.rewards` from its folder; pickscore, hps,
                                image_reward, and aesthetic:FOLDER:HEAD.safetensors alike
    jpeg_size:-0.1              one without a folder; soft_jpeg_size has a derivative
    jax:my.module:function:2    a function of pictures in [0, 1], in jax.numpy
    my.module:function:0.3      a function of bytes, prompts and records, on the host
    http://host:8000/path#0.3   a server

The number at the end is the weight, 1 where there is none. An address has its weight behind #,
which no server is sent. In front a name may stand, `ocr=my.module:function`, for the metrics.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ctrl_jax import rewards
from ctrl_jax._checks import (
    check_count,
    check_finite,
    check_non_negative,
    check_positive,
    refuse,
    under_names,
)
from ctrl_jax._typing import Params
from ctrl_jax.rewards import OutsideReward, PictureReward, ServerOptions
from ctrl_jax.rewards.outside.exchange import read_url
from ctrl_jax.runtime.run.callables import load_callable
from ctrl_jax.runtime.run.contents import content_digest, module_digest

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)
NAMED = re.compile(r"([\w.-]+)=(.*)", re.DOTALL)
FOLDERS: dict[str, Callable[..., PictureReward]] = {
    "clip_score": rewards.clip_score,
    "pickscore": rewards.pick_score,
    "hps": rewards.hps,
    "image_reward": rewards.image_reward,
}
PLAIN: dict[str, Callable[[Array], Array]] = {
    "jpeg_size": rewards.jpeg_size,
    "soft_jpeg_size": rewards.soft_jpeg_size,
}
KINDS = (*FOLDERS, "aesthetic", *PLAIN)
FORMS = f"{', '.join(KINDS)}, my.module:function, jax:my.module:function or http://host:8000/path"


@dataclasses.dataclass(frozen=True)
class OutsideOptions:
    """How rewards outside JAX are asked: functions on the host, and servers.

    Args:
        timeout: seconds that an answer may take; by default 60 of a server, any number of a
            function.
        retries: how often is asked again after an error, after another number of values or NaN, and
            of servers after an answer that is late.
        pause: seconds before the first of these, twice as many before each next one.
        max_failed: batches in a row without rewards, each an update that is skipped, after which
            the run stops, to be continued.
        batch: pictures of a request to a server.
        requests: requests to a server that are under way at once.
        token_variable: the environment variable that holds a token for servers.
    """

    timeout: float | None = None
    retries: int = 3
    pause: float = 1.0
    max_failed: int = 3
    batch: int = 16
    requests: int = 4
    token_variable: str | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("outside.max_failed", self.max_failed)
        check_count("outside.retries", self.retries, least=0)
        check_non_negative("outside.pause", self.pause)
        if self.timeout is not None:
            check_positive("outside.timeout", self.timeout)
        names = ("batch", "requests")
        with under_names(**{name: f"outside.{name}" for name in names}):
            _ = self.of_servers

    @property
    def of_servers(self) -> ServerOptions:
        """The same for a server."""
        return ServerOptions(
            batch=self.batch,
            requests=self.requests,
            timeout=60.0 if self.timeout is None else self.timeout,
            retries=self.retries,
            pause=self.pause,
            token_variable=self.token_variable,
        )


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


class RewardSet(NamedTuple):
    """Rewards that can be asked.

    Fields:
        weights: of each by name, in the order in which they were written.
        on_device: those of pictures that compile into a program.
        outside: those that are asked on the host.
    """

    weights: dict[str, float]
    on_device: dict[str, PictureReward]
    outside: dict[str, OutsideReward]

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which they were written."""
        return tuple(self.weights)

    @property
    def params(self) -> dict[str, Params]:
        """Parameters of the rewards on the device, for a program to take as an argument."""
        return {name: reward.params for name, reward in self.on_device.items()}

    def encode(self, texts: Sequence[str]) -> dict[str, Array]:
        """Return what the rewards on the device read of prompts, a row for each; by name.

        Args:
            texts: distinct prompts; each tower of texts is in memory only meanwhile.
        """
        reading = {name: r.encode for name, r in self.on_device.items() if r.encode is not None}
        return {name: encode(texts) for name, encode in reading.items()}

    def score(
        self,
        params: Mapping[str, Params],
        pictures: Float[Array, "batch h w 3"],
        encoded: Mapping[str, Array],
    ) -> dict[str, Float[Array, " batch"]]:
        """Return the values of the rewards on the device, by name; compiles.

        Args:
            params: as of `params`.
            pictures: in [0, 1].
            encoded: as of `encode`, a row for each picture.
        """
        return {
            name: reward.apply(
                params[name], pictures, *((encoded[name],) if reward.encode is not None else ())
            )
            for name, reward in self.on_device.items()
        }


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


def read_rewards(
    texts: Sequence[str],
    options: OutsideOptions | None = None,
    *,
    option: str = "reward",
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> RewardSet:
    """Return rewards that can be asked, from how they were written.

    Args:
        texts: one for each, in the forms of this module's page.
        options: how those outside JAX are asked.
        option: what errors call them.
        dtype: of the weights and the arithmetic of those from folders.
        remat: whether their towers are computed again for the derivative in the pictures.

    Raises:
        ValueError: one has another form, or cannot be loaded; two have one name.
    """
    options = OutsideOptions() if options is None else options
    specs = parse_rewards(texts, option=option)
    loaded = {spec.name: _load(option, spec, options, dtype, remat) for spec in specs}
    return RewardSet(
        {spec.name: spec.weight for spec in specs},
        {name: each for name, each in loaded.items() if isinstance(each, PictureReward)},
        {name: each for name, each in loaded.items() if isinstance(each, OutsideReward)},
    )


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
        elif spec.kind != "server":
            places = zip(("", " head"), spec.place, strict=False)
            found |= {f"{option}: {spec.name}{part}": content_digest(p) for part, p in places}
    return found


def check_pictures(found: RewardSet, height: int, width: int, *, option: str = "reward") -> None:
    """Raise ValueError unless the rewards on the device take pictures of this size.

    Args:
        found: rewards.
        height: of a picture.
        width: of a picture.
        option: what errors call them.
    """
    number = jax.dtypes.canonicalize_dtype(float)
    pictures = jax.ShapeDtypeStruct((2, height, width, 3), number)
    for name, reward in found.on_device.items():
        if reward.encode is not None:
            continue
        try:
            values = jax.eval_shape(reward.apply, reward.params, pictures)
        except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
            rule = "it must be written in jax.numpy, so that it compiles into the update"
            repair = "replace numpy by jax.numpy in it, or leave jax: away to run it on the host"
            raise refuse(option, name, rule, repair) from error
        except Exception as error:
            rule = (
                f"calling it on pictures (2, {height}, {width}, 3) fails "
                f"({type(error).__name__}: {error})"
            )
            raise refuse(option, name, rule, "repair the function") from error
        if getattr(values, "shape", None) != (2,):
            rule = f"it returned shape {jnp.shape(values)} for 2 pictures; (2,) is needed"
            raise refuse(option, name, rule, "sum or average over the other axes")


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
    if kind in FOLDERS:
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
    function = place if kind == "jax" else [kind, *place]
    names = [part for name_in in function for part in name_in.split(".")]
    if len(function) == 2 and all(part.isidentifier() for part in names):
        of = "jax" if kind == "jax" else "python"
        return Spec(text, name or function[1], of, (":".join(function),), weight)
    if kind == "jax":
        rule = "the names of a module and of a function must follow"
        raise refuse(option, text, rule, "give jax:my.module:function:1")
    near = difflib.get_close_matches(kind, KINDS, 1)
    near = [f"http://{text}"] if re.match(r"[\w.-]+:\d+(/|$)", text) else near
    repair = f"perhaps {near[0]}; " if near else ""
    raise refuse(option, text, "it is none of the known forms", f"{repair}give {FORMS}")


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


def _load(
    option: str, spec: Spec, options: OutsideOptions, dtype: DTypeLike, remat: bool
) -> PictureReward | OutsideReward:
    said = f"{option} {spec.text!r}"
    places = {"folder": said, "head": said, "weights": said, "function": said, "url": said}
    with under_names(**places, token_variable="outside.token_variable"):
        if spec.kind in FOLDERS:
            return FOLDERS[spec.kind](*spec.place, dtype=dtype, remat=remat)
        if spec.kind == "aesthetic":
            return rewards.aesthetic(*spec.place, dtype=dtype, remat=remat)
        if spec.kind in PLAIN:
            return _without_params(PLAIN[spec.kind])
        if spec.kind == "server":
            return rewards.server_reward(
                spec.place[0], options.of_servers, name=spec.name, max_failed=options.max_failed
            )
        function = load_callable(spec.place[0])
        if spec.kind == "jax":
            return _without_params(function)
        return rewards.python_reward(
            function,
            name=spec.name,
            timeout=options.timeout,
            retries=options.retries,
            pause=options.pause,
            max_failed=options.max_failed,
        )


def _without_params(function: Callable[[Array], Any]) -> PictureReward:
    return PictureReward((), partial(_call, function))


def _call(function: Callable[[Array], Any], params: Params, pictures: Array) -> Array:
    return function(pictures)
