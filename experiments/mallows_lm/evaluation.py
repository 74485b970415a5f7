"""What is measured of a policy: implicit rewards of pairs, answers of its own, divergence."""

from typing import NamedTuple

import jax
import numpy as np

from ctrl_jax._typing import Params
from ctrl_jax.data import PreferenceRows, TokenPair, pack_pairs
from experiments.mallows_lm.instruments import Instruments
from experiments.mallows_lm.world import Opinions, Questions, gold_score, winning
from experiments.verdicts import mean_and_error

DRAWS = 2
"""Answers of its own that a policy draws to a question."""


class Row(NamedTuple):
    """One method at one beta, in one world, in or out of distribution.

    Fields:
        division: what divides opinions.
        place: held_out or elsewhere.
        method: its name.
        beta: inverse temperature.
        values: what was measured, (seeds,) each.
    """

    division: str
    place: str
    method: str
    beta: float
    values: dict[str, np.ndarray]

    def mean_and_error(self, name: str) -> tuple[float, float]:
        """Return the mean over seeds and its standard error."""
        return mean_and_error(self.values[name])

    @property
    def key(self) -> str:
        """Its place among the metrics."""
        return f"{self.division}/{self.place}/{self.method}/beta={self.beta:g}"


def rows_of_answers(questions: Questions) -> PreferenceRows:
    """Return all answers by twos, so that a question of four answers is read twice."""
    return pack_pairs(
        [
            TokenPair(prompt.tolist(), *answers[k : k + 2].tolist())
            for prompt, answers in zip(questions.prompts, questions.answers, strict=True)
            for k in range(0, len(answers), 2)
        ],
        pairs_per_row=1,
    )


def draw_answers(
    instruments: Instruments, params: Params, questions: Questions, seed: int
) -> np.ndarray:
    """Return a policy's own answers, (questions, DRAWS, bytes); equal seeds, equal randomness."""
    prompts = np.repeat(questions.prompts, DRAWS, axis=0)
    answers = instruments.sample(jax.random.key(seed), params, prompts)
    return answers.reshape(len(questions.prompts), DRAWS, -1)


def measure_answers(
    instruments: Instruments,
    params: Params,
    base: Params,
    questions: Questions,
    answers: np.ndarray,
) -> dict[str, float]:
    """Return gold and divergence of a policy's own answers."""
    prompts = np.repeat(questions.prompts, answers.shape[1], axis=0)
    flat = answers.reshape(len(prompts), -1)
    return {
        "gold": float(gold_score(answers).mean()),
        "kl": float(instruments.diverge(params, base, prompts, flat).mean()),
    }


def log_probs_of(
    instruments: Instruments, params: Params, rows: PreferenceRows, questions: Questions
) -> np.ndarray:
    """Return the log-probability of every answer, (questions, answers)."""
    return instruments.score(params, rows).reshape(questions.gold.shape)


def measure_pairs(
    questions: Questions, opinions: Opinions, rewards: np.ndarray
) -> dict[str, float]:
    """Return how often the reward of the better answer is the higher one.

    "accuracy" is against the central ranking, pairs of equal gold left out; "agreement" is the
    chance to agree with somebody who compares the pair.

    Args:
        questions: with their pairs.
        opinions: on these questions.
        rewards: implicit rewards, the log-ratios of the answers, (questions, answers).
    """
    question = np.arange(len(rewards))[:, None]
    margin = rewards[question, questions.better] - rewards[question, questions.worse]
    right = np.where(margin == 0, 0.5, margin > 0)
    wins = winning(questions.ranks, np.broadcast_to(opinions.dispersion[:, None], margin.shape))
    agreement = right * wins + (1 - right) * (1 - wins)
    found = {}
    for name, chosen in (("agreed", ~opinions.divided), ("divided", opinions.divided)):
        decided = ~questions.tied[chosen]
        found[f"accuracy/{name}"] = float(right[chosen][decided].mean())
        found[f"agreement/{name}"] = float(agreement[chosen].mean())
    return found
