"""Mallows-DPO on a language model, in a world in which the dispersion of opinions is known.

A byte-level decoder learns English from the documentation in this Python, answers questions, and
learns plain words from people who agree on some questions and are divided on others: by DPO, and by
Mallows-DPO with the true dispersion or the one estimated from the model's entropy. Each run writes
config.json, metrics.jsonl (base model), policies.jsonl, results.json (with a verdict on every
claim) and pictures to its folder. Models and data of one's own: `ctrl-jax prefer`.
"""

import dataclasses
from pathlib import Path

from ctrl_jax.runtime import check_small_run, command
from experiments.mallows_lm import STUDY, plots, report, study
from experiments.mallows_lm.base_model import BaseModel
from experiments.mallows_lm.comparison import Training
from experiments.mallows_lm.text import read_corpus
from experiments.mallows_lm.world import World
from experiments.options import COMMON, Common


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn from comparisons under known dispersion: DPO, Mallows-theta and Mallows-phi.

    Source: arXiv 2405.14953. It downloads nothing.
    Expected: at equal divergence Mallows-DPO of the true dispersion is ahead of DPO, of the
    estimated one level with it; every claim of results.json has a verdict.

    Args:
        base: the base model, trained first; --resume latest finds it again.
        world: questions, answers and opinions.
        training: the policies; --steps sets their updates.
        run: the common options.
    """

    base: BaseModel = dataclasses.field(default_factory=BaseModel)
    world: World = dataclasses.field(default_factory=World)
    training: Training = dataclasses.field(default_factory=Training)
    run: Common = COMMON

    def policies(self) -> Training:
        """Return the training of the policies with the updates asked for."""
        updates = self.run.steps or self.training.updates
        return dataclasses.replace(self.training, updates=updates)

    def validate(self) -> None:
        """Raise ValueError for options that do not fit together."""
        check_small_run(dataclasses.replace(self.run, profile=False))


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    run = STUDY.begin(config, lambda mesh: read_corpus(), lambda: {"text": read_corpus().digest()})
    found = study.conduct(config.base, config.world, config.policies(), run)
    run.write(report.summarize(found), found.digest, found.claims)
    plots.draw_frontiers(run.folder / "frontier.png", found.rows, found.base_gold)
    plots.draw_accuracies(run.folder / "accuracy.png", found.rows)
    plots.draw_dispersions(run.folder / "dispersion.png", found.dispersions)
    report.print_results(found)
    return run.close(found.claims)


if __name__ == "__main__":
    command(Config, main)
