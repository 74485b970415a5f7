r"""Questions with answers, people who compare them, and how far they agree: all of it known.

A question is a piece of text, its answers are continuations drawn from the base model. In the
middle of all opinions stands the ranking by *plain words*: with l the lengths of the words in an
answer,

    gold = -\sum l^2 / \sum l,                                                             (1)

minus the length of the word that a letter of the answer stands in, on average. Whoever compares two
answers has a ranking of his own, drawn from the Mallows law around the central one,

    P(mu) \propto phi^{d(mu, mu_0)},  d Kendall's tau,                                      (2)

so that the answer s ranks higher wins with probability g_phi(s) (`losses.mallows_link`). Agreed
questions have phi near 0, divided ones near 1. Which are divided is written in the question
("text": those that open a sentence with a capital letter) or follows from the base model's own
uncertainty ("uncertainty": those whose answers' index lies above the median of the training
questions). In the first case the entropy of the base model has no reason to know of phi; in the
second it decides it.

Source: Chen et al. 2024 (arXiv 2405.14953), section 2.
"""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ctrl_jax._checks import check_choice, check_count, check_distinct, check_fields, refuse
from ctrl_jax.data import TokenPair, pack_pairs
from ctrl_jax.losses.preference import mallows_link
from experiments.mallows_lm.instruments import Instruments
from experiments.mallows_lm.text import Corpus, Prompts, decode, draw_prompts

DIVISIONS = ("text", "uncertainty")


@dataclasses.dataclass(frozen=True)
class World:
    """Questions, answers and opinions.

    Args:
        divisions: worlds to compare in: what divides opinions, text or uncertainty.
        questions: questions whose answers are compared for training.
        evaluation_questions: questions of either evaluation, in and out of distribution.
        answers: answers to a question, an even number.
        question_length: bytes of a question.
        answer_length: bytes of an answer.
        agreed: least and greatest phi of agreed questions.
        divided: least and greatest phi of divided questions.
    """

    divisions: tuple[str, ...] = DIVISIONS
    questions: int = 480
    evaluation_questions: int = 128
    answers: int = 4
    question_length: int = 32
    answer_length: int = 24
    agreed: tuple[float, float] = (0.05, 0.1)
    divided: tuple[float, float] = (0.9, 0.95)

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_choice, "divisions", group="world", choices=DIVISIONS)
        check_distinct("world.divisions", self.divisions)
        check_fields(self, check_count, "questions", "evaluation_questions", group="world", least=4)
        check_count("world.answers", self.answers, least=2)
        if self.answers % 2:
            raise refuse("world.answers", self.answers, "they are scored by twos", "give 4 or 6")
        check_fields(self, check_count, "question_length", "answer_length", group="world")
        for name in ("agreed", "divided"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                rule = "phi lies in (0, 1], the least first"
                raise refuse(f"world.{name}", (low, high), rule, "give 0.05 0.1 or so")


class Questions(NamedTuple):
    """Questions, their answers and all pairs of these, the better one by (1) first.

    Fields:
        prompts: bytes, (n, question length).
        opens: whether a question opens a sentence, (n,).
        answers: bytes, (n, answers, answer length).
        gold: (1), (n, answers).
        better: number of the better answer of every pair, (n, pairs).
        worse: of the worse one.
        ranks: ranks between them, (n, pairs).
        log_probs: of better and worse under the base model, (n, pairs, 2).
        index: the base model's dispersion index of every pair, (n, pairs).
    """

    prompts: np.ndarray
    opens: np.ndarray
    answers: np.ndarray
    gold: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    ranks: np.ndarray
    log_probs: np.ndarray
    index: np.ndarray

    @property
    def tied(self) -> np.ndarray:
        """Pairs of equal gold, whose order in the central ranking is arbitrary, (n, pairs)."""
        rows = np.arange(len(self.gold))[:, None]
        return self.gold[rows, self.better] == self.gold[rows, self.worse]

    def pairs(self, question: np.ndarray, pair: np.ndarray, won: np.ndarray) -> list[TokenPair]:
        """Return pairs for training; `won` says where the better answer is the chosen one."""
        found = []
        for n, k, right in zip(question, pair, won, strict=True):
            two = self.answers[n, self.better[n, k]], self.answers[n, self.worse[n, k]]
            chosen, rejected = two if right else two[::-1]
            found.append(TokenPair(self.prompts[n].tolist(), chosen.tolist(), rejected.tolist()))
        return found

    def every_pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Return question and pair of all the pairs, question by question."""
        n, pairs = self.better.shape
        return np.repeat(np.arange(n), pairs), np.tile(np.arange(pairs), n)


def gold_score(answers: np.ndarray) -> np.ndarray:
    """Return (1) of answers (..., bytes); an answer without a letter scores as one long word."""
    flat = answers.reshape(-1, answers.shape[-1])
    return np.array([_plainness(decode(a)) for a in flat]).reshape(answers.shape[:-1])


def _plainness(text: str) -> float:
    lengths = np.array([len(word) for word in re.findall(r"[A-Za-z]+", text)], float)
    return -float((lengths**2).sum() / lengths.sum()) if lengths.size else -float(len(text))


def draw_questions(world: World, corpus: Corpus, instruments: Instruments, params, seed: int):
    """Return the questions of training, held out, and out of distribution, by those names."""
    found: dict[str, Questions] = {}
    uses = {
        "training": (corpus.preferences, world.questions),
        "held_out": (corpus.held_out, world.evaluation_questions),
        "elsewhere": (corpus.elsewhere, world.evaluation_questions),
    }
    for i, (name, (paragraphs, number)) in enumerate(uses.items()):
        generator = np.random.default_rng([seed, 100 + i])
        prompts = draw_prompts(paragraphs, number, world.question_length, generator)
        found[name] = _ask(world, prompts, instruments, params, generator)
    return found


def _ask(world: World, prompts: Prompts, instruments: Instruments, params, generator) -> Questions:
    key = jax.random.key(int(generator.integers(2**31)))
    repeated = np.repeat(prompts.tokens, world.answers, axis=0)
    answers = instruments.sample(key, params, repeated)
    answers = answers.reshape(len(prompts.tokens), world.answers, world.answer_length)
    gold = gold_score(answers)
    better, worse, ranks = rank_pairs(gold, generator)
    empty = np.zeros(0)
    drawn = Questions(
        prompts.tokens, prompts.opens, answers, gold, better, worse, ranks, empty, empty
    )
    question, pair = drawn.every_pair()
    rows = pack_pairs(drawn.pairs(question, pair, np.ones(len(pair), bool)), pairs_per_row=1)
    found = instruments.refer(params, rows)
    return drawn._replace(
        log_probs=found.log_probs.reshape(*better.shape, 2),
        index=found.index.reshape(better.shape),
    )


def rank_pairs(
    gold: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return better, worse and ranks between them of all pairs; ties are broken at random."""
    order = np.lexsort((generator.random(gold.shape), -gold), axis=1)
    above, below = np.triu_indices(gold.shape[1], 1)
    ranks = np.broadcast_to(below - above, (len(gold), len(above)))
    return order[:, above], order[:, below], ranks


class Opinions(NamedTuple):
    """How far people agree on the questions of a set.

    Fields:
        divided: whether a question is divided, (n,).
        dispersion: its phi, (n,).
    """

    divided: np.ndarray
    dispersion: np.ndarray


def draw_opinions(
    world: World, division: str, questions: dict[str, Questions], seed: int
) -> dict[str, Opinions]:
    """Return the opinions on every set of questions, in the world of that division."""
    middle = np.median(questions["training"].index.mean(axis=1))
    found = {}
    for i, (name, own) in enumerate(questions.items()):
        divided = own.opens if division == "text" else own.index.mean(axis=1) > middle
        generator = np.random.default_rng([seed, 200 + i])
        low, high = np.where(divided[:, None], world.divided, world.agreed).T
        found[name] = Opinions(divided, generator.uniform(low, high))
    return found


def compare(
    questions: Questions, opinions: Opinions, question, pair, generator: np.random.Generator
) -> np.ndarray:
    """Return whether the better answer wins, each pair compared by somebody else, (2)."""
    ranks = questions.ranks[question, pair]
    wins = winning(ranks, opinions.dispersion[question])
    return generator.random(len(wins)) < wins


def winning(ranks: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Return g_phi(s), the probability that the answer s ranks higher wins."""
    s, phi = (jnp.asarray(x, jnp.float32) for x in (ranks, dispersion))
    return np.asarray(mallows_link(s, phi))


def knows(questions: Questions, opinions: Opinions) -> float:
    """Return Spearman's correlation of the pairs' index with the phi of their question."""
    phi = np.repeat(opinions.dispersion, questions.index.shape[1])
    return float(stats.spearmanr(questions.index.reshape(-1), phi)[0])  # type: ignore[arg-type]
