"""How `ctrl-jax fine-tune` draws trajectories: guidance, steps, and which of them have noise."""

import dataclasses
from typing import Literal

from ctrl_jax._checks import check_finite, check_unused
from ctrl_jax.algorithms import Window
from ctrl_jax.runtime import check_count, check_positive, refuse
from ctrl_jax.solvers import CoefficientsPreserving, EulerMaruyama, ExponentialEuler
from ctrl_jax.solvers.gaussian_step import GaussianSolver

GUIDANCE = 5.0
SOLVERS: dict[str, GaussianSolver] = {
    "exponential": ExponentialEuler(),
    "euler_maruyama": EulerMaruyama(clamped=True),
    "coefficients_preserving": CoefficientsPreserving(eta=1.0),
}


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The sampler, in training and in evaluations.

    Args:
        guidance: scale of classifier-free guidance in sampling and loss alike, 1 for none; 5 by
            default.
        guidance_passes: 1 to ask for both predictions at once, 2 to ask one after the other, which
            needs less memory.
        solver_steps: steps of the sampler in training.
        evaluation_solver_steps: those of the evaluations; as many by default.
        solver: exponential: DDIM's steps with noise, for flows too; euler_maruyama: those of the
            SDE as they are, as Flow-GRPO takes them; coefficients_preserving: those of Flow-CPS.
        noise_level: of the reverse SDE: 1 is the reversal of the process. Of exponential it is
            DDIM's eta, of coefficients_preserving its own eta, both at most 1; of euler_maruyama
            on flows Flow-GRPO's noise over the root of 2, .5 for .7.
        window: steps with noise, consecutive ones, that are learned from; the others are
            deterministic. All by default; for ddpo, dpok and grpo.
        window_range: the earliest of them, from 0, and the step before which they end.
        window_placed: random: anew for every update; sliding: one step on with every update;
            fixed: at the earliest.
    """

    guidance: float | None = None
    guidance_passes: Literal[1, 2] = 1
    solver_steps: int = 10
    evaluation_solver_steps: int | None = None
    solver: Literal["exponential", "euler_maruyama", "coefficients_preserving"] = "exponential"
    noise_level: float = 1.0
    window: int | None = None
    window_range: tuple[int, int] | None = None
    window_placed: Literal["random", "sliding", "fixed"] = "random"

    @property
    def scale(self) -> float:
        """Scale of guidance."""
        return GUIDANCE if self.guidance is None else self.guidance

    @property
    def trained_steps(self) -> int:
        """Steps that are learned from."""
        return self.solver_steps if self.window is None else self.window

    @property
    def evaluated_steps(self) -> int:
        """Steps of the evaluations."""
        return self.evaluation_solver_steps or self.solver_steps

    def make_window(self) -> Window | None:
        """Return the window of noise; None where all steps have some."""
        if self.window is None:
            return None
        first, last = self.window_range or (0, None)
        # A fixed one has no other place.
        last = None if self.window_placed == "fixed" else last
        return Window(self.window, first, last, self.window_placed)

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("solver_steps", self.solver_steps, least=2)
        if self.evaluation_solver_steps is not None:
            check_count("evaluation_solver_steps", self.evaluation_solver_steps, least=2)
        check_positive("noise_level", self.noise_level)
        if self.solver != "euler_maruyama" and self.noise_level > 1:
            rule = f"the steps of --solver {self.solver} have at most 1"
            raise refuse("noise_level", self.noise_level, rule, "take --solver euler_maruyama")
        if self.guidance is not None:
            check_finite("guidance", self.guidance)
            if self.guidance < 1:
                rule = "below 1 a prompt counts for less, or against itself; elsewhere 0 means none"
                raise refuse("guidance", self.guidance, rule, "give 1 for none")
        if self.window is None:
            names = ("window_range", "window_placed")
            check_unused(self, names, "there is no window", "give --window too")
            return
        check_count("window", self.window)
        first, last = self.window_range or (0, self.solver_steps)
        if not 0 <= first < last <= self.solver_steps:
            rule = f"it must be two of the {self.solver_steps} solver steps, the first before"
            repair = f"give such as 0 {self.solver_steps}"
            raise refuse("window_range", self.window_range, rule, repair)
        if self.window > last - first:
            rule = f"there are {last - first} steps that it may lie in"
            raise refuse("window", self.window, rule, "give a shorter one")
