"""Options of `ctrl-jax prefer`."""

import dataclasses
from typing import Annotated, Literal

import tyro

from ctrl_jax.commands.preference.losses import LOSSES, Loss
from ctrl_jax.networks import LoRA
from ctrl_jax.runtime import (
    RunOptions,
    check_choice,
    check_count,
    check_fraction,
    check_non_negative,
    check_positive,
    refuse,
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss and its hyperparameters; those of other losses must be left alone."""

    loss: Loss = "dpo"
    """Mallows losses weigh pairs by how much people agree on the prompt."""

    beta: float = 0.1
    """Inverse temperature: the larger, the nearer to the reference model. Of simpo, where 2 is
    usual, it multiplies the difference of mean log-probabilities; of orpo the odds ratio's term."""

    dispersion: Literal["estimated", "data"] = "estimated"
    """Of Mallows losses: estimated, from the entropy of the reference model, scaled so that the
    mean of -2 log phi over the pairs is one; data, from the key `dispersion` of the data."""

    label_smoothing: float = 0.1
    """Of dpo_smoothed and robust: share of labels that are taken to be wrong."""

    gamma: float = 0.5
    """Of simpo and mallows_simpo: what beta times the difference of the answers' mean
    log-probabilities per token is to exceed."""

    def validate(self) -> None:
        """Raise ValueError for an option out of range, or one that the loss ignores."""
        check_choice("loss", self.loss, tuple(LOSSES))
        check_positive("beta", self.beta)
        check_fraction("label_smoothing", self.label_smoothing)
        check_non_negative("gamma", self.gamma)
        if self.label_smoothing >= 0.5:
            rule = "half of the labels or more would be wrong"
            raise refuse("label_smoothing", self.label_smoothing, rule, "give less than 0.5")
        default = type(self)()
        for name in ("dispersion", "label_smoothing", "gamma"):
            if name not in LOSSES[self.loss].options and getattr(self, name) != getattr(
                default, name
            ):
                rule = f"--loss {self.loss} has no use for it"
                raise refuse(name, getattr(self, name), rule, "leave it out")

    @property
    def estimates_dispersion(self) -> bool:
        """Whether the loss looks at the dispersion of a prompt, and it comes from the model."""
        return "dispersion" in LOSSES[self.loss].options and self.dispersion == "estimated"


@dataclasses.dataclass(frozen=True)
class Texts:
    """How the data becomes tokens, and tokens rows."""

    evaluation_data: str | None = None
    """A file for evaluation; by default a share of the data is held out."""

    held_out: float = 0.1
    """Share of the data that is held out for evaluation, where it has no file of its own."""

    max_length: int = 1024
    """Most tokens of a prompt with either answer; answers are cut at their end."""

    max_prompt_length: int | None = None
    """Most tokens of a prompt, cut at its beginning; none is cut by default."""

    packing: bool = True
    """Put several pairs into a row where they fit, rather than padding after each."""

    row_length: int | None = None
    """Tokens of a row: a prompt and two answers, or several of them; the longest pair by default,
    rounded up to a multiple of 64."""

    ignore: tuple[str, ...] = ()
    """Keys of the data that are left unread; all others must be known."""

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fraction("texts.held_out", self.held_out)
        if self.held_out in (0, 1) and self.evaluation_data is None:
            rule = "some data must be trained on and some evaluated"
            raise refuse("texts.held_out", self.held_out, rule, "give 0.1, or an evaluation file")
        if self.evaluation_data is not None and self.held_out != type(self)().held_out:
            rule = "with --texts.evaluation-data nothing is held out"
            raise refuse("texts.held_out", self.held_out, rule, "leave one of the two out")
        check_count("texts.max_length", self.max_length, least=2)
        if self.max_prompt_length is not None:
            check_count("texts.max_prompt_length", self.max_prompt_length)
        if self.row_length is not None:
            check_count("texts.row_length", self.row_length, least=3)


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Low-rank adapters, trained in place of the model's own weights."""

    rank: int = 0
    """Rank of the adapters; 0 trains the model itself."""

    alpha: float = 16.0
    """The adapters' output is multiplied by alpha / rank."""

    targets: tuple[str, ...] = ("query", "value")
    """Linear layers with adapters: query, key, value, out, gate, up, down."""

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("adapters.rank", self.rank, least=0)
        check_positive("adapters.alpha", self.alpha)
        if not self.rank and self != type(self)():
            raise refuse("adapters.rank", 0, "there are no adapters to describe", "give a rank")
        _ = self.lora

    @property
    def lora(self) -> LoRA | None:
        """The adapters, as the network takes them."""
        return LoRA(self.rank, self.alpha, self.targets) if self.rank else None


@dataclasses.dataclass(frozen=True)
class Optimization:
    """The optimizer and how often it is fed what."""

    epochs: float = 1.0
    """Passes over the data, where --steps is not given."""

    batch: int = 8
    """Rows per update."""

    accumulate: int = 1
    """Parts that a batch is computed in, one after the other; must divide it."""

    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """rmsprop is what the papers on DPO use."""

    learning_rate: float = 1e-6
    """Peak step size; adapters take about ten times more."""

    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the step size after its warm-up; the first two end at 0."""

    warmup: float = 0.1
    """Share of the updates over which the step size grows."""

    weight_decay: float = 0.0
    """Decoupled weight decay."""

    gradient_clip: float = 1.0
    """Largest norm of a gradient."""

    average_decay: float = 0.0
    """Decay per update of a moving average of the weights, which is evaluated and saved; 0 for
    none."""

    remat: bool = False
    """Compute the blocks again in the backward pass rather than keep them: less memory."""

    fully_sharded: bool = False
    """Divide weights and optimizer over --mesh.data too."""

    chunk: int | None = None
    """Tokens of answers whose logits are held together; all of a part by default."""

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        for name in ("epochs", "learning_rate", "gradient_clip"):
            check_positive(f"optimization.{name}", getattr(self, name))
        for name in ("batch", "accumulate"):
            check_count(f"optimization.{name}", getattr(self, name))
        if self.batch % self.accumulate:
            rule = f"it must divide the batch of {self.batch} rows"
            raise refuse("optimization.accumulate", self.accumulate, rule, "change either")
        check_fraction("optimization.warmup", self.warmup)
        check_non_negative("optimization.weight_decay", self.weight_decay)
        check_fraction("optimization.average_decay", self.average_decay)
        if self.average_decay == 1:
            rule = "an average that never moves would be the untrained model"
            raise refuse("optimization.average_decay", 1, rule, "give a smaller one")
        if self.chunk is not None:
            check_count("optimization.chunk", self.chunk)
        if self.optimizer == "rmsprop" and self.weight_decay:
            rule = "rmsprop has no decoupled weight decay here"
            raise refuse("optimization.weight_decay", self.weight_decay, rule, "take adamw")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured on held-out pairs, and how often."""

    every: int = 50
    """Updates between evaluations; 0 for one at either end."""

    checkpoint_every: int = 50
    """Updates between checkpoints; 0 for one at the end."""

    pairs: int = 1000
    """Most held-out pairs, or so: what is not evaluated is trained on."""

    prompts: int = 16
    """Held-out prompts that are answered, for the divergence from the reference model; 0 for
    none."""

    answer_length: int = 64
    """Most tokens of these answers."""

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        for name in ("every", "checkpoint_every", "prompts"):
            check_count(f"evaluation.{name}", getattr(self, name), least=0)
        for name in ("pairs", "answer_length"):
            check_count(f"evaluation.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Config:
    """Tune a language model on preference pairs: DPO, Mallows-DPO and the other losses.

    The model is a folder as transformers saves it, and so is the result. Example:
      ctrl-jax prefer --model Llama-3.2-1B --data pairs.jsonl --loss mallows_theta
    """

    model: str
    """Folder of a GPT-2, GPT-NeoX, Llama, Mistral or Qwen model with its tokenizer, as transformers
    saves it. The trained model is written to the folder `model` of the run."""

    data: str
    """Preferences, a JSON object on each line: prompt, chosen, rejected (strings or conversations),
    optionally weight and dispersion."""

    objective: Annotated[Objective, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Objective
    )
    texts: Texts = dataclasses.field(default_factory=Texts)
    adapters: Adapters = dataclasses.field(default_factory=Adapters)
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)

    run: Annotated[RunOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=RunOptions
    )
