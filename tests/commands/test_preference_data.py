"""From a user's files to rows: what is held out, what is said, under which names."""

import json
import re
import warnings

import numpy as np
import pytest

from ctrl_jax.commands.preference.config import Config, Evaluation, Texts
from ctrl_jax.commands.preference.data import load_data
from ctrl_jax.commands.preference.held_out import hold_out
from ctrl_jax.commands.preference.packing import pack
from ctrl_jax.data import TokenPair, read_preferences
from ctrl_jax.networks import DecoderConfig, Rotary
from ctrl_jax.runtime import RunWarning, validate
from tests.commands.byte_model import Bytes

NETWORK = DecoderConfig(258, 8, 1, 2, 2, 4, 8, Rotary(base=10.0))


class Chat(Bytes):
    """Has a template for conversations, or not."""

    name_or_path = "models/base"

    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt, chat_template):
        end = chat_template or self.chat_template
        text = "".join(f"{m['role'][0]}:{m['content']}{end}" for m in conversation)
        return f"{text}a:" if add_generation_prompt else text


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def says(role, content):
    return [{"role": role, "content": content}]


def conversations(number=8):
    return [
        {
            "prompt": says("user", f"q{n}"),
            "chosen": says("assistant", "yes"),
            "rejected": says("assistant", "no"),
        }
        for n in range(number)
    ]


def load(path, tokenizer=None, evaluation=None, devices=1, **texts):
    options = Texts(**{"max_length": 64, **texts})
    evaluation = evaluation or Evaluation(prompts=0)
    where = {"parts": 1, "devices": devices, "seed": 0, "show": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_data(
            str(path), tokenizer or Bytes(), NETWORK, options, evaluation, batch=2, **where
        )
    assert all(issubclass(warning.category, RunWarning) for warning in caught)
    return data, [str(warning.message) for warning in caught]


def questions(records):
    return {re.search(r"Q\d+", record.prompt + record.chosen)[0] for record in records}  # pyright: ignore


TEMPLATES = {
    "short": "Q{n}? A: {a}",
    "a word shared": "Q{n}? A: the {a}",
    "no turn": "Q{n} is it {a}",
    "a line": "Q{n}?\n{a}",
    "transcript": "\n\nHuman: Q{n}?\n\nAssistant: {a}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_no_question_without_a_prompt_is_trained_on_and_held_out(kind, tmp_path):
    """40 questions, two lines each, whose answers may begin alike, by the letter or by the word."""
    answers = (("red sky", "rough"), ("re dark", "re light"))
    records = [
        {key: TEMPLATES[kind].format(n=n, a=a) for key, a in zip(("chosen", "rejected"), pair)}  # noqa: B905
        for n in range(40)
        for pair in answers
    ]
    for seed in range(5):
        found = read_preferences(write(tmp_path / "a", records))
        train, held = hold_out(found, 0.3, seed)
        assert not questions(train) & questions(held)
        assert len(train) + len(held) == 80 and 12 <= len(questions(held)) <= 14
        for record in found:
            prompt, chosen = str(record.prompt), str(record.chosen)
            assert not prompt.endswith(" ") and (chosen[0] in " \n" or prompt.endswith("\n"))


def test_one_prompt_of_many_records_stays_in_training(tmp_path):
    records = [{"prompt": f"q{min(n, 9)}", "chosen": f"a{n}", "rejected": "b"} for n in range(60)]
    found = read_preferences(write(tmp_path / "a", records))
    assert all(len(hold_out(found, 0.2, seed)[1]) == 2 for seed in range(20))


def test_what_was_read_is_said_before_training(tmp_path):
    records = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no", "id": n} for n in range(20)]
    bad = [records[0] | {"chosen": "no"}, records[1] | {"rejected": ""}]
    path = write(tmp_path / "a.jsonl", [*records[:3], *bad, *records[3:]])
    data, said = load(path, leave_out_faulty=True)
    assert data.summary == [
        f"data: 22 records in {path}, 2 left out",
        "data: left out: 1 pairs of equal answers (line 4)",
        "data: left out: 1 faulty records (line 5)",
        "data: not read: the keys id",
        "train: 18 pairs of 189 tokens, in 9 rows of 64 (33% filled)",
        "evaluation: 2 pairs of 21 tokens, in 1 rows of 64 (33% filled)",
    ]
    assert [text.split(";")[0].removeprefix(f"data {path}: ") for text in said] == [
        "1 pairs of equal answers are left out, line 4",
        "1 faulty records are left out, line 5",
    ]
    assert data.counts["records/read"] == 22 and data.counts["records/left_out"] == 2
    with pytest.raises(ValueError, match=r"a.jsonl:5: .*--texts.leave-out-faulty"):
        load(path)


def test_what_is_left_out_as_tokens_or_not_evaluated_is_said(tmp_path):
    long = [{"prompt": "q" * 80, "chosen": "yes", "rejected": "no"}]
    some = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(9)]
    train, other = write(tmp_path / "a", some + long), write(tmp_path / "b", some)
    data, _ = load(train, evaluation=Evaluation(pairs=4, prompts=0), evaluation_data=str(other))
    assert data.summary[2] == "not used: 5 records for evaluation, beyond --evaluation.pairs"
    assert data.summary[4] == "train: 1 more are left out; the warnings say why"
    assert data.counts["records/left_out"] == 6


def test_the_digest_is_of_the_pairs_on_any_mesh(tmp_path):
    records = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(9)]
    first, weighed = (
        write(tmp_path / name, [r | {"weight": weight} for r in records])
        for name, weight in (("a", 1.0), ("b", 2.0))
    )
    digests = [load(first, devices=devices)[0].digest for devices in (1, 2)]
    assert digests[0] == digests[1] != load(weighed)[0].digest


def test_evaluation_data_is_named_and_compared(tmp_path):
    records = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(9)]
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", records[:7])
    write(tmp_path / "set" / "test.jsonl", records[5:])
    data, said = load(tmp_path / "set", evaluation_data=str(tmp_path / "set"))
    assert (data.counts["pairs/train"], data.counts["pairs/evaluation"]) == (7, 4)
    assert "data: not read: test beside it" in data.summary
    (note,) = said
    assert note.startswith(
        "texts.evaluation_data: the prompts of 2 of its 4 pairs are also trained"
    )
    with pytest.raises(ValueError, match=r"^texts.evaluation_data: received .*No such file"):
        load(tmp_path / "set", evaluation_data=str(tmp_path / "absent"))


def test_a_model_without_a_chat_template(tmp_path):
    path = write(tmp_path / "a", conversations())
    expected = "^model: received 'models/base'; .* no chat template.*; give --texts.chat-template"
    with pytest.raises(ValueError, match=expected):
        load(path, Chat(None))
    (tmp_path / "template").write_text("!")
    data, said = load(path, Chat(None), chat_template=str(tmp_path / "template"))
    assert data.template == "!", "kept: the file may be another when the model is saved"
    assert data.end == ord("!") and (data.train.targets == ord("!")).sum() == 14
    assert len(said) == 2 and "closes answers by '!' (33), not by the tokenizer's EOS" in said[1]
    with pytest.raises(ValueError, match=r"^texts.chat_template: .*cannot be read"):
        load(path, Chat(None), chat_template=str(tmp_path / "absent"))
    strings = write(tmp_path / "b", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
    with pytest.raises(ValueError, match=r"^texts.chat_template: .*strings, which no template"):
        load(strings, chat_template=str(tmp_path / "template"), evaluation_data=str(strings))


def test_errors_are_under_the_names_of_the_options(tmp_path):
    path = write(tmp_path / "a", conversations())
    for tokenizer, options, message in (
        (Chat("#"), {"max_length": 4, "max_prompt_length": 5}, "^texts.max_prompt_length: rec"),
        (Chat("#"), {"max_length": 4}, "^data: received .*no pair is left.*raise max_length"),
        (
            Chat("#"),
            {"row_length": 7},
            r"^texts.row_length: received 7; a pair takes \d+ tokens; give",
        ),
        (Bytes(), {}, "^model: received 'Bytes'; it has no apply_chat_template"),
    ):
        with pytest.raises(ValueError, match=message):
            load(path, tokenizer, **options)
    with pytest.raises(ValueError, match=r"texts.date: received '26 July'; .* ISO"):
        validate(Config("a", "b", texts=Texts(date="26 July")))


def test_a_long_pair_goes_with_short_ones():
    generator = np.random.default_rng(0)
    sizes = np.minimum(generator.lognormal(4, 0.8, (2, 400)).astype(int) + 2, 600)
    pairs = [[TokenPair([1], [2] * (n // 2 + 1), [3] * (n // 2 + 1)) for n in s] for s in sizes]
    longest = max(pair.tokens for some in pairs for pair in some)
    for devices, least in ((1, 0.9), (2, 0.75)):
        packing = pack(pairs, Texts(), batch=32, parts=2, devices=devices)
        train = packing.rows[0]
        assert train.numbers.shape[1] >= 4 and packing.batch * train.numbers.shape[1] == 32
        assert train.tokens.shape[1] <= 2 * (longest + 64)
        assert (train.texts >= 0).mean() > least, "rows are filled"
