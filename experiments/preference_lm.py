"""Mallows-DPO on a language model, in a world in which the dispersion of opinions is known.

A byte-level decoder learns English from the documentation in this Python, answers questions, and
learns plain words from people who agree on some questions and are divided on others: by DPO, and by
Mallows-DPO with the true dispersion or the one estimated from the model's entropy. Each run writes
config.json, metrics.jsonl (base model), policies.jsonl, results.json (with a verdict on every
claim) and pictures to its folder; the stages are in `experiments/mallows_world`.

With --model and --data it trains a model of one's own, by any of the losses; the stages are in
`experiments/preference_training`.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import jax
import tyro

from ctrl_jax.runtime import (
    RunOptions,
    check_small_run,
    check_unused,
    command,
    open_run,
    prepare,
    read_metrics,
    refuse,
    state_digest,
    write_results,
)
from experiments.mallows_world import plots, study
from experiments.mallows_world import report as world_report
from experiments.mallows_world.base_model import BaseModel
from experiments.mallows_world.comparison import Training
from experiments.mallows_world.world import World
from experiments.preference_training import report, training
from experiments.preference_training.config import (
    Adapters,
    Evaluation,
    Objective,
    Optimisation,
    Texts,
)
from experiments.preference_training.model import MODEL, check_place, save_model
from experiments.preference_training.training import Settings

NAME = "preference_lm"
CLAIM = (
    "Where people agree on some questions and not on others, Mallows-DPO learns more from as many "
    "comparisons than DPO, for less divergence from the base model, also out of distribution."
)
SOURCE = "arXiv 2405.14953, sections 2-5"
EXPECTED = {"claims": "what the paper reports holds; each claim says whether it does here"}


OF_A_WORLD = ("base", "world", "training")
OF_A_MODEL = ("objective", "texts", "adapters", "optimisation", "evaluation")


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn from comparisons under known dispersion: DPO, Mallows-theta and Mallows-phi.

    Source: arXiv 2405.14953. The default downloads nothing; on 2 CPU cores it takes eight minutes.
    Expected: at equal divergence Mallows-DPO of the true dispersion is ahead of DPO, of the
    estimated one level with it; every claim of results.json has a verdict. With --model DIR --data
    FILE it trains a model of yours; base, world and training are of the default alone, all other
    groups of yours.
    """

    model: str | None = None
    """Folder of a GPT-2, GPT-NeoX, Llama, Mistral or Qwen model with its tokenizer, as transformers
    saves it. The trained model is written to the folder `model` of the run."""

    data: str | None = None
    """Preferences, a JSON object on each line: prompt, chosen, rejected (strings or conversations),
    optionally weight and dispersion."""

    objective: Annotated[Objective, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Objective
    )
    texts: Texts = dataclasses.field(default_factory=Texts)
    adapters: Adapters = dataclasses.field(default_factory=Adapters)
    optimisation: Optimisation = dataclasses.field(default_factory=Optimisation)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)

    base: BaseModel = dataclasses.field(default_factory=BaseModel)
    """The base model, trained first; --resume latest finds it again."""

    world: World = dataclasses.field(default_factory=World)
    """Questions, answers and opinions."""

    training: Training = dataclasses.field(default_factory=Training)
    """The policies; --steps sets their updates."""

    run: Annotated[RunOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=RunOptions
    )

    def policies(self) -> Training:
        """Return the training of the policies with the updates asked for."""
        updates = self.run.steps or self.training.updates
        return dataclasses.replace(self.training, updates=updates)

    def settings(self) -> Settings:
        """Return the options of a run on a user's model."""
        assert self.model is not None and self.data is not None
        groups = {name: getattr(self, name) for name in OF_A_MODEL}
        return Settings(model=self.model, data=self.data, run=self.run, **groups)

    def _options(self, groups: tuple[str, ...]) -> list[str]:
        return [
            f"{g}.{field.name}" for g in groups for field in dataclasses.fields(getattr(self, g))
        ]

    def validate(self) -> None:
        """Raise ValueError for options that do not fit together."""
        if (self.model is None) != (self.data is None):
            given, missing = ("data", "model") if self.model is None else ("model", "data")
            rule = f"it comes with --{missing}"
            raise refuse(given, getattr(self, given), rule, f"give --{missing} too, or neither")
        if self.model is not None:
            repair = "leave it out, or leave out --model and --data"
            check_unused(self, self._options(OF_A_WORLD), "--model brings its own", repair)
            return
        repair = "give --model and --data"
        check_unused(self, self._options(OF_A_MODEL), "it is of a run with --model", repair)
        # Unlike other runs of minutes this one can be resumed: after its longest part.
        check_small_run(dataclasses.replace(self.run, resume="never"))


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    return run_world(config) if config.model is None else run_model(config)


def run_model(config: Config) -> Path:
    """Train a user's model."""
    began = time.monotonic()
    mesh, settings = prepare(config.run), config.settings()
    check_place(config.run.out)
    inputs = training.load_inputs(settings, mesh)
    options, plain = config.run, dataclasses.asdict(config)
    run = open_run(NAME, plain, out=options.out, resume=options.resume, seed=options.seed)
    outcome = training.tune(settings, inputs, run)
    metrics = dict(training.metrics_of(outcome))
    write_results(
        run,
        experiment=NAME,
        claim=f"{config.objective.loss} on {config.data}",
        source=SOURCE,
        metrics=metrics,
        expected={"traces": "== 1"},
        config=plain,
        digest=state_digest(outcome.params),
        seconds=time.monotonic() - began,
    )
    save_model(run.folder / MODEL, inputs.trained, outcome.params, mesh)
    if jax.process_index() == 0:
        report.draw_curves(run.folder / "curves.png", read_metrics(run.metrics))
        scale = metrics.get("dispersion/scale")
        report.draw_dispersion(run.folder / "dispersion.png", outcome.index, scale)
        report.print_results(metrics, config.objective.loss)
        print(f"results: {run.folder}")
    return run.folder


def run_world(config: Config) -> Path:
    """Compare the methods where the dispersion is known."""
    began = time.monotonic()
    prepare(config.run)
    options, settings = config.run, dataclasses.asdict(config)
    run = open_run(NAME, settings, out=options.out, resume=options.resume, seed=options.seed)
    found = study.conduct(
        config.base,
        config.world,
        config.policies(),
        run,
        seed=options.seed,
        show=options.progress,
    )
    write_results(
        run,
        experiment=NAME,
        claim=CLAIM,
        source=SOURCE,
        metrics=world_report.summarise(found),
        expected=EXPECTED,
        config=settings,
        digest=found.digest,
        seconds=time.monotonic() - began,
    )
    plots.draw_frontiers(run.folder / "frontier.png", found.rows, found.base_gold)
    plots.draw_accuracies(run.folder / "accuracy.png", found.rows)
    plots.draw_dispersions(run.folder / "dispersion.png", found.dispersions)
    world_report.print_results(found)
    print(f"results: {run.folder}")
    return run.folder


if __name__ == "__main__":
    command(Config, main)
