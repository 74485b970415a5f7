"""What all fine-tunings of a run share: the models, the prompts, the base model's pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax.data import read_prompts
from ctrl_jax.metrics import frontier
from ctrl_jax.rewards import clip_score
from experiments.study import Conduct
from experiments.text_to_image.config import Config
from experiments.text_to_image.detector import by_category
from experiments.text_to_image.evaluation import Drawn, Sampler, conditional_frontier
from experiments.text_to_image.fine_tuning import FineTuning, Given, write_prompts
from experiments.text_to_image.scenes import CATEGORIES, Request, of_prompt, requests
from experiments.text_to_image.training import Kept

SALT = 3000  # from the seed of the run to that of the pictures


class World(NamedTuple):
    """What fine-tunings start from, and what they are judged by.

    Fields:
        facts: of the stages, by name.
        found: every request.
        shown: those of the command's evaluations.
        given: files and folders.
        sampler: draws as fine-tuning does.
        before: pictures of the base model, of every request.
        base: of those that are shown, as many as the frontier rests on.
    """

    facts: Mapping[str, Any]
    found: tuple[Request, ...]
    shown: tuple[Request, ...]
    given: Given
    sampler: Sampler
    before: Drawn
    base: Drawn

    def draw(self, config: Config, lora: Path | None) -> Drawn:
        """Return pictures of every request, the noise always the same."""
        params = self.sampler.params(lora)
        return self.sampler(
            params, self.found, config.evaluation_pictures, seed=config.run.seed + SALT
        )

    def shares(self, drawn: Drawn, when: str) -> dict[str, float]:
        """Return how often pictures of `draw` are right, and their CLIP score."""
        number = drawn.right.shape[1]
        asked = [request for request in self.found for _ in range(number)]
        shares = by_category(drawn.right.ravel(), asked, "success")
        found = {f"{name}/{when}": share for name, share in shares.items()}
        return found | {f"proxy/{when}": float(drawn.proxy.mean())}

    def ideal(self, options: FineTuning) -> frontier.Frontier:
        """Return the best trade-off of CLIP score or of the verdict, whichever is trained on.

        A probability's is the verdict's: the detector is sure of nearly all.
        """
        rewards = self.base.proxy if options.reward == "proxy" else self.base.right
        return conditional_frontier(rewards.astype(np.float64), self.base.right)


def open_world(config: Config, study: Conduct, stages: Mapping[str, Kept]) -> World:
    """Return what all fine-tunings share, the base model's pictures drawn."""
    facts = {name: value for kept in stages.values() for name, value in kept.facts.items()}
    facts["reachable"] = reachable(facts)
    found, options = requests(study.loaded, config.run.seed), config.tuning
    model, gold, towers = (stages[k].folder for k in ("generator", "detector", "towers"))
    given = write_prompts(study.folder, model, gold, towers, found)
    sampling = {"guidance": options.guidance, "steps": options.solver_steps}
    sampler = Sampler(model, gold, clip_score(towers), stochastic=True, **sampling)
    shown = tuple(map(of_prompt, read_prompts(given.shown)))
    params, seed = sampler.params(), config.run.seed + SALT
    before = sampler(params, found, config.evaluation_pictures, seed=seed)
    base = sampler(params, shown, config.frontier_pictures, seed=seed + 1)
    world = World(facts, found, shown, given, sampler, before, base)
    shares = world.shares(before, "before")
    said = (f"{seen} {shares[f'success/{seen}/before']:.3f}" for seen in ("seen", "unseen"))
    study.say(f"right before fine-tuning, of captions {', '.join(said)}")
    return world


def reachable(facts: Mapping[str, Any]) -> float:
    """Return how often the detector is right of real pictures that went through the autoencoder."""
    return float(np.mean([facts[f"reconstructed/{category}"] for category in CATEGORIES]))


def track(
    rows: Sequence[Mapping[str, Any]], batch: int, *, gold: str, proxy: str
) -> list[dict[str, float]]:
    """Return the command's evaluations as this study calls them.

    Args:
        rows: of metrics.jsonl.
        batch: reward queries of an update.
        gold: name of the detector's share there.
        proxy: name of CLIP score there.
    """
    names = {"gold": gold, "proxy": proxy, "kl": "kl/path"}
    return [
        {"queries": row["step"] * batch}
        | {name: row[f"evaluation/{known}"] for name, known in names.items()}
        for row in rows
        if f"evaluation/{gold}" in row
    ]
