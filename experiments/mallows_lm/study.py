"""The whole comparison, from the base model to the verdicts."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax.runtime import state_digest
from experiments.mallows_lm import claims
from experiments.mallows_lm.base_model import BaseModel
from experiments.mallows_lm.comparison import METHODS, Training, estimate_dispersion
from experiments.mallows_lm.evaluation import Row, draw_answers
from experiments.mallows_lm.policies import SHOWN, Policy, compare_methods, gather, read_aloud
from experiments.mallows_lm.setting import Setting, prepare_setting
from experiments.mallows_lm.text import decode
from experiments.mallows_lm.world import World, gold_score, knows
from experiments.study import Conduct
from experiments.verdicts import Claim


class Dispersions(NamedTuple):
    """Of the training pairs: true and estimated phi, whether opinions are divided, and how well
    the index ranks phi (Spearman)."""

    true: np.ndarray
    estimated: np.ndarray
    divided: np.ndarray
    correlation: float


class Found(NamedTuple):
    """What the comparison finds.

    Fields:
        rows: everything measured of the policies.
        base_gold: gold of the base model's answers by place, (seeds,).
        dispersions: by division.
        examples: the first held-out questions, and answers of the base model and of a policy of
            every method.
        facts: what else results.json holds.
        claims: with their verdicts.
        digest: of all parameters.
    """

    rows: list[Row]
    base_gold: dict[str, np.ndarray]
    dispersions: dict[str, Dispersions]
    examples: dict[str, list[str]]
    facts: dict[str, Any]
    claims: list[Claim]
    digest: str


def conduct(base: BaseModel, world: World, training: Training, study: Conduct) -> Found:
    """Train the base model, ask, have the answers compared, train and measure every policy."""
    setting, facts = prepare_setting(base, world, training, study)
    log, show = study.folder / "policies.jsonl", study.config.run.progress
    policies = compare_methods(setting, training, log, show)
    rows = gather(policies)
    base_answers = {place: _answers_of_base(setting, place) for place in claims.PLACES}
    base_gold = {
        place: np.array([gold_score(answers).mean() for answers in drawn])
        for place, drawn in base_answers.items()
    }
    dispersions = {division: _dispersions(setting, division) for division in setting.opinions}
    told = claims.overall(rows, base_gold)
    for division, found in dispersions.items():
        facts |= _tell_dispersions(setting, division, found)
        questions = len(setting.questions["training"].prompts)
        told.append(claims.index_knows(division, found.correlation, questions))
        told += claims.of_division(rows, base_gold, division)
    examples = _examples(setting, base_answers["held_out"][0], policies[: len(training.methods)])
    digests = [state_digest(setting.params), *(policy.digest for policy in policies)]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return Found(rows, base_gold, dispersions, examples, facts, told, digest)


def _answers_of_base(setting: Setting, place: str) -> list[np.ndarray]:
    """Return the base model's answers, for every seed."""
    questions = setting.questions[place]
    return [
        draw_answers(setting.instruments, setting.params, questions, seed) for seed in setting.seeds
    ]


def _dispersions(setting: Setting, division: str) -> Dispersions:
    questions, opinions = setting.questions["training"], setting.opinions[division]["training"]
    estimated = estimate_dispersion(questions)
    pairs = estimated.shape[1]
    return Dispersions(
        np.repeat(opinions.dispersion, pairs),
        estimated.reshape(-1),
        np.repeat(opinions.divided, pairs),
        knows(questions, opinions),
    )


def _tell_dispersions(setting: Setting, division: str, found: Dispersions) -> dict[str, float]:
    """Return how well the index ranks phi on every set, and the mean weights c = -2 log phi."""
    told = {
        f"rank_correlation/{division}/{name}": knows(questions, setting.opinions[division][name])
        for name, questions in setting.questions.items()
    }
    for name, phi in (("true", found.true), ("estimated", found.estimated)):
        for part, chosen in (("agreed", ~found.divided), ("divided", found.divided)):
            told[f"c/{division}/{name}/{part}"] = float(np.mean(-2 * np.log(phi[chosen])))
    return told


def _examples(
    setting: Setting, base_answers: np.ndarray, policies: Sequence[Policy]
) -> dict[str, list[str]]:
    questions = setting.questions["held_out"].prompts[:SHOWN]
    return {
        "question": [decode(question) for question in questions],
        "base model": read_aloud(base_answers),
        **{METHODS[policy.method].label: policy.answers for policy in policies},
    }
