"""Rewards outside JAX in a run: what goes out of the compiled programs, and what comes back."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._errors import RewardError, RewardUnavailable, RunWarning
from ctrl_jax.data.prompts import Prompt
from ctrl_jax.rewards import OutsideReward, gathered
from ctrl_jax.rewards.outside.reward import picture_fault
from ctrl_jax.rewards.outside.threads import in_background
from ctrl_jax.rewards.pictures import whole
from ctrl_jax.runtime.loop.signals import wait_for


def as_shown(pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return pictures as bytes, and whether each was finite; compiles.

    Args:
        pictures: (..., h, w, 3) in [0, 1].
    """
    finite = jnp.all(jnp.isfinite(pictures), axis=(-3, -2, -1))
    return whole(255.0 * jnp.nan_to_num(pictures)).astype(jnp.uint8), finite


def make_ask(
    outside: Mapping[str, OutsideReward], prompts: Callable[[int], Sequence[Prompt]]
) -> Callable[[int, Any], dict[str, np.ndarray]]:
    """Return ``ask(k, shown)`` of an `OutsideStep`: every reward by its name, (rows, rollouts).

    Args:
        outside: rewards by name.
        prompts: ``prompts(k)``, those of this process's rows after k completed updates.
    """

    def ask(k: int, shown: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
        pictures, finite = shown
        rows, rollouts = finite.shape
        if not finite.all():
            raise picture_fault(int(np.flatnonzero(~finite.ravel())[0]))
        asked = [prompt for prompt in prompts(k) for _ in range(rollouts)]
        found = gathered(outside, pictures.reshape(-1, *pictures.shape[2:]), asked)
        return {name: values.reshape(rows, rollouts) for name, values in found.items()}

    return ask


def measured(
    outside: Mapping[str, OutsideReward], pictures: np.ndarray, prompts: Sequence[Prompt]
) -> dict[str, np.ndarray]:
    """Return rewards of pictures that are only to be looked at, by name, (number,).

    One without an answer is NaN, and said. With several processes the first one asks for all.

    Args:
        outside: rewards by name.
        pictures: (number, h, w, 3), bytes, the same on every process.
        prompts: of each.

    Raises:
        RewardUnavailable: there will be no answer any more.
        Stopped: a signal came meanwhile, within a loop that listens.
    """
    found = dict.fromkeys(outside, np.zeros(len(pictures)))
    gone = None
    if jax.process_index() == 0:
        asked = {name: in_background(each, pictures, prompts) for name, each in outside.items()}
        try:
            found = {name: _or_nan(name, each, len(pictures)) for name, each in asked.items()}
        except RewardUnavailable as error:
            gone = error
    if jax.process_count() > 1 and outside:
        from jax.experimental import multihost_utils

        found, ended = multihost_utils.broadcast_one_to_all((found, np.int32(gone is not None)))
        gone = gone or (RewardUnavailable("the first process gets no rewards") if ended else None)
    if gone is not None:
        raise gone
    number = jax.dtypes.canonicalize_dtype(float)
    return {name: np.asarray(values, number) for name, values in found.items()}


def _or_nan(name: str, future: Future[np.ndarray], number: int) -> np.ndarray:
    try:
        return wait_for(future)
    except RewardError as error:
        text = f"an evaluation is without {name}: {error}"
        warnings.warn(text, RunWarning, stacklevel=3)
        return np.full(number, np.nan)
