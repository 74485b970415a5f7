"""Rewards of `ctrl-jax fine-tune` that can be asked, from how they are written (`reward_spec`)."""

import dataclasses
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
    check_non_negative,
    check_positive,
    refuse,
    under_names,
)
from ctrl_jax._typing import Params
from ctrl_jax.commands.fine_tuning.reward_spec import Spec, meant, parse_rewards
from ctrl_jax.rewards import OutsideReward, PictureReward, ServerOptions
from ctrl_jax.runtime.run.callables import load_callable

MAKERS: dict[str, Callable[..., PictureReward]] = {
    "clip_score": rewards.clip_score,
    "pickscore": rewards.pick_score,
    "hps": rewards.hps,
    "image_reward": rewards.image_reward,
    "aesthetic": rewards.aesthetic,
}
PLAIN: dict[str, Callable[[Array], Array]] = {
    "jpeg_size": rewards.jpeg_size,
    "soft_jpeg_size": rewards.soft_jpeg_size,
}


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
        texts: one for each, in the forms of `reward_spec`.
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


def _load(
    option: str, spec: Spec, options: OutsideOptions, dtype: DTypeLike, remat: bool
) -> PictureReward | OutsideReward:
    said = f"{option} {spec.text!r}"
    places = {"folder": said, "head": said, "weights": said, "function": said, "url": said}
    with under_names(**places, token_variable="outside.token_variable"):
        if spec.kind in MAKERS:
            return MAKERS[spec.kind](*spec.place, dtype=dtype, remat=remat)
        if spec.kind in PLAIN:
            return _without_params(PLAIN[spec.kind])
        if spec.kind == "server":
            return rewards.server_reward(
                spec.place[0], options.of_servers, name=spec.name, max_failed=options.max_failed
            )
        function = _function(option, spec)
        if spec.kind == "jax":
            return _made(said, function, *spec.place[1:])
        return rewards.python_reward(
            function,
            name=spec.name,
            timeout=options.timeout,
            retries=options.retries,
            pause=options.pause,
            max_failed=options.max_failed,
        )


def _function(option: str, spec: Spec) -> Callable[..., Any]:
    try:
        return load_callable(spec.place[0])
    except ValueError as error:
        module = spec.place[0].partition(":")[0]
        lacking = getattr(error.__cause__, "name", None) == module.partition(".")[0]
        if not lacking or not (near := meant(spec)):
            raise
        rule = "there is no module of this name"
        raise refuse(option, spec.text, rule, f"perhaps {near} is meant") from error


def _made(said: str, function: Callable[..., Any], folder: str | None = None) -> PictureReward:
    if folder is None:
        return _without_params(function)
    try:
        made = function(folder)
    except Exception as error:
        rule = f"calling it on this folder fails ({type(error).__name__}: {error})"
        raise refuse(said, folder, rule, "repair the function, or leave the folder out") from error
    if not isinstance(made, PictureReward):
        rule = f"with a folder it must return a PictureReward, not {type(made).__name__}"
        raise refuse(said, folder, rule, "leave the folder out, or return rewards.PictureReward")
    return made


def _without_params(function: Callable[[Array], Any]) -> PictureReward:
    return PictureReward((), partial(_call, function))


def _call(function: Callable[[Array], Any], params: Params, pictures: Array) -> Array:
    return function(pictures)
