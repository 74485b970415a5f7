"""Options of `experiments.score_as_action`."""

import dataclasses
from typing import Literal

from ctrl_jax._checks import (
    check_count,
    check_decay,
    check_fields,
    check_fraction,
    check_non_negative,
    check_positive,
    check_unused,
    refuse,
)
from ctrl_jax.algorithms import PolicyUpdate, ValueUpdate
from ctrl_jax.models import DiffusionSpec
from experiments.options import COMMON, Common

Algorithm = Literal["ppo", "value_gradient", "policy_gradient", "ddpo", "dpok"]
Schedule = Literal["cosine", "constant"]
ValueNetwork = Literal["denoising", "anchored", "both"]
ALGORITHMS: tuple[Algorithm, ...] = ("ppo", "value_gradient", "policy_gradient", "ddpo", "dpok")


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Training of the base model.

    Args:
        steps: optimizer updates.
        batch: images per update.
        learning_rate: peak of the step size.
        schedule: course of the step size after its warm-up of 100 updates; cosine ends at 0.
        gradient_clip: largest norm of a gradient.
        average_decay: decay per update of the moving average of the weights that is kept.
        reuse: keep the base model in runs/pretrained, for later runs with the same data and
            options.
    """

    steps: int = 4000
    batch: int = 256
    learning_rate: float = 2e-3
    schedule: Schedule = "cosine"
    gradient_clip: float = 1.0
    average_decay: float = 0.998
    reuse: bool = True

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_count, "steps", "batch", group="pretraining")
        check_fields(self, check_positive, "learning_rate", "gradient_clip", group="pretraining")
        check_decay("pretraining.average_decay", self.average_decay)


@dataclasses.dataclass(frozen=True)
class Preferences:
    """The annotator's choices, and the reward learned from them.

    Args:
        pairs: pairs of base samples shown to the annotator; a fifth is held out.
        sharpness: how consistent the annotator is; its choice is noisier towards 0.
        steps: updates of the reward network.
        learning_rate: peak of the step size.
        schedule: course of the step size; cosine ends at 0.
        gradient_clip: largest norm of a gradient.
        weight_decay: decoupled weight decay of the reward network.
    """

    pairs: int = 4096
    sharpness: float = 2.0
    steps: int = 300
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    gradient_clip: float = 1.0
    weight_decay: float = 1e-2

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("preferences.pairs", self.pairs, least=10)
        check_count("preferences.steps", self.steps)
        sizes = ("sharpness", "learning_rate", "gradient_clip")
        check_fields(self, check_positive, *sizes, group="preferences")
        check_non_negative("preferences.weight_decay", self.weight_decay)


@dataclasses.dataclass(frozen=True)
class Optimization:
    """Optimizers of policy and value.

    Args:
        batch: trajectories per update, each one reward query.
        learning_rate: peak step size of the policy; the algorithm's own by default.
        value_learning_rate: step size of the value network.
        schedule: course of the step sizes; cosine ends at 2 percent of the policy's peak, 5 of the
            value's.
        warmup: first updates in which only the value network learns.
        gradient_clip: largest norm of a gradient.
    """

    batch: int = 192
    learning_rate: float | None = None
    value_learning_rate: float = 2e-3
    schedule: Schedule = "cosine"
    warmup: int = 2
    gradient_clip: float = 1.0

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("optimization.batch", self.batch)
        check_count("optimization.warmup", self.warmup, least=0)
        if self.learning_rate is not None:
            check_positive("optimization.learning_rate", self.learning_rate)
        sizes = ("value_learning_rate", "gradient_clip")
        check_fields(self, check_positive, *sizes, group="optimization")


_OF_ONE_RUN = ("algorithm", "evaluation_solver_steps", "evaluate_every", "checkpoint_every")
DEFAULT_UPDATE, DEFAULT_VALUE = PolicyUpdate(average_decay=0.9), ValueUpdate(epochs=4)
_OF_THE_VALUE = (
    "value_network",
    "optimization.warmup",
    "optimization.value_learning_rate",
    "value.epochs",
    "value.minibatches",
)
_IGNORED: dict[Algorithm, tuple[str, ...]] = {
    "ppo": (),
    "value_gradient": ("trace", "clip", "control_variate"),
    "policy_gradient": ("clip", "control_variate"),
    "ddpo": ("trace", "control_variate", *_OF_THE_VALUE),
    "dpok": ("trace", "control_variate", *_OF_THE_VALUE),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fine-tune a diffusion model from preferences by continuous-time RL, its score as the action.

    Source: arXiv 2409.08400. On 2 CPU cores the default takes two to three minutes: it pre-trains a
    small model on the 8x8 digits of scikit-learn, learns a reward from 4096 preference pairs of an
    annotator who wants one class, and fine-tunes with PPO. Expected: success of at least 0.90 at a
    path KL of at most 1.5 times the ideal, diversity of at least 0.7 of real digits.

    Args:
        algorithm: ppo, value_gradient, policy_gradient: continuous time, with a value network;
            ddpo, dpok: terminal rewards only.
        environment: digits (or --data); gaussian and mixture are analytic, with a known optimum.
        trace: decay of the advantage, for ppo and policy_gradient: 0 trusts the value network, 1
            the trajectory.
        clip: half-width of the interval for the ratio of a step, for ppo, ddpo and dpok.
        control_variate: whether ppo takes what the value network predicts of the advantage out of
            the ratio's noise and adds its exact gradient instead.
        value_network: denoising sees the state and what the base model denoises it to; anchored is
            that of arXiv 2502.01819, the reward of what the base model denoises the state to and,
            blended in with the noise, a copy of the reward's network that is trained; both puts the
            former in the place of the copy.
        target_class: the class the annotator wants.
        penalty: KL penalty lambda, in units of the reward per nat. The reward of images is
            standardized on base samples; by default 0.09 for those, 2.5 for gaussian, 0.8 for
            mixture, 0 for ddpo.
        solver_steps: steps of the sampler in training; 40 by default, 25 with --compare.
        evaluation_solver_steps: other numbers of steps at which the trained policy is evaluated
            too.
        compare: draw every algorithm at five penalties on the frontier instead of one run.
        seeds: with --compare: seeds per algorithm, vmapped in one program, for error bars.
        data: a folder of images (class subfolders give labels) or an .npz with images and labels.
        reward: module:function, a reward of your own in place of the learned one: jax.numpy, images
            (batch, height, width, channels) in [-1, 1] to (batch,).
        evaluation_samples: samples of the final evaluations.
        frontier_samples: samples of the base model behind the ideal frontier.
        evaluate_every: updates between evaluations of the curves (of a single run).
        checkpoint_every: updates between checkpoints (of a single run).
        model: the score network and its process.
        pretraining: of the base model.
        preferences: the choices, and the reward learned from them.
        optimization: the optimizer and its budget.
        update: how the policy moves on a batch.
        value: how the value network moves on a batch.
        run: the common options.
    """

    algorithm: Algorithm = "ppo"
    environment: Literal["digits", "gaussian", "mixture"] = "digits"
    trace: float = 0.0
    clip: float = 0.2
    control_variate: bool = True
    value_network: ValueNetwork = "denoising"
    target_class: int = 3
    penalty: float | None = None
    solver_steps: int | None = None
    evaluation_solver_steps: tuple[int, ...] = ()
    compare: bool = False
    seeds: int = 1
    data: str | None = None
    reward: str | None = None
    evaluation_samples: int = 4096
    frontier_samples: int = 16384
    evaluate_every: int = 10
    checkpoint_every: int = 10
    model: DiffusionSpec = dataclasses.field(default_factory=DiffusionSpec)
    pretraining: Pretraining = dataclasses.field(default_factory=Pretraining)
    preferences: Preferences = dataclasses.field(default_factory=Preferences)
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    update: PolicyUpdate = DEFAULT_UPDATE
    value: ValueUpdate = DEFAULT_VALUE
    run: Common = COMMON

    @property
    def learns_reward(self) -> bool:
        """Whether the reward is learned from an annotator, who tells success apart from it."""
        return self.environment == "digits" and self.reward is None

    def grid_steps(self) -> int:
        """Return the steps of the sampler in training."""
        return self.solver_steps or (25 if self.compare else 40)

    def updates(self) -> int:
        """Return the number of updates of the main loop."""
        return self.run.steps or (60 if self.compare else 100)

    def validate(self) -> None:
        """Raise ValueError for options that do not fit together."""
        if self.penalty is not None:
            check_non_negative("penalty", self.penalty)
            if self.algorithm == "ddpo" and self.penalty > 0 and not self.compare:
                rule = "ddpo has no KL penalty"
                raise refuse("penalty", self.penalty, rule, "leave it out, or use dpok")
        if self.solver_steps is not None:
            check_count("solver_steps", self.solver_steps, least=2)
        check_fields(self, check_count, "evaluation_solver_steps", least=2)
        check_fields(self, check_count, "seeds", "evaluate_every", "checkpoint_every")
        check_count("evaluation_samples", self.evaluation_samples, least=64)
        check_count("frontier_samples", self.frontier_samples, least=100)
        if self.seeds > 1 and not self.compare:
            raise refuse("seeds", self.seeds, "it applies to --compare only", "add --compare")
        if self.environment != "digits" and self.penalty == 0 and self.algorithm != "ddpo":
            rule = f"--environment {self.environment} has a known optimum for penalties above zero"
            raise refuse("penalty", self.penalty, rule, "give a positive one")
        check_fraction("trace", self.trace)
        check_positive("clip", self.clip)
        if self.value.minibatches > self.grid_steps() + 1:
            rule = f"there are {self.grid_steps() + 1} grid points to divide"
            raise refuse("value.minibatches", self.value.minibatches, rule, "give a smaller one")
        pieces = self.update.minibatches * self.update.chunks
        if self.grid_steps() % pieces:
            rule = f"minibatches must divide the solver steps, {self.grid_steps()} (times chunks)"
            raise refuse("update.minibatches", self.update.minibatches, rule, "choose a divisor")
        if self.environment != "digits" and (self.data or self.reward):
            rule = f"--environment {self.environment} brings its own data and reward"
            raise refuse("data/reward", self.data or self.reward, rule, "leave one of them out")
        if self.environment != "digits":
            names = ("target_class", "model", "preferences", "pretraining", "value_network")
            rule = f"--environment {self.environment} has an exact score and a known reward"
            check_unused(self, names, rule, "leave it out, or take --environment digits")
        if self.compare:
            self._refuse_what_a_comparison_ignores()
        else:
            rule = f"{self.algorithm} does not use it"
            ignored = _IGNORED[self.algorithm]
            check_unused(self, ignored, rule, "leave it out, or take another --algorithm")

    def _refuse_what_a_comparison_ignores(self) -> None:
        if self.run.resume != "never":
            rule = "a comparison is not checkpointed"
            raise refuse("resume", self.run.resume, rule, "leave out --resume or --compare")
        if self.penalty == 0:
            rule = "a comparison is over penalties above zero"
            raise refuse("penalty", self.penalty, rule, "give a positive one")
        rule = "--compare runs every algorithm at one number of steps, without checkpoints"
        check_unused(self, _OF_ONE_RUN, rule, "leave out this option or --compare")
