"""The whole comparison, from the base model to every policy measured."""

import hashlib
import itertools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax._typing import Params
from ctrl_jax.networks import PreferenceRows, count_parameters, language_model
from ctrl_jax.runtime import Run, progress, state_digest
from experiments.claims import Claim
from experiments.mallows_world import base_model, claims
from experiments.mallows_world.base_model import BaseModel
from experiments.mallows_world.comparison import (
    METHODS,
    Training,
    draw_rows,
    estimate_dispersion,
    make_trainers,
)
from experiments.mallows_world.evaluation import (
    Row,
    draw_answers,
    log_probs_of,
    measure_answers,
    measure_pairs,
    rows_of_answers,
)
from experiments.mallows_world.instruments import Instruments, make_instruments
from experiments.mallows_world.text import decode, read_corpus
from experiments.mallows_world.world import (
    Opinions,
    Questions,
    World,
    draw_opinions,
    draw_questions,
    gold_score,
    knows,
)

PLACES = tuple(claims.PLACES)
SHOWN = 3
AT_ONCE = 2
"""Policies trained side by side: these are too small for one to keep two cores busy."""


class Setting(NamedTuple):
    """What policies are compared in.

    Fields:
        base: options of the base model.
        params: its parameters.
        instruments: to measure with.
        questions: of training and both evaluations, by place.
        opinions: on them, by division and place.
        scored: rows of the answers and their log-probabilities under the base model, by place.
        seeds: of the policies.
    """

    base: BaseModel
    params: Params
    instruments: Instruments
    questions: dict[str, Questions]
    opinions: dict[str, dict[str, Opinions]]
    scored: dict[str, tuple[PreferenceRows, np.ndarray]]
    seeds: list[int]


class Policy(NamedTuple):
    """What was measured of a policy, by place, and its answers to the first held-out questions."""

    division: str
    seed: int
    method: str
    beta: float
    found: dict[str, dict[str, float]]
    answers: list[str]
    digest: str


class Dispersions(NamedTuple):
    """Of the training pairs: true and estimated phi, and their rank correlation."""

    true: np.ndarray
    estimated: np.ndarray
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


def conduct(
    base: BaseModel, world: World, training: Training, run: Run, *, seed: int, show: bool
) -> Found:
    """Train the base model, ask, have the answers compared, train and measure every policy."""
    setting, facts = prepare_setting(base, world, training, run, seed=seed, show=show)
    policies, digest = compare_methods(setting, training, run.folder / "policies.jsonl", show)
    rows = gather(policies)
    base_answers = {place: answers_of_base(setting, place) for place in PLACES}
    base_gold = {
        place: np.array([gold_score(answers).mean() for answers in drawn])
        for place, drawn in base_answers.items()
    }
    training_set = setting.questions["training"]
    estimated = estimate_dispersion(training_set)
    dispersions, told = {}, []
    for division, opinions in setting.opinions.items():
        true = np.repeat(opinions["training"].dispersion[:, None], estimated.shape[1], axis=1)
        known = {name: knows(q, opinions[name]) for name, q in setting.questions.items()}
        facts |= {f"rank_correlation/{division}/{name}": value for name, value in known.items()}
        facts |= _agreement(division, opinions["training"], true, estimated)
        dispersions[division] = Dispersions(true.ravel(), estimated.ravel(), known["training"])
        told.append(claims.index_knows(division, known["training"], len(training_set.prompts)))
        told += claims.of_division(rows, base_gold, division)
    examples = {"question": [decode(p) for p in setting.questions["held_out"].prompts[:SHOWN]]}
    examples["base model"] = read_aloud(base_answers["held_out"][0])
    examples |= {METHODS[p.method].label: p.answers for p in policies[: len(training.methods)]}
    return Found(rows, base_gold, dispersions, examples, facts, told, digest)


def _agreement(
    division: str, opinions: Opinions, true: np.ndarray, estimated: np.ndarray
) -> dict[str, float]:
    """Return the mean weight c = -2 log phi of agreed and divided questions."""
    found = {}
    for name, phi in (("true", true), ("estimated", estimated)):
        for part, chosen in (("agreed", ~opinions.divided), ("divided", opinions.divided)):
            found[f"c/{division}/{name}/{part}"] = float(np.mean(-2 * np.log(phi[chosen])))
    return found


def prepare_setting(
    base: BaseModel, world: World, training: Training, run: Run, *, seed: int, show: bool
) -> tuple[Setting, dict[str, Any]]:
    """Return what policies are compared in, and what is to be told about it."""
    corpus = read_corpus()
    params = base_model.pretrain(base, corpus, run, seed=seed, progress=show)
    instruments = make_instruments(
        base.decoder(), world.answer_length, batch=world.evaluation_questions
    )
    questions = draw_questions(world, corpus, instruments, params, seed)
    scored = {}
    for place in PLACES:
        rows = rows_of_answers(questions[place])
        scored[place] = rows, log_probs_of(instruments, params, rows, questions[place])
    setting = Setting(
        base,
        params,
        instruments,
        questions,
        {d: draw_opinions(world, d, questions, seed) for d in world.divisions},
        scored,
        [1000 * (i + 1) + seed for i in range(training.seeds)],
    )
    facts = base_model.measure(base, params, corpus)
    facts["parameters"] = count_parameters(params)
    facts["tied_pairs"] = float(questions["training"].tied.mean())
    facts["index/mean"] = float(questions["training"].index.mean())
    facts["index/std"] = float(questions["training"].index.std())
    return setting, facts


def compare_methods(
    setting: Setting, training: Training, log: Path, show: bool
) -> tuple[list[Policy], str]:
    """Train and measure every policy; return what was measured, and a digest of them all."""
    sets, seeds = setting.questions["training"], setting.seeds
    data = {
        (division, seed): draw_rows(sets, opinions["training"], training, seed)
        for (division, opinions), seed in itertools.product(setting.opinions.items(), seeds)
    }
    trainers = make_trainers(language_model(setting.base.decoder()), setting.params, training)

    def train(division: str, seed: int, beta: float, method: str) -> Policy:
        rows = data[division, seed][METHODS[method].source]
        params = trainers[method](rows, beta)
        answers = {
            place: draw_answers(setting.instruments, params, setting.questions[place], seed)
            for place in PLACES
        }
        found = {
            place: measure(setting, division, place, params, drawn)
            for place, drawn in answers.items()
        }
        shown, digest = read_aloud(answers["held_out"]), state_digest(params)
        return Policy(division, seed, method, beta, found, shown, digest)

    cells = list(itertools.product(setting.opinions, seeds, training.betas, training.methods))
    policies = []
    with (
        progress(len(cells), "policies", enabled=show) as told,
        log.open("w") as file,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        for policy in pool.map(train, *zip(*cells, strict=True)):
            policies.append(policy)
            file.write(json.dumps(policy._asdict()) + "\n")
            told(len(policies))
    digests = [state_digest(setting.params), *(policy.digest for policy in policies)]
    return policies, hashlib.sha256("".join(digests).encode()).hexdigest()


def gather(policies: Iterable[Policy]) -> list[Row]:
    """Return what was measured, seeds together."""
    cells: dict[tuple[str, str, str, float], list[dict[str, float]]] = {}
    for policy in policies:
        for place, found in policy.found.items():
            cell = policy.division, place, policy.method, policy.beta
            cells.setdefault(cell, []).append(found)
    return [
        Row(*cell, values={name: np.array([one[name] for one in found]) for name in found[0]})
        for cell, found in cells.items()
    ]


def measure(
    setting: Setting, division: str, place: str, params: Params, answers: np.ndarray
) -> dict[str, float]:
    """Return all that is measured of one policy, which gave these answers, in one place."""
    instruments, questions = setting.instruments, setting.questions[place]
    rows, before = setting.scored[place]
    rewards = log_probs_of(instruments, params, rows, questions) - before
    pairs = measure_pairs(questions, setting.opinions[division][place], rewards)
    return pairs | measure_answers(instruments, params, setting.params, questions, answers)


def answers_of_base(setting: Setting, place: str) -> list[np.ndarray]:
    """Return the base model's answers, for every seed."""
    questions = setting.questions[place]
    return [
        draw_answers(setting.instruments, setting.params, questions, seed) for seed in setting.seeds
    ]


def read_aloud(answers: np.ndarray) -> list[str]:
    """Return an answer to each of the first questions as text."""
    return [decode(answer) for answer in answers[:SHOWN, 0]]
