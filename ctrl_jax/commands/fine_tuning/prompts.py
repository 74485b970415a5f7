r"""Which prompts an update draws pictures of: a pure function of the seed and of the update.

The prompts follow one another in epochs, each a random order of its own. Prompt i, of weight w_i
over the mean of all, has in epoch e

    floor(w_i (e + 1) + u_i) - floor(w_i e + u_i)                                            (1)

places, u_i in [0, 1) drawn once: every prompt one where weights are equal, and after any number of
epochs what its weight says, to within one. An update takes the next places, beyond the end of an
epoch too, so that a run that goes on finds its prompts without having kept anything.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctrl_jax._checks import check_path
from ctrl_jax.data.prompts import Prompt, read_prompts

UNIT = 2.0**-20  # of weights, so that sums of them over epochs are exact


class PromptOrder:
    """The order of prompts over a whole run.

    Args:
        weights: of the prompts, above zero.
        seed: of the run.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        shares = np.asarray(weights, np.float64)
        shares = np.maximum(np.round(shares / shares.mean() / UNIT), 1.0) * UNIT
        offsets = np.random.default_rng([seed, 0]).integers(round(1 / UNIT), size=shares.size)
        self._shares, self._offsets, self._seed = shares, offsets * UNIT, seed

    def prompts(self, first: int, number: int) -> np.ndarray:
        """Return which prompts stand at places ``first`` to ``first + number - 1`` of the run."""
        epoch = self._epoch_of(first)
        begin, end = self._before(epoch), first + number
        last = self._epoch_of(end - 1)
        order = np.concatenate([self._epoch(each) for each in range(epoch, last + 1)])
        return order[first - begin : end - begin]

    def epoch_of(self, place: int) -> float:
        """Return how many epochs are over at a place of the run, with the share of the last."""
        epoch = self._epoch_of(place)
        before = self._before(epoch)
        return epoch + (place - before) / max(self._before(epoch + 1) - before, 1)

    def _epoch_of(self, place: int) -> int:
        low, high = 0, 1
        while self._before(high) <= place:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._before(middle) <= place else (low, middle)
        return low

    def _places(self, epoch: int) -> np.ndarray:
        """How many places every prompt had before an epoch."""
        return np.floor(self._shares * epoch + self._offsets).astype(np.int64)

    def _before(self, epoch: int) -> int:
        return int(self._places(epoch).sum())

    def _epoch(self, epoch: int) -> np.ndarray:
        times = self._places(epoch + 1) - self._places(epoch)
        order = np.random.default_rng([self._seed, 1, epoch])
        return order.permutation(np.repeat(np.arange(times.size), times))


class Course(NamedTuple):
    """The prompts of every update.

    Fields:
        order: of the whole run.
        places: of an update.
    """

    order: PromptOrder
    places: int

    def prompts(self, k: int) -> np.ndarray:
        """Return the prompts of the update after k complete ones."""
        return self.order.prompts(k * self.places, self.places)

    def epochs(self, k: int) -> float:
        """Return how many epochs k updates are."""
        return self.order.epoch_of(k * self.places)


class Given(NamedTuple):
    """The prompts of a run.

    Fields:
        train: those that are trained on.
        shown: those of the evaluations.
    """

    train: tuple[Prompt, ...]
    shown: tuple[Prompt, ...]

    @property
    def all(self) -> tuple[Prompt, ...]:
        """Those that are trained on, and after them those of the evaluations."""
        return self.train + self.shown


NO_PROMPT = (Prompt(""),)


def read_given(prompts: str | None, validation: str | None, *, shown: int) -> Given:
    """Return the prompts of the files; one that is empty where there are none.

    Args:
        prompts: file of those that are trained on.
        validation: file of those of the evaluations; the same by default.
        shown: most prompts of an evaluation, the first ones of the file.

    Raises:
        ValueError: a file cannot be used; the message says why.
    """
    if prompts is None:
        return Given(NO_PROMPT, NO_PROMPT)
    train = read_prompts(prompts, name="prompts")
    if validation is None:
        return Given(train, train[:shown])
    check_path("validation_prompts", validation)
    return Given(train, read_prompts(validation, name="validation_prompts")[:shown])
