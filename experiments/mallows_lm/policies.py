"""Every policy: trained, asked and measured."""

import itertools
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ctrl_jax._typing import Params
from ctrl_jax.networks import language_model
from ctrl_jax.runtime import progress, state_digest
from experiments.mallows_lm.claims import PLACES
from experiments.mallows_lm.comparison import METHODS, Training, draw_rows, make_trainers
from experiments.mallows_lm.evaluation import (
    Row,
    draw_answers,
    log_probs_of,
    measure_answers,
    measure_pairs,
)
from experiments.mallows_lm.setting import Setting
from experiments.mallows_lm.text import decode

SHOWN = 3
AT_ONCE = 2
"""Policies trained side by side: these are too small for one to keep two cores busy."""


class Policy(NamedTuple):
    """What was measured of a policy, by place, and its answers to the first held-out questions."""

    division: str
    seed: int
    method: str
    beta: float
    found: dict[str, dict[str, float]]
    answers: list[str]
    digest: str


def compare_methods(setting: Setting, training: Training, log: Path, show: bool) -> list[Policy]:
    """Train and measure every policy."""
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
    log = log if jax.process_index() == 0 else Path(os.devnull)
    with (
        progress(len(cells), "policies", enabled=show) as told,
        log.open("w") as file,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        for policy in pool.map(train, *zip(*cells, strict=True)):
            policies.append(policy)
            file.write(json.dumps(policy._asdict()) + "\n")
            told(len(policies))
    return policies


def measure(
    setting: Setting, division: str, place: str, params: Params, answers: np.ndarray
) -> dict[str, float]:
    """Return all that is measured of one policy, which gave these answers, in one place."""
    instruments, questions = setting.instruments, setting.questions[place]
    rows, before = setting.scored[place]
    rewards = log_probs_of(instruments, params, rows, questions) - before
    pairs = measure_pairs(questions, setting.opinions[division][place], rewards)
    return pairs | measure_answers(instruments, params, setting.params, questions, answers)


def read_aloud(answers: np.ndarray) -> list[str]:
    """Return an answer to each of the first questions as text."""
    return [decode(answer) for answer in answers[:SHOWN, 0]]


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
