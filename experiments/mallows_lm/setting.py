"""What all policies share: the base model, questions, answers, opinions, and how to measure."""

from typing import Any, NamedTuple

import numpy as np

from ctrl_jax._typing import Params
from ctrl_jax.data import PreferenceRows
from ctrl_jax.networks import count_parameters
from experiments.mallows_lm import base_model
from experiments.mallows_lm.base_model import BaseModel
from experiments.mallows_lm.claims import PLACES
from experiments.mallows_lm.comparison import Training
from experiments.mallows_lm.evaluation import log_probs_of, rows_of_answers
from experiments.mallows_lm.instruments import Instruments, make_instruments
from experiments.mallows_lm.text import read_corpus
from experiments.mallows_lm.world import Opinions, Questions, World, draw_opinions, draw_questions
from experiments.study import Conduct


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


def prepare_setting(
    base: BaseModel, world: World, training: Training, study: Conduct
) -> tuple[Setting, dict[str, Any]]:
    """Return what policies are compared in, and what is to be told about it."""
    corpus, seed = read_corpus(), study.config.run.seed
    params = base_model.pretrain(base, corpus, study)
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
