r"""A window of noise: a few consecutive steps of a sampler are random, all others certain.

Outside the window every step is the deterministic one of the same solver (noise level 0); inside it
has the noise that a policy gradient is made of. The ends of trajectories from one start then differ
by what was done in the window, only its steps are stored and learned from, and a sampler of 40
steps costs the update of 2. With the window at the steps w,

    maximize E_w [ E R - lambda \sum_{i in w} KL_i ],                                       (1)

where the certain steps before the window are part of its start law, and those after it of the
reward: no gradient goes through them, and as the divergence of two certain steps is no number, they
have none. At a placement drawn uniformly from p a step's expected gradient is 1 / p times the sum
of those at the placements that hold it; each is that of the chain with noise in the window alone.

Source: Li et al. 2507.21802 (MixGRPO); Liu et al. 2505.05470.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ctrl_jax._checks import check_choice, check_count, refuse

Placed = Literal["random", "sliding", "fixed"]


@dataclasses.dataclass(frozen=True)
class Window:
    """Where a sampler has noise: `length` consecutive steps among those from `first` to `last`.

    Args:
        length: number of steps with noise.
        first: the earliest of them, counted from 0, where the trajectories start.
        last: the step before which the window ends at the latest; the number of steps by default.
        placed: "random" draws the place anew for every batch, uniformly; "sliding" moves it on by
            one step every `every` updates, and back to `first` from its end; "fixed" has it at
            `first`.
        every: updates between two moves of a sliding window.

    Raises:
        ValueError: a number is none, the window does not fit between `first` and `last`, or an
            option would not be read.
    """

    length: int
    first: int = 0
    last: int | None = None
    placed: Placed = "random"
    every: int = 1

    def __post_init__(self):
        check_count("Window.length", self.length)
        check_count("Window.first", self.first, least=0)
        check_choice("Window.placed", self.placed, get_args(Placed))
        check_count("Window.every", self.every)
        if self.placed == "fixed" and self.last is not None:
            raise refuse("Window.last", self.last, "a fixed window is at `first`", "leave it out")
        if self.placed != "sliding" and self.every != 1:
            rule = f"it is for sliding windows, and this one is {self.placed}"
            raise refuse("Window.every", self.every, rule, "leave it out")
        if self.last is not None:
            check_count("Window.last", self.last)
            self._check_fits("Window.last", self.last)

    def check_steps(self, steps: int) -> None:
        """Raise ValueError unless the window fits into a number of solver steps."""
        if self.last is not None and self.last > steps:
            rule = f"there are {steps} solver steps"
            raise refuse("Window.last", self.last, rule, "lower it, or leave it out")
        self._check_fits("steps of the grid", steps)

    def place(self, key: Array, update: Int[Array, ""] | int, steps: int) -> Int[Array, ""]:
        """Return the first step of the window.

        Args:
            key: PRNG key, of a random place.
            update: number of the update, which a sliding window goes by.
            steps: number of solver steps.
        """
        first, last = self.reach(steps)
        places = last - first - self.length + 1
        if self.placed == "random":
            return jax.random.randint(key, (), first, first + places)
        if self.placed == "sliding":
            return jnp.asarray(first + update // self.every % places, jnp.int32)
        return jnp.asarray(first, jnp.int32)

    def reach(self, steps: int) -> tuple[int, int]:
        """Return the steps that may have noise, from the first of them to before the second.

        Args:
            steps: number of solver steps.
        """
        if self.placed == "fixed":
            return self.first, self.first + self.length
        return self.first, steps if self.last is None else self.last

    def _check_fits(self, name: str, last: int) -> None:
        if self.first + self.length > last:
            rule = f"a window of {self.length} steps from step {self.first} ends after it"
            raise refuse(name, last, rule, "give a shorter window, or begin it earlier")
