"""Options of `ctrl-jax fine-tune`."""

import dataclasses
from typing import Annotated, Literal

import tyro

from ctrl_jax._checks import check_fields
from ctrl_jax.algorithms import ValueUpdate
from ctrl_jax.commands.fine_tuning.method import OF_TERMINAL_REWARDS, Method
from ctrl_jax.commands.fine_tuning.reward_spec import WITHOUT_DERIVATIVE, parse_rewards
from ctrl_jax.commands.fine_tuning.rewarding import OWN, Rewarding
from ctrl_jax.commands.fine_tuning.sampler import Sampler
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.runtime import (
    RunOptions,
    check_count,
    check_non_negative,
    check_positive,
    check_unused,
    refuse,
)


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Low-rank adapters beside kernels of the denoiser, trained in place of its weights.

    Args:
        rank: inner size of the adapters.
        scale: what their output is multiplied by: alpha / rank.
        targets: layers by the ends of their names; by default to_q, to_k, to_v, to_out.0; of Stable
            Diffusion 3 those that read the text are add_q_proj, add_k_proj, add_v_proj, to_add_out.
    """

    rank: int = 16
    scale: float = 1.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        if self.rank == 0:
            raise refuse("adapters.rank", 0, "there would be nothing to train", "give --full")
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
            --full, 2e-4 of a run of ours.
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
    """The value network of ppo, value_gradient and policy_gradient, or what stands in its place.

    Args:
        network: state: of the noisy state and the prompt; anchored: beside it the rewards of what
            the pretrained model makes of the state, exact at the end, for rewards in JAX with a
            derivative: a pass of the model at each point of a trajectory, for value_gradient also
            backward, and with a control variate forward and backward once more; none: no network,
            value_gradient then takes the derivative of such rewards through the rest of the path:
            a pass of the model, with a penalty of both models, forward and backward at each step.
        width: hidden size.
        depth: number of blocks.
        epochs: passes over the points of a batch of trajectories.
        minibatches: optimizer steps per pass, at most solver steps + 1; 5 by default, or that.
    """

    network: Literal["state", "anchored", "none"] = "state"
    width: int = 128
    depth: int = 2
    epochs: int = 4
    minibatches: int | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_count, "width", "depth", "epochs", group="value")
        if self.minibatches is not None:
            check_count("value.minibatches", self.minibatches)

    def update(self, steps: int) -> ValueUpdate:
        """Return how it learns from trajectories of so many steps."""
        return ValueUpdate(self.epochs, self.minibatches or min(5, steps + 1))


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


_OF_VALUE = (
    *(f"value.{field.name}" for field in dataclasses.fields(Value)),
    "optimization.value_learning_rate",
    "optimization.warmup",
)
UPDATES = 100
OF_PIPELINE = (
    "prompts",
    "validation_prompts",
    "negative",
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
        reward: what is rewarded, and its weight: jpeg_size:-1, clip_score:FOLDER:0.7 (pickscore,
            hps and image_reward alike), jax:my.module:function, my.module:function on the host, or
            http://host:8000/score#0.3; may be given several times.
        held_out_reward: what is measured beside, and never trained on; may be given several times.
        rewarding: how rewards are summed and asked for.
        method: the algorithm.
        sampler: how trajectories are drawn.
        batch: trajectories per update, each one picture and one query of the rewards; of pairs,
            two of each.
        group: trajectories of the same prompt in a batch; by default the largest divisor of it up
            to 8 for ddpo and grpo, which compare them, and 1 for the others.
        height: of the pictures, in pixels; the model's own by default.
        width: of the pictures, in pixels; the model's own by default.
        variant: of the weight files, such as fp16.
        full: train all weights of the denoiser; the result is a folder of diffusers.
        remat: compute the denoiser's blocks again in the backward pass rather than keep them.
        fully_sharded: divide weights and optimizer over --mesh.data too.
        adapters: what is trained in place of the weights.
        optimization: the optimizers.
        value: the value network.
        split: make an update of two programs, as rewards on the host do, so that the metrics tell
            the seconds of rollout and update.
        kl_budget: divergence of paths from the pretrained model, in nats, at which the run ends, as
            the evaluations measure it; none by default.
        evaluation: what is measured.
        run: where the run lives, and on which devices.
    """

    model: str
    prompts: str | None = None
    validation_prompts: str | None = None
    negative: str | None = None
    reward: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    held_out_reward: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    rewarding: Annotated[Rewarding, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Rewarding
    )
    method: Annotated[Method, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Method)
    sampler: Annotated[Sampler, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Sampler)
    batch: int = 32
    group: int | None = None
    height: int | None = None
    width: int | None = None
    variant: str | None = None
    full: bool = False
    remat: bool = False
    fully_sharded: bool = False
    adapters: Adapters = dataclasses.field(default_factory=Adapters)
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    value: Value = dataclasses.field(default_factory=Value)
    split: bool = False
    kl_budget: float | None = None
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: RunOptions(steps=UPDATES)
    )

    @property
    def updates(self) -> int:
        """Number of updates."""
        return self.run.steps or UPDATES

    @property
    def has_value(self) -> bool:
        """Whether a value network is learned."""
        return self.method.has_value and self.value.network != "none"

    @property
    def together(self) -> int:
        """Trajectories of the same prompt in a batch."""
        if self.group is not None:
            return self.group
        most = 8 if self.method.algorithm in OWN else 1
        return max(d for d in range(1, most + 1) if self.batch % d == 0)

    @property
    def queries(self) -> int:
        """Pictures of an update, each one query of the rewards."""
        return self.batch * (2 if self.method.of_pairs else 1)

    @property
    def places(self) -> int:
        """Number of places for prompts in a batch."""
        return self.batch // self.together

    def validate(self) -> None:
        """Raise ValueError for options out of range or that do not fit together."""
        check_count("batch", self.batch)
        if self.kl_budget is not None:
            check_positive("kl_budget", self.kl_budget)
            if self.evaluation.every == 0:
                rule = "evaluations measure it, and there are none on the way"
                raise refuse("kl_budget", self.kl_budget, rule, "give --evaluation.every 10, say")
        if self.group is not None:
            check_count("group", self.group)
        method, steps = self.method, self.sampler.trained_steps
        method.check_steps(steps)
        if self.sampler.window is not None and method.algorithm not in OF_TERMINAL_REWARDS:
            rule = f"{method.algorithm} needs noise in all steps"
            repair = f"leave it out, or take --algorithm {'|'.join(OF_TERMINAL_REWARDS)}"
            raise refuse("window", self.sampler.window, rule, repair)
        if self.batch % self.together:
            rule = f"a batch of {self.batch} is of whole groups"
            raise refuse("group", self.group, rule, "give a divisor of --batch")
        if self.has_value and (self.value.minibatches or 1) > steps + 1:
            rule = f"there are {steps + 1} grid points to divide"
            raise refuse("value.minibatches", self.value.minibatches, rule, "give a smaller one")
        if not self.reward:
            rule = "there must be a reward"
            raise refuse("reward", (), rule, "give one, such as --reward jpeg_size:-1")
        if self.rewarding.overlap and method.old == "scored":
            rule = "with --overlap trajectories are of the policy before, which no pass knows"
            raise refuse("old", method.old, rule, "leave it out")
        self.rewarding.check(self.reward, self.held_out_reward, method.algorithm)
        if not method.has_value:
            repair = "leave it out, or take --algorithm ppo"
            check_unused(self, _OF_VALUE, f"{method.algorithm} has no value network", repair)
        elif not self.has_value:
            if method.algorithm != "value_gradient":
                rule = f"{method.algorithm} needs one"
                repair = "leave it out, or take --algorithm value_gradient"
                raise refuse("value.network", "none", rule, repair)
            names = [name for name in _OF_VALUE if name != "value.network"]
            check_unused(self, names, "there is no value network", "leave one of the two out")
            for spec in parse_rewards(self.reward):
                if spec.kind in WITHOUT_DERIVATIVE:
                    rule = f"the reward {spec.text!r} has no derivative"
                    repair = "take state, or another reward, such as soft_jpeg_size"
                    raise refuse("value.network", "none", rule, repair)
        if self.full:
            rule = "with --full all weights are trained"
            names = [f"adapters.{field.name}" for field in dataclasses.fields(Adapters)]
            check_unused(self, names, rule, "leave one of them out")
