"""A reward from outside JAX: pictures, prompts and records in, one number per picture out.

It is called on the host, between `collect` and `learn`. What goes wrong outside is no fault of the
run's: one batch without rewards is a `RewardError`, after which a loop may skip an update; several
in a row, or an address where nobody answers, are `RewardUnavailable`, after which it stops.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ctrl_jax._checks import check_count, refuse
from ctrl_jax._errors import RewardError, RewardUnavailable, RunError
from ctrl_jax.data.prompts import Prompt
from ctrl_jax.rewards.outside.faults import Fault
from ctrl_jax.rewards.pictures import read_pictures, whole


class Question(NamedTuple):
    """What is asked of the outside.

    Fields:
        images: (batch, h, w, 3), bytes.
        prompts: the text of each.
        records: what else is known of each prompt.
    """

    images: np.ndarray
    prompts: list[str]
    records: list[dict[str, Any]]

    def part(self, begin: int, end: int) -> "Question":
        """Return the question about some of the pictures.

        Args:
            begin: the first.
            end: the one after the last.
        """
        part = slice(begin, end)
        return Question(self.images[part], self.prompts[part], self.records[part])


class OutsideReward:
    """A reward that is computed outside JAX, as `python_reward` and `server_reward` make it.

    It is asked about one batch at a time; who calls it meanwhile, from another thread, waits.

    Args:
        ask: ``values = ask(question)``, a finite number for each picture; it raises `Fault`.
        name: what errors call it.
        max_failed: batches in a row without rewards after which it counts as unavailable.
    """

    def __init__(self, ask: Callable[[Question], np.ndarray], *, name: str, max_failed: int = 3):
        check_count("max_failed", max_failed)
        self.name = name
        self._ask, self._max_failed, self._failed = ask, max_failed, 0
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"OutsideReward({self.name})"

    def __call__(
        self,
        images: Any,
        prompts: Sequence[str | Prompt],
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> np.ndarray:
        """Return the reward of each picture, shape (batch,), in JAX's default floating type.

        Args:
            images: (batch, h, w, 3), floating numbers in [0, 1], which are cut and rounded to
                bytes, or bytes.
            prompts: a text for each, or `Prompt`, as `data.read_prompts` returns them.
            records: what else is known of each; by default the fields of each `Prompt`, and
                nothing of a text.

        Raises:
            ValueError: the arguments are of another kind, or do not belong together.
            RewardError: there are no rewards for this batch; its `kind` says why.
            RewardUnavailable: there will be none for the next either.
            RunError: a picture holds NaN, which is no fault of the reward's.
        """
        question = read_question(images, prompts, records)
        # A model behind it is rarely made for two callers, such as a run and its evaluation.
        with self._turn:
            try:
                values = self._ask(question)
            except Fault as fault:
                self._failed += 1
                raise self._error(fault) from fault
            self._failed = 0
            return values

    def _error(self, fault: Fault) -> RunError:
        said, repair = f"{self.name}: {fault}", "mend it and continue with --resume latest"
        if fault.gone:
            return RewardUnavailable(f"{said}; {repair}")
        if self._failed >= self._max_failed:
            return RewardUnavailable(
                f"{said}; these were {self._failed} batches in a row without rewards; {repair}"
            )
        return RewardError(said, fault.kind)


def read_question(
    images: Any,
    prompts: Sequence[str | Prompt],
    records: Sequence[Mapping[str, Any]] | None = None,
) -> Question:
    """Return pictures as bytes, prompts as texts and records as plain dictionaries.

    Args:
        images: (batch, h, w, 3), in [0, 1] or bytes.
        prompts: a text or a `Prompt` for each.
        records: of each; by default the fields of each `Prompt`.

    Raises:
        ValueError: they are of another kind, or there is not one for each picture.
        RunError: a picture holds NaN, which is no fault of the reward's.
    """
    images = _bytes(images)
    if isinstance(prompts, str) or not all(isinstance(each, str | Prompt) for each in prompts):
        raise refuse("prompts", prompts, "it must be a list of texts", "give one for each picture")
    if records is None:
        records = [each.fields if isinstance(each, Prompt) else {} for each in prompts]
    if not all(isinstance(each, Mapping) for each in records):
        rule = "it must be a list of dictionaries"
        raise refuse("records", records, rule, "give one for each picture, {} where there is none")
    for name, given in (("prompts", prompts), ("records", records)):
        if len(given) != len(images):
            rule = f"there must be one for each of the {len(images)} pictures"
            raise refuse(f"len({name})", len(given), rule, "repeat those of several pictures")
    texts = [each.text if isinstance(each, Prompt) else each for each in prompts]
    return Question(images, texts, [dict(each) for each in records])


def _bytes(images: Any) -> np.ndarray:
    if isinstance(images, jax.Array | np.ndarray) and images.dtype == np.uint8:
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
            rule = "its shape must be (batch, height, width, 3)"
            raise refuse("images", images, rule, "move the channels last, and add a batch axis")
        return np.asarray(images)
    levels = np.asarray(whole(255.0 * read_pictures("images", images)))
    if (lost := np.isnan(levels).any(axis=(1, 2, 3))).any():
        raise picture_fault(int(np.flatnonzero(lost)[0]))
    return levels.astype(np.uint8)


def picture_fault(number: int) -> RunError:
    """Return the error about a picture that is none, which is no fault of a reward's."""
    return RunError(
        f"picture {number} holds NaN: the sampler's states overflowed; lower the learning rate or "
        "raise the penalty and continue with --resume latest"
    )
