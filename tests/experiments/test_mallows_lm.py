"""The experiment on a byte model and a world of known dispersion, as its users run it."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from ctrl_jax.runtime import Checkpoints, Run, RunOptions, command, make_mesh
from experiments.mallows_lm import STUDY, claims, text, world
from experiments.mallows_lm.__main__ import Config, main
from experiments.mallows_lm.base_model import BaseModel, pretrain
from experiments.mallows_lm.comparison import METHODS, Training, draw_rows, rank_dispersion
from experiments.mallows_lm.evaluation import Row, measure_pairs
from experiments.mallows_lm.world import Opinions, Questions
from experiments.study import Conduct

TINY = """
--no-progress --steps 2 --base.steps 3 --base.width 32 --base.depth 1 --base.batch 4
--base.window 16 --world.questions 8 --world.evaluation-questions 4 --world.question-length 8
--world.answer-length 6 --world.divisions text --training.seeds 2 --training.betas 0.1
--training.batch 4 --training.methods dpo phi_true
""".split()  # noqa: SIM905


def run(folder, *options):
    command(Config, main, [*TINY, *options, "--out", str(folder)])
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and results of one tiny run."""
    folder = tmp_path_factory.mktemp("run") / "a"
    return folder, run(folder)


def test_what_a_run_leaves(finished):
    folder, results = finished
    metrics = results["metrics"]
    for name in ("accuracy/agreed", "accuracy/divided", "gold", "kl"):
        for place, method in itertools.product(("held_out", "elsewhere"), ("dpo", "phi_true")):
            key = f"{name}/text/{place}/{method}/beta=0.1"
            assert np.isfinite(metrics[key]) and np.isfinite(metrics[f"{key}/stderr"])
    assert {claim["holds"] for claim in metrics["claims"]} <= {"yes", "level", "no"}
    for file in ("frontier.png", "accuracy.png", "dispersion.png", "metrics.jsonl"):
        assert (folder / file).stat().st_size > 100
    assert len((folder / "policies.jsonl").read_text().splitlines()) == 2 * 2


def test_the_base_model_is_found_again(finished):
    """From the run's checkpoints, without another update."""
    folder, _ = finished
    lines = (folder / "metrics.jsonl").read_text()
    config = Config(
        BaseModel(width=32, depth=1, steps=3, batch=4, window=16),
        run=RunOptions(seed=1, progress=False),
    )
    study = Conduct(STUDY, config, Run(folder, True), make_mesh(), None, 0.0)
    again = pretrain(config.base, text.read_corpus(), study)
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]
    assert (folder / "metrics.jsonl").read_text() == lines
    assert np.isfinite(np.asarray(again["tokens"])).all()


@pytest.mark.slow
def test_a_resumed_run_does_not_train_the_base_model_again(finished):
    folder, before = finished
    lines = (folder / "metrics.jsonl").read_text()
    assert run(folder, "--resume", "latest")["digest"] == before["digest"]
    assert (folder / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--world.answers", "3"], "world.answers"),
        (["--world.agreed", "0.2", "0.1"], "phi lies in"),
        (["--world.divisions", "taste"], "world.divisions"),
        (["--training.betas", "0.1", "0.1"], "each once"),
        (["--training.betas", "-1"], "training.betas"),
        (["--base.width", "40"], "a multiple of 32"),
        (["--precision", "bfloat16"], "float32"),
    ],
)
def test_what_is_refused(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "a", "--base.steps", "1", *options)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def mallows_law(answers, phi):
    """Every ranking, as the positions of the answers, with its probability."""
    rankings = list(itertools.permutations(range(answers)))
    pairs = list(itertools.combinations(range(answers), 2))
    distances = [sum(r[i] > r[j] for i, j in pairs) for r in rankings]
    weights = phi ** np.asarray(distances, float)
    return rankings, weights / weights.sum()


@pytest.mark.parametrize(("answers", "phi"), [(4, 0.07), (4, 0.92), (5, 0.5)])
def test_pairs_are_won_as_in_the_mallows_law(answers, phi):
    """The answer i above j wins with the share of the rankings that have it above."""
    rankings, law = mallows_law(answers, phi)
    for i, j in itertools.combinations(range(answers), 2):
        share = sum(p for r, p in zip(rankings, law, strict=True) if r[i] < r[j])
        won = world.winning(np.asarray([j - i]), np.asarray([phi]))
        np.testing.assert_allclose(won, share, rtol=2e-5)


def make_questions(number, answers=4):
    """Questions whose answers are told apart by their gold only."""
    generator = np.random.default_rng(0)
    gold = generator.normal(size=(number, answers))
    better, worse, ranks = world.rank_pairs(gold, generator)
    return Questions(
        prompts=np.zeros((number, 2), np.int32),
        opens=np.arange(number) % 2 == 0,
        answers=np.argsort(np.argsort(-gold))[:, :, None].astype(np.int32),
        gold=gold,
        better=better,
        worse=worse,
        ranks=ranks,
        log_probs=np.stack([better, worse], axis=2).astype(np.float32),
        index=generator.uniform(0.1, 0.4, better.shape),
    )


def test_comparisons_are_drawn_from_that_law():
    """By ranks, of 6000 pairs each; a binomial test, in all once in 10 000 a false alarm."""
    questions = make_questions(2000)
    opinions = Opinions(np.zeros(2000, bool), np.full(2000, 0.6))
    question, pair = questions.every_pair()
    won = world.compare(questions, opinions, question, pair, np.random.default_rng(3))
    for s in (1, 2, 3):
        own = won[questions.ranks[question, pair] == s]
        expected = float(world.winning(np.asarray([s]), np.asarray([0.6]))[0])
        assert stats.binomtest(int(own.sum()), own.size, expected).pvalue > 1e-4 / 3


def test_ranks_are_those_of_gold():
    questions = make_questions(50)
    rows = np.arange(50)[:, None]
    gap = questions.gold[rows, questions.better] - questions.gold[rows, questions.worse]
    assert (gap > 0).all() and not questions.tied.any()
    place = np.argsort(np.argsort(-questions.gold))
    ranks = place[rows, questions.worse] - place[rows, questions.better]
    np.testing.assert_array_equal(ranks, questions.ranks)


def test_who_is_divided():
    """By the text, or by the median index of the training questions, whatever the set."""
    questions = make_questions(40)
    sure = questions._replace(index=questions.index * 0.1)
    sets, options = {"training": questions, "held_out": sure}, world.World()
    by_text = world.draw_opinions(options, "text", sets, 0)
    np.testing.assert_array_equal(by_text["held_out"].divided, questions.opens)
    by_index = world.draw_opinions(options, "uncertainty", sets, 0)
    assert by_index["training"].divided.sum() == 20 and not by_index["held_out"].divided.any()
    assert world.knows(questions, by_index["training"]) > world.knows(
        questions, by_text["training"]
    )
    for found in (*by_text.values(), *by_index.values()):
        low, high = np.where(found.divided[:, None], options.divided, options.agreed).T
        assert ((low <= found.dispersion) & (found.dispersion <= high)).all()


def test_what_a_seed_trains_on():
    """The chosen answer is the one that won, its reference and its dispersion go with it."""
    questions = make_questions(20)
    opinions = Opinions(questions.opens, np.where(questions.opens, 0.92, 1e-6))
    training = Training(updates=5, batch=6)
    data = draw_rows(questions, opinions, training, 7)
    rows = data["true"]
    assert rows.dispersion is not None
    assert rows.tokens.shape == (5, 6, 4)
    chosen, rejected = rows.tokens[..., 2], rows.tokens[..., 3]
    agreed = rows.dispersion[..., 0] < 0.5
    # Below 1e-6 nobody disagrees: the first in the ranking wins.
    assert agreed.any() and (~agreed).any() and (chosen < rejected)[agreed].all()
    assert (chosen > rejected)[~agreed].any()
    for source in ("", "estimated"):
        np.testing.assert_array_equal(data[source].tokens, rows.tokens)
    assert (data[""].dispersion == 1).all()
    # On average over all the pairs of the questions the agreement c is one.
    every = draw_rows(questions, opinions, Training(updates=20, batch=6), 0)["estimated"]
    c = -2 * np.log(np.asarray(every.dispersion))
    np.testing.assert_allclose(c.mean(), 1, rtol=1e-5)


def test_ranked_dispersion_has_the_values_of_the_world_in_the_order_of_the_index():
    questions = make_questions(20)
    opinions = Opinions(questions.opens, np.linspace(0.05, 0.95, 20))
    ranked = rank_dispersion(questions, opinions)
    np.testing.assert_array_equal(np.sort(ranked, axis=None), np.repeat(opinions.dispersion, 6))
    assert (np.diff(ranked.ravel()[np.argsort(questions.index, axis=None)]) >= 0).all()


def test_accuracy_of_the_gold_score_and_of_its_opposite():
    """Against the ranking 1 and 0; with a person on a divided question hardly better than 1/2."""
    questions = make_questions(30)
    opinions = Opinions(questions.opens, np.where(questions.opens, 0.95, 0.05))
    right = measure_pairs(questions, opinions, questions.gold)
    wrong = measure_pairs(questions, opinions, -questions.gold)
    for name in ("agreed", "divided"):
        assert right[f"accuracy/{name}"] == 1 and wrong[f"accuracy/{name}"] == 0
        assert abs(right[f"agreement/{name}"] + wrong[f"agreement/{name}"] - 1) < 1e-6
    ranks = np.asarray([1, 2, 3, 1, 2, 1])
    expected = world.winning(ranks, np.full(6, 0.95)).mean()
    assert abs(right["agreement/divided"] - expected) < 1e-6


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("a bb ccc", -14 / 6), ("fourfour", -8.0), ("it's so.", -9 / 5), ("........", -8.0)],
)
def test_gold_by_hand(answer, gold):
    tokens = np.frombuffer(answer.encode(), np.uint8).astype(np.int32)
    np.testing.assert_allclose(world.gold_score(tokens[None]), [gold], rtol=1e-12)


def test_the_text_is_cut_without_overlap():
    corpus = text.read_corpus()
    parts = [set(part) for part in corpus]
    for one, other in itertools.combinations(parts, 2):
        if one is not parts[3] and other is not parts[3]:
            assert not one & other
    assert sum(map(len, corpus.pretraining)) > 100_000
    assert max(int(text.encode(part).max()) for part in corpus) < text.VOCABULARY


def test_half_of_the_questions_open_a_sentence():
    corpus = text.read_corpus()
    prompts = text.draw_prompts(corpus.held_out, 40, 20, np.random.default_rng(0))
    starts = [text.decode(p[:1]) for p in prompts.tokens]
    assert [s.isupper() for s in starts] == prompts.opens.tolist()
    assert prompts.opens.sum() == 20
    with pytest.raises(ValueError, match="40 prompts of 20 bytes'; the text has 2"):
        text.draw_prompts(
            ["One thing is enough for a short text."], 40, 20, np.random.default_rng(0)
        )


def test_a_verdict_can_be_yes_level_and_no():
    """On both sides of chance, in accuracy and on the frontier."""

    def row(method, place, high):
        spread = np.asarray([-0.01, 0.0, 0.01])
        values = {name: high + spread for name in ("accuracy/agreed", "accuracy/divided")}
        values |= {"gold": high - spread, "kl": np.ones(3)}
        return Row("text", place, method, 0.1, values)

    for high, holds in ((0.9, "yes"), (0.5, "level"), (0.1, "no")):
        rows = [
            row(method, place, 0.5 if method == "dpo" else high)
            for method in METHODS
            for place in claims.PLACES
        ]
        base = {place: np.zeros(3) for place in claims.PLACES}
        found = [c for c in claims.of_division(rows, base, "text") if " dpo" in c.name]
        found += claims.overall(rows, base)
        assert len(found) == 4 + 12 + 6
        assert {claim.holds for claim in found} == {holds}
    values = {name: np.ones(1) for name in ("accuracy/agreed", "accuracy/divided", "gold", "kl")}
    for seen, holds in ((1.0, "one seed"), (np.nan, "not comparable")):
        values |= {"accuracy/agreed": np.asarray([seen])}
        rows = [Row("text", "held_out", method, 0.1, values) for method in METHODS]
        assert claims.of_division(rows, {"held_out": np.zeros(1)}, "text")[0].holds == holds
    assert claims.index_knows("text", 0.3, 100).holds == "yes"
    assert claims.index_knows("text", 0.1, 100).holds == "no"


def test_gold_between_betas_is_linear():
    """Of two seeds: base -5 to (1, -4) to (3, -3), and base -6 to (2, -4) to (4, -3)."""
    curve = [
        Row("text", "held_out", "dpo", beta, {"kl": np.asarray(kl), "gold": np.asarray(gold)})
        for beta, kl, gold in ((1.0, [1.0, 2.0], [-4.0, -4.0]), (0.1, [3.0, 4.0], [-3.0, -3.0]))
    ]
    base = np.asarray([-5.0, -6.0])
    for kl, gold in (([0.5, 1.0], [-4.5, -5.0]), ([2.0, 3.0], [-3.5, -3.5])):
        np.testing.assert_allclose(claims.gold_at(np.asarray(kl), curve, base), gold)
    np.testing.assert_allclose(
        claims.mean_gold(np.asarray([2.0, 2.0]), curve, base), [-3.75, -4.5], rtol=1e-6
    )
    shorter = [row._replace(values=row.values | {"kl": np.asarray([2.0, 5.0])}) for row in curve]
    np.testing.assert_allclose(claims.common_divergence([curve, shorter]), [2.0, 4.0])
