"""Options of `ctrl-jax prefer`."""

import dataclasses
import datetime
from typing import Annotated, Literal, TypeVar

import tyro

from ctrl_jax._checks import check_decay, check_fields
from ctrl_jax.algorithms.language.named_loss import named_loss
from ctrl_jax.algorithms.language.preference import ScoreLoss
from ctrl_jax.data.preferences.texts import DATE
from ctrl_jax.losses.preference.named import NAMED, Inputs, NamedLoss, check_loss, options_of
from ctrl_jax.networks import LoRA
from ctrl_jax.runtime import (
    RunOptions,
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
    """Return the dataclass with a field for every option of the losses in the table."""
    told = [f"        {name}: {_meaning(name)}" for name in OPTIONS]
    number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]
    fields = [(name, number, None) for name in OPTIONS]
    made = dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True)
    text = (cls.__doc__ or "").replace("LOSSES", ", ".join(NAMED))
    made.__doc__ = "\n".join([text.rstrip(), *told])
    made.__module__ = cls.__module__
    return made  # pyright: ignore[reportReturnType]


def _meaning(key: str) -> str:
    """What an option is, of which losses, and what it is where none is given."""
    option, losses = OPTIONS[key]
    defaults = {name: NAMED[name].options[key].default for name in losses}
    common = {*defaults.values()}
    of = ", ".join(losses if len(common) == 1 else (f"{n} ({v:g})" for n, v in defaults.items()))
    by_default = (
        f"; {option.default:g} by default" if len(common) == 1 else ", each with its default"
    )
    return f"of {of}{by_default}; {option.meaning}."


@with_options
@dataclasses.dataclass(frozen=True)
class Objective:
    """The losses and their hyperparameters; those of other losses must be left alone.

    Args:
        loss: one loss, or several whose weighted sum is taken: LOSSES. Mallows losses weigh pairs
            by how much people agree on the prompt; aot and kto look at the other pairs of a batch,
            or of its part under --optimization.accumulate.
        loss_weights: weight of each of several losses; 1 by default.
        beta: inverse temperature: the larger, the nearer to the reference model. Of simpo, where 2
            is usual, it multiplies the difference of mean log-probabilities; of orpo the odds
            ratio's term.
        dispersion: of Mallows losses: estimated, from the entropy of the reference model, scaled so
            that the mean of -2 log phi over the pairs is one; data, from the key `dispersion` of
            the data.
    """

    loss: tuple[str, ...] = ("dpo",)
    loss_weights: tuple[float, ...] = ()
    beta: float = 0.1
    dispersion: Literal["estimated", "data"] = "estimated"

    def validate(self) -> None:
        """Raise ValueError for an option out of range, or one that the losses ignore."""
        for name in self.losses:
            check_loss("loss", name)
        if not self.losses or len({*self.losses}) < len(self.losses):
            raise refuse("loss", self.losses, "it must name losses, each once", "give dpo")
        if self.loss_weights and len(self.loss_weights) != len(self.losses):
            rule = f"there must be one for each of {len(self.losses)} losses"
            raise refuse("loss_weights", self.loss_weights, rule, "give as many, or leave it out")
        for weight in self.loss_weights:
            check_positive("loss_weights", weight)
        check_positive("beta", self.beta)
        takers = {name: losses for name, (_, losses) in OPTIONS.items()}
        takers["dispersion"] = [name for name, row in NAMED.items() if row.dispersed]
        for name, losses in sorted(takers.items()):
            if not {*losses} & {*self.losses}:
                rule = f"--loss {' '.join(self.losses)} has no use for it"
                check_unused(self, [name], rule, f"leave it out, or take {'|'.join(losses)}")
        for name, value in self.options.items():
            for row in self.rows:
                if name in row.options:
                    row.options[name].check(name, value)

    @property
    def losses(self) -> tuple[str, ...]:
        """The names, one alone too."""
        return (self.loss,) if isinstance(self.loss, str) else tuple(self.loss)

    @property
    def title(self) -> str:
        """The losses in a word."""
        return " + ".join(self.losses)

    @property
    def rows(self) -> list[NamedLoss]:
        """The rows of the table."""
        return [NAMED[name] for name in self.losses]

    @property
    def rewards(self) -> Inputs:
        """What times beta the metrics `rewards/*` are: the rewards of the first loss."""
        return self.rows[0].rewards

    @property
    def options(self) -> dict[str, float]:
        """What was given beside beta, the same for all pairs."""
        given = {name: getattr(self, name) for name in OPTIONS}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def loss_fn(self) -> ScoreLoss:
        """The weighted sum of the losses."""
        shares = self.loss_weights or None
        return named_loss(self.losses, beta=self.beta, shares=shares, **self.options)

    @property
    def estimates_dispersion(self) -> bool:
        """Whether a loss looks at the dispersion of a prompt, and it comes from the model."""
        return any(row.dispersed for row in self.rows) and self.dispersion == "estimated"


@dataclasses.dataclass(frozen=True)
class Texts:
    """How the data becomes tokens, and tokens rows.

    Args:
        evaluation_data: data for evaluation, of a folder its test split; by default a share of the
            data is held out.
        held_out: share of the data that is held out for evaluation, where it has no file of its
            own.
        max_length: most tokens of a prompt with either answer; answers are cut at their end.
        max_prompt_length: most tokens of a prompt, cut at its beginning; none is cut by default.
        packing: put several pairs into a row, long ones with short ones, rather than padding after
            each; always as many, which divide a batch.
        row_length: tokens of a row: a prompt and two answers, or several of them; by default what
            leaves the least padding, up to twice the longest pair.
        ignore: keys of the data that are left unread; all others must be known.
        leave_out_faulty: leave records out that cannot be used, and list them, rather than stop.
        chat_template: file of a chat template in Jinja, in place of the model's own.
        date: what a chat template sees that reads the clock: the same data are the same tokens on
            any day.
    """

    evaluation_data: str | None = None
    held_out: float = 0.1
    max_length: int = 1024
    max_prompt_length: int | None = None
    packing: bool = True
    row_length: int | None = None
    ignore: tuple[str, ...] = ()
    leave_out_faulty: bool = False
    chat_template: str | None = None
    date: str = DATE

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
        try:
            datetime.datetime.fromisoformat(self.date)
        except ValueError as error:
            rule = "it must be a date in ISO's format"
            raise refuse("texts.date", self.date, rule, f"give one such as {DATE}") from error
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
        model: folder of a GPT-2, GPT-NeoX, Llama, Mistral, Qwen 2 or 3, Gemma 2 or 3 (text), Phi-3
            or 4, SmolLM3 or OLMo 2 model with its tokenizer, as transformers saves it. The trained
            model is written to the folder `model` of the run.
        data: preferences: prompt, chosen, rejected (strings or conversations), optionally weight
            and dispersion; or the columns of ultrafeedback_binarized, HH-RLHF, dpo-mix or SHP. A
            file of JSON lines, a JSON array, parquet or arrow, or a folder of them.
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
