"""Options of `ctrl-jax fine-tune`."""

import dataclasses
from typing import Annotated, Literal

import tyro

from ctrl_jax._checks import check_decay, check_fields, check_finite
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.runtime import (
    RunOptions,
    check_count,
    check_fraction,
    check_non_negative,
    check_positive,
    check_unused,
    refuse,
)

Algorithm = Literal["ppo", "value_gradient", "policy_gradient", "ddpo", "dpok", "dpo", "mallows"]
WITH_VALUE = ("ppo", "value_gradient", "policy_gradient")
WITH_RATIO = ("ppo", "ddpo", "dpok")
OF_PAIRS = ("dpo", "mallows")

MOST_MINIBATCHES = 5
GUIDANCE = 5.0


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Low-rank adapters beside kernels of the denoiser, trained in place of its weights.

    Args:
        rank: inner size of the adapters.
        scale: what their output is multiplied by: alpha / rank.
        targets: layers by the ends of their names; by default to_q, to_k, to_v, to_out.0.
    """

    rank: int = 16
    scale: float = 1.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("adapters.rank", self.rank)
        check_positive("adapters.scale", self.scale)
        if not (self.targets and all(self.targets)):
            rule = "they must be names of layers"
            raise refuse("adapters.targets", self.targets, rule, "give some, such as to_q")

    @property
    def lora(self) -> LoRA:
        """The adapters, as networks take them."""
        return LoRA(self.rank, self.scale * self.rank, self.targets)


@dataclasses.dataclass(frozen=True)
class Optimization:
    """Optimizers of policy and value.

    Args:
        learning_rate: peak step size of the policy; by default 3e-4 of adapters, 1e-5 with
            --full.
        value_learning_rate: step size of the value network.
        schedule: course of the step sizes; linear and cosine end at 2 percent of the policy's peak,
            5 of the value's.
        warmup: first updates in which only the value network learns.
        gradient_clip: largest norm of a gradient.
        weight_decay: decoupled weight decay of the policy.
    """

    learning_rate: float | None = None
    value_learning_rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 2
    gradient_clip: float = 1.0
    weight_decay: float = 0.0

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        group = "optimization"
        check_count("optimization.warmup", self.warmup, least=0)
        if self.learning_rate is not None:
            check_positive("optimization.learning_rate", self.learning_rate)
        check_fields(self, check_positive, "value_learning_rate", "gradient_clip", group=group)
        check_non_negative("optimization.weight_decay", self.weight_decay)


@dataclasses.dataclass(frozen=True)
class Value:
    """The value network of ppo, value_gradient and policy_gradient.

    Args:
        width: hidden size.
        depth: number of blocks.
        epochs: passes over the points of a batch of trajectories.
        minibatches: optimizer steps per pass; at most solver steps + 1.
    """

    width: int = 128
    depth: int = 2
    epochs: int = 4
    minibatches: int = 5

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_count, "width", "depth", "epochs", "minibatches", group="value")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured on the same noise and prompts again and again, and how often.

    Args:
        every: updates between evaluations; 0 for one at either end.
        checkpoint_every: updates between checkpoints; 0 for one at the end.
        prompts: most prompts, the first ones of their file.
        number: pictures of each.
    """

    every: int = 20
    checkpoint_every: int = 20
    prompts: int = 8
    number: int = 4

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_count, "every", "checkpoint_every", group="evaluation", least=0)
        check_fields(self, check_count, "prompts", "number", group="evaluation")


_OF_VALUE = ("value", "optimization.value_learning_rate", "optimization.warmup")
_OF_UPDATE = ("minibatches", "chunks")
_IGNORED: dict[str, tuple[str, ...]] = {
    "ppo": ("beta",),
    "value_gradient": ("trace", "clip", "control_variate", "beta"),
    "policy_gradient": ("clip", "control_variate", "beta"),
    "ddpo": ("trace", "control_variate", "penalty", "beta", *_OF_VALUE),
    "dpok": ("trace", "control_variate", "beta", *_OF_VALUE),
    "dpo": ("trace", "clip", "control_variate", "penalty", *_OF_UPDATE, *_OF_VALUE),
    "mallows": ("trace", "clip", "control_variate", "penalty", *_OF_UPDATE, *_OF_VALUE),
}
OF_PIPELINE = (
    "prompts",
    "validation_prompts",
    "negative",
    "guidance",
    "guidance_passes",
    "height",
    "width",
    "variant",
    "remat",
    "full",
    "adapters",
)
"""What a run of ours has no use for."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Fine-tune a text-to-image model, or a run of this library, towards rewards.

    The model is a folder of diffusers, what comes out a LoRA file that diffusers loads. Example:
      ctrl-jax fine-tune --model stable-diffusion-v1-5 --prompts prompts.txt --reward jpeg_size:-1

    Args:
        model: folder of Stable Diffusion 1.x, 2.x, XL, 3 or 3.5 as diffusers saves it, or of a run
            of ours of pictures (digits, cifar10), which has no prompts.
        prompts: .txt, a prompt on each line, or .jsonl with prompt and, where wanted,
            negative_prompt, weight and whatever rewards read.
        validation_prompts: prompts of the evaluations; those of training by default.
        negative: what pictures are guided away from where the prompt says nothing else.
        reward: what is rewarded, and its weight after it; may be given several times.
        held_out_reward: what is measured beside, and never trained on; may be given several times.
        algorithm: ppo, value_gradient, policy_gradient: continuous time, with a value network;
            ddpo, dpok: terminal rewards only; dpo, mallows: pairs of pictures, compared by their
            rewards.
        guidance: scale of classifier-free guidance in sampling and loss alike, 1 for none; 5 by
            default.
        guidance_passes: 1 to ask for both predictions at once, 2 to ask one after the other, which
            needs less memory.
        solver_steps: steps of the sampler in training.
        evaluation_solver_steps: those of the evaluations; as many by default.
        noise_level: of the sampler's steps: 1 is the reversal of the process, less is less noise.
        penalty: KL penalty lambda, in units of the reward per nat; 0 by default.
        beta: inverse temperature of dpo and mallows.
        trace: decay of the advantage, for ppo and policy_gradient: 0 trusts the value network, 1
            the trajectory.
        clip: half-width of the interval for the ratio of a step.
        control_variate: whether ppo takes what the value network predicts of the advantage out of
            the ratio's noise and adds its exact gradient instead.
        batch: trajectories per update, each one picture and one query of the rewards.
        group: trajectories of the same prompt in a batch.
        epochs: passes over the steps of a batch of trajectories.
        minibatches: optimizer steps per pass; by default the largest divisor of the solver steps
            up to 5.
        chunks: pieces that a minibatch is computed in, one after the other; with the minibatches
            they divide the solver steps.
        average_decay: decay per update of a moving average of what is trained, which is evaluated
            and saved; 0 for none.
        height: of the pictures, in pixels; the model's own by default.
        width: of the pictures, in pixels; the model's own by default.
        variant: of the weight files, such as fp16.
        full: train all weights of the denoiser; the result is a folder of diffusers.
        remat: compute the denoiser's blocks again in the backward pass rather than keep them.
        fully_sharded: divide weights and optimizer over --mesh.data too.
        adapters: what is trained in place of the weights.
        optimization: the optimizers.
        value: the value network.
        evaluation: what is measured.
        run: where the run lives, and on which devices.
    """

    model: str
    prompts: str | None = None
    validation_prompts: str | None = None
    negative: str | None = None
    reward: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    held_out_reward: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    algorithm: Algorithm = "ppo"
    guidance: float | None = None
    guidance_passes: Literal[1, 2] = 1
    solver_steps: int = 10
    evaluation_solver_steps: int | None = None
    noise_level: float = 1.0
    penalty: float = 0.0
    beta: float = 0.1
    trace: float = 0.0
    clip: float = 0.2
    control_variate: bool = True
    batch: int = 32
    group: int = 1
    epochs: int = 1
    minibatches: int | None = None
    chunks: int = 1
    average_decay: float = 0.0
    height: int | None = None
    width: int | None = None
    variant: str | None = None
    full: bool = False
    remat: bool = False
    fully_sharded: bool = False
    adapters: Adapters = dataclasses.field(default_factory=Adapters)
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    value: Value = dataclasses.field(default_factory=Value)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=RunOptions
    )

    @property
    def updates(self) -> int:
        """Number of updates."""
        return self.run.steps or 100

    @property
    def scale(self) -> float:
        """Scale of guidance."""
        return GUIDANCE if self.guidance is None else self.guidance

    @property
    def learning_rate(self) -> float:
        """Peak step size of the policy."""
        given = self.optimization.learning_rate
        return given if given is not None else 1e-5 if self.full else 3e-4

    @property
    def prompts_per_batch(self) -> int:
        """Number of places for prompts in a batch."""
        return self.batch // self.group

    def pieces(self) -> int:
        """Return the optimizer steps per pass."""
        if self.minibatches is not None:
            return self.minibatches
        whole = self.solver_steps // self.chunks
        return max(d for d in range(1, MOST_MINIBATCHES + 1) if whole % d == 0)

    def validate(self) -> None:
        """Raise ValueError for options out of range or that do not fit together."""
        check_fields(self, check_count, "batch", "group", "epochs", "chunks")
        check_count("solver_steps", self.solver_steps, least=2)
        for name, least in (("evaluation_solver_steps", 2), ("minibatches", 1)):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least=least)
        check_positive("noise_level", self.noise_level)
        check_fraction("noise_level", self.noise_level)
        check_non_negative("penalty", self.penalty)
        check_fields(self, check_positive, "beta", "clip")
        check_fraction("trace", self.trace)
        check_decay("average_decay", self.average_decay)
        if self.guidance is not None:
            self._check_guidance()
        if self.batch % self.group:
            rule = f"a batch of {self.batch} is of whole groups"
            raise refuse("group", self.group, rule, "give a divisor of --batch")
        if self.solver_steps % (self.pieces() * self.chunks):
            rule = f"minibatches times chunks must divide the {self.solver_steps} solver steps"
            given = (self.minibatches, self.chunks)
            raise refuse("minibatches and chunks", given, rule, "choose divisors")
        if self.algorithm in WITH_VALUE and self.value.minibatches > self.solver_steps + 1:
            rule = f"there are {self.solver_steps + 1} grid points to divide"
            raise refuse("value.minibatches", self.value.minibatches, rule, "give a smaller one")
        if not self.reward:
            rule = "there must be a reward"
            raise refuse("reward", (), rule, "give one, such as --reward jpeg_size:-1")
        repair = "leave it out, or take another --algorithm"
        rule = f"{self.algorithm} does not use it"
        check_unused(self, _IGNORED[self.algorithm], rule, repair)
        if self.full:
            rule = "with --full all weights are trained"
            check_unused(self, ["adapters"], rule, "leave one of them out")

    def _check_guidance(self) -> None:
        check_finite("guidance", self.guidance)
        assert self.guidance is not None
        if self.guidance < 1:
            rule = "below 1 a prompt counts for less, or against itself; elsewhere 0 means none"
            raise refuse("guidance", self.guidance, rule, "give 1 for none")
