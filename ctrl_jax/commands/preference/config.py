"""Options of `ctrl-jax prefer`."""

import dataclasses
from typing import Annotated, Literal, TypeVar

import tyro

from ctrl_jax._checks import check_decay, check_fields
from ctrl_jax.losses.preference.named import NAMED, NamedLoss, options_of
from ctrl_jax.networks import LoRA
from ctrl_jax.runtime import (
    RunOptions,
    check_choice,
    check_count,
    check_fraction,
    check_non_negative,
    check_positive,
    check_unused,
    refuse,
)

Class = TypeVar("Class", bound=type)
OPTIONS = options_of(NAMED)


def with_options(cls: Class) -> Class:
    """Return the dataclass with the names of the table for `loss`, and a field for every option."""
    told = [
        f"        {name}: of {', '.join(losses)}; {option.meaning}."
        for name, (option, losses) in OPTIONS.items()
    ]
    numbers = [(name, float, option.default) for name, (option, _) in OPTIONS.items()]
    fields = [("loss", Literal[tuple(NAMED)], "dpo"), *numbers]
    made = dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True)
    made.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), *told])
    made.__module__ = cls.__module__
    return made  # pyright: ignore[reportReturnType]


@with_options
@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss and its hyperparameters; those of other losses must be left alone.

    Args:
        loss: Mallows losses weigh pairs by how much people agree on the prompt.
        beta: inverse temperature: the larger, the nearer to the reference model. Of simpo, where 2
            is usual, it multiplies the difference of mean log-probabilities; of orpo the odds
            ratio's term.
        dispersion: of Mallows losses: estimated, from the entropy of the reference model, scaled so
            that the mean of -2 log phi over the pairs is one; data, from the key `dispersion` of
            the data.
    """

    loss: str = "dpo"
    beta: float = 0.1
    dispersion: Literal["estimated", "data"] = "estimated"

    def validate(self) -> None:
        """Raise ValueError for an option out of range, or one that the loss ignores."""
        check_choice("loss", self.loss, tuple(NAMED))
        check_positive("beta", self.beta)
        ignored = {*OPTIONS} - {*self.named.options}
        if not self.named.dispersed:
            ignored.add("dispersion")
        check_unused(self, sorted(ignored), f"--loss {self.loss} has no use for it")
        for name, value in self.options.items():
            self.named.options[name].check(name, value)

    @property
    def named(self) -> NamedLoss:
        """The row of the table."""
        return NAMED[self.loss]

    @property
    def options(self) -> dict[str, float]:
        """What the loss takes beside beta, the same for all pairs."""
        return {name: getattr(self, name) for name in self.named.options}

    @property
    def estimates_dispersion(self) -> bool:
        """Whether the loss looks at the dispersion of a prompt, and it comes from the model."""
        return self.named.dispersed and self.dispersion == "estimated"


@dataclasses.dataclass(frozen=True)
class Texts:
    """How the data becomes tokens, and tokens rows.

    Args:
        evaluation_data: a file for evaluation; by default a share of the data is held out.
        held_out: share of the data that is held out for evaluation, where it has no file of its
            own.
        max_length: most tokens of a prompt with either answer; answers are cut at their end.
        max_prompt_length: most tokens of a prompt, cut at its beginning; none is cut by default.
        packing: put several pairs into a row, long ones with short ones, rather than padding after
            each; always as many, which divide a batch.
        row_length: tokens of a row: a prompt and two answers, or several of them; by default what
            leaves the least padding, up to twice the longest pair.
        ignore: keys of the data that are left unread; all others must be known.
    """

    evaluation_data: str | None = None
    held_out: float = 0.1
    max_length: int = 1024
    max_prompt_length: int | None = None
    packing: bool = True
    row_length: int | None = None
    ignore: tuple[str, ...] = ()

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
        for name, least in (("max_prompt_length", 1), ("row_length", 3)):
            if getattr(self, name) is not None:
                check_count(f"texts.{name}", getattr(self, name), least=least)


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Low-rank adapters, trained in place of the model's own weights.

    Args:
        rank: rank of the adapters; 0 trains the model itself.
        alpha: the adapters' output is multiplied by alpha / rank.
        targets: linear layers with adapters: query, key, value, out, gate, up, down.
        merge: whether what is saved is the model with the adapters added to its weights; with false
            it is the adapters alone, a folder that PEFT loads.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "value")
    merge: bool = True

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
    """The optimizer and how often it is fed what.

    Args:
        epochs: passes over the data, where --steps is not given.
        batch: pairs per update.
        accumulate: parts that a batch is computed in, one after the other; must divide it.
        optimizer: rmsprop is what the papers on DPO use.
        learning_rate: peak step size; adapters take about ten times more.
        schedule: course of the step size after its warm-up; the first two end at 0.
        warmup: share of the updates over which the step size grows.
        weight_decay: decoupled weight decay.
        gradient_clip: largest norm of a gradient.
        average_decay: decay per update of a moving average of the weights, which is evaluated and
            saved; 0 for none.
        remat: compute the blocks again in the backward pass rather than keep them: less memory.
        fully_sharded: divide weights and optimizer over --mesh.data too.
        chunk: tokens of answers whose logits are held together; all of a part by default.
    """

    epochs: float = 1.0
    batch: int = 8
    accumulate: int = 1
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    learning_rate: float = 1e-6
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    average_decay: float = 0.0
    remat: bool = False
    fully_sharded: bool = False
    chunk: int | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        group = "optimization"
        check_fields(self, check_positive, "epochs", "learning_rate", "gradient_clip", group=group)
        counts = ("batch", "accumulate", *(("chunk",) if self.chunk is not None else ()))
        check_fields(self, check_count, *counts, group=group)
        if self.batch % self.accumulate:
            rule = f"it must divide the batch of {self.batch} pairs"
            raise refuse("optimization.accumulate", self.accumulate, rule, "change either")
        check_fraction("optimization.warmup", self.warmup)
        check_non_negative("optimization.weight_decay", self.weight_decay)
        check_decay("optimization.average_decay", self.average_decay)
        if self.optimizer == "rmsprop" and self.weight_decay:
            rule = "rmsprop has no decoupled weight decay here"
            raise refuse("optimization.weight_decay", self.weight_decay, rule, "take adamw")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured on held-out pairs, and how often.

    Args:
        every: updates between evaluations; 0 for one at either end.
        checkpoint_every: updates between checkpoints; 0 for one at the end.
        pairs: most held-out pairs, or so: what is not evaluated is trained on.
        prompts: held-out prompts that are answered, for the divergence from the reference model; 0
            for none.
        answer_length: most tokens of these answers.
    """

    every: int = 50
    checkpoint_every: int = 50
    pairs: int = 1000
    prompts: int = 16
    answer_length: int = 64

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        often = ("every", "checkpoint_every", "prompts")
        check_fields(self, check_count, *often, group="evaluation", least=0)
        check_fields(self, check_count, "pairs", "answer_length", group="evaluation")


@dataclasses.dataclass(frozen=True)
class Config:
    """Tune a language model on preference pairs: DPO, Mallows-DPO and the other losses.

    The model is a folder as transformers saves it, and so is the result. Example:
      ctrl-jax prefer --model Llama-3.2-1B --data pairs.jsonl --loss mallows_theta

    Args:
        model: folder of a GPT-2, GPT-NeoX, Llama, Mistral or Qwen model with its tokenizer, as
            transformers saves it. The trained model is written to the folder `model` of the run.
        data: preferences, a JSON object on each line: prompt, chosen, rejected (strings or
            conversations), optionally weight and dispersion.
        objective: the loss.
        texts: from data to rows of tokens.
        adapters: what is trained in place of the weights.
        optimization: the optimizer and its batches.
        evaluation: what is measured.
        run: where the run lives, and on which devices.
    """

    model: str
    data: str
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
