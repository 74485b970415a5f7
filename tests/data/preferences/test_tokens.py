"""Preference records as token ids: beginnings, boundaries, ends and lengths."""

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctrl_jax.data import PreferenceRecord, Tokenizer, read_preferences, tokenize_preferences
from ctrl_jax.data.preferences.record import common_length, shared_beginning
from ctrl_jax.data.preferences.rows import pack_pairs
from tests.oracles import trl_tokens
from tests.oracles.small_tokenizers import KINDS, build

BOS, EOS = 256, 257


class Bytes:
    """Bytes, with what a text begins and ends with by convention."""

    def __init__(self, begin=(BOS,), end=(), bos: int | None = BOS, eos: int | None = EOS):
        self.begin, self.end, self.bos_token_id, self.eos_token_id = begin, end, bos, eos
        self.calls = 0

    def __call__(self, texts, /, *, add_special_tokens):
        self.calls += 1
        begin, end = (self.begin, self.end) if add_special_tokens else ((), ())
        return {"input_ids": [[*begin, *text.encode(), *end] for text in texts]}


class Chat(Bytes):
    """Writes roles as one letter; "#" closes a turn, `tail` follows it."""

    def __init__(self, tail="#\n", **options):
        super().__init__(**options)
        self.tail = tail

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt, chat_template):
        assert not tokenize
        if any(message["content"] == "refused" for message in conversation):
            raise RuntimeError("roles must\nalternate")
        tail = self.tail if chat_template is None else chat_template
        text = "".join(f"{m['role'][0]}:{m['content']}{tail}" for m in conversation)
        return text + "a:" if add_generation_prompt else text


def ids(text):
    return list(text.encode())


def only(tokenizer, *record: Any, max_length: Any = 100, **options):
    (pair,) = tokenize_preferences(
        tokenizer, [PreferenceRecord(*record)], max_length=max_length, **options
    )
    return pair


def test_a_pair_of_strings():
    assert isinstance(Bytes(), Tokenizer)
    pair = only(Bytes(), "ab", "c", "dé", 0.5, 0.25)
    assert pair == ([BOS, *ids("ab")], [*ids("c"), EOS], [*ids("dé"), EOS], 0.5, 0.25)


@pytest.mark.parametrize(
    ("tokenizer", "begin"),
    [
        (Bytes(), [BOS]),
        (Bytes(end=(EOS,)), [BOS]),  # its own end is not put after the prompt, nor twice
        (Bytes(begin=(), end=(EOS,)), []),
        (Bytes(begin=(7, 8), bos=None), [7, 8]),  # a beginning of several tokens
        (Bytes(begin=(), bos=EOS), []),  # one token for both, as GPT-2 has it
        (Bytes(begin=(), bos=None), []),
    ],
)
def test_what_begins_and_ends_a_text_stands_there_once(tokenizer, begin):
    pair = only(tokenizer, "ab", "c", "d")
    assert pair[:3] == ([*begin, *ids("ab")], [*ids("c"), EOS], [*ids("d"), EOS])


class Written(Bytes):
    """Reads "<" as BOS and ">" as EOS wherever a text writes them."""

    def __call__(self, texts, /, *, add_special_tokens):
        marks = {ord("<"): BOS, ord(">"): EOS}
        found = super().__call__(texts, add_special_tokens=add_special_tokens)["input_ids"]
        return {"input_ids": [[marks.get(n, n) for n in part] for part in found]}


def written(text):
    return Written()([text], add_special_tokens=False)["input_ids"][0]


def test_what_the_text_writes_itself_is_not_doubled():
    expected = ([BOS, *ids("ab")], [*ids("c"), EOS], [*ids("d"), EOS])
    for prompt, chosen in itertools.product(("ab", "<ab", "<<ab"), ("c", "c>", "c>>")):
        assert only(Written(), prompt, chosen, "d")[:3] == expected


def test_a_prompt_without_a_token_begins_with_bos_or_is_left_out():
    assert only(Bytes(), "", "c", "d").prompt == [BOS]
    assert only(Bytes(begin=()), "", "c", "d").prompt == [BOS]
    with pytest.raises(ValueError, match="no pair is left; 1 of 1 pairs: left out: its prompt has"):
        only(Bytes(begin=(), bos=None), "", "c", "d")


class Twos(Bytes):
    """Two neighboring letters are one token, from the left: tokens depend on what follows."""

    def __call__(self, texts, /, *, add_special_tokens):
        begin = self.begin if add_special_tokens else ()
        pairs = [[text[n : n + 2] for n in range(0, len(text), 2)] for text in texts]
        return {"input_ids": [[*begin, *(self.ids(p) for p in part)] for part in pairs]}

    @staticmethod
    def ids(letters):
        return 1000 * ord(letters[0]) + ord(letters[1:] or "\0")


def test_where_tokens_merge_the_boundary_moves_back_and_no_letter_is_lost():
    a, two = Twos(), Twos.ids
    with pytest.warns(UserWarning, match=r"1 of 1 pairs: its prompt ends earlier.*\(record 0\)"):
        pair = only(a, "abc", "de", "fgh")
    assert pair[:3] == ([BOS, two("ab")], [two("cd"), two("e"), EOS], [two("cf"), two("gh"), EOS])
    with pytest.warns(UserWarning, match="ends earlier"):  # one of the two merges
        pair = only(a, "abc", "d", "\0")
    assert pair[:3] == ([BOS, two("ab")], [two("cd"), EOS], [two("c\0"), EOS])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert only(a, "ab", "cd", "e").prompt == [BOS, two("ab")]


LONG = ("abcdef", "ghi", "jk")


@pytest.mark.parametrize(
    ("limits", "prompt", "chosen", "rejected"),
    [
        ((11, None, "keep_end"), "<abcdef", "ghi>", "jk>"),
        ((10, None, "keep_end"), "<abcdef", "ghi", "jk>"),
        ((9, None, "keep_end"), "<abcdef", "gh", "jk"),
        ((8, None, "keep_end"), "<abcdef", "g", "j"),
        ((11, 7, "keep_end"), "<abcdef", "ghi>", "jk>"),
        ((11, 4, "keep_end"), "<def", "ghi>", "jk>"),
        ((11, 4, "keep_start"), "<abc", "ghi>", "jk>"),
        ((6, 4, "keep_end"), "<def", "gh", "jk"),
        ((5, 2, "keep_end"), "<f", "ghi", "jk>"),
        ((5, 1, "keep_end"), "<", "ghi>", "jk>"),
    ],
)
@pytest.mark.filterwarnings("ignore:preferences. 1 of 1 pairs. (its prompt|an answer) is cut")
def test_prompts_are_cut_after_their_beginning_and_answers_at_their_end(
    limits, prompt, chosen, rejected
):
    length, prompt_length, truncation = limits
    options = {"max_prompt_length": prompt_length, "truncation": truncation}
    pair = only(Written(), *LONG, max_length=length, **options)
    assert pair[:3] == tuple(written(text) for text in (prompt, chosen, rejected))


def test_a_cut_prompt_keeps_whatever_begins_it():
    with pytest.warns(UserWarning, match="1 of 1 pairs: its prompt is cut to max_prompt_length"):
        pair = only(Bytes(begin=(7, 8), bos=None), "abcd", "e", "f", max_prompt_length=4)
    assert pair.prompt == [7, 8, *ids("cd")]
    with pytest.warns(UserWarning, match="is cut"):  # BOS of the text's own
        pair = only(Written(begin=()), "<abcd", "e", "f", max_prompt_length=3)
    assert pair.prompt == [BOS, *ids("cd")]
    with pytest.warns(UserWarning, match="is cut"):
        pair = only(Bytes(begin=()), "abcd", "e", "f", max_prompt_length=3)
    assert pair.prompt == ids("bcd")


def test_pairs_of_which_nothing_would_be_left_are_left_out_with_their_places():
    records = [
        PreferenceRecord("abcdefg", "h", "i"),
        PreferenceRecord("ab", "cdefgh", "cdefghi", place="pairs.jsonl:7"),
        PreferenceRecord("ab", "c", "d", 0.0),
        *[PreferenceRecord("abcdefg", "h", "i")] * 9,
    ]
    with pytest.warns(UserWarning) as caught:
        pairs = tokenize_preferences(Bytes(), records, max_length=8)
    assert [pair.weight for pair in pairs] == [0.0]
    full, equal = sorted(str(warning.message) for warning in caught)[::-1]
    assert full.startswith("preferences: 10 of 12 pairs: left out: the prompt leaves")
    assert full.endswith(
        "(record 0, record 3, record 4, record 5, record 6, record 7, record 8, record 9 …)"
    )
    assert equal.startswith("preferences: 1 of 12 pairs: left out: its answers have the same")
    assert equal.endswith("(pairs.jsonl:7)")


def some_records(number, letters="abc"):
    random = np.random.default_rng(0)
    texts = ["".join(random.choice([*letters], random.integers(1, 12))) for _ in range(3 * number)]
    prompts, chosen, rejected = (texts[n::3] for n in range(3))
    return list(map(PreferenceRecord, prompts, chosen, rejected))


def check_answer(tokenizer, prompt, answer, text, length):
    """What is kept is one piece of the whole text, and its end unless the answer is cut."""
    (whole,) = tokenizer([text], add_special_tokens=True)["input_ids"]
    ends = answer[-1] == EOS
    assert answer.count(EOS) == ends
    assert len(prompt) + len(answer) <= length
    assert ends or len(prompt) + len(answer) == length
    kept = [*prompt[len(tokenizer.begin) :], *(answer[:-1] if ends else answer)]
    places = range(len(whole) - len(kept) + 1)
    assert any(whole[n : n + len(kept)] == kept for n in (places[-1:] if ends else places))


@pytest.mark.filterwarnings("ignore:preferences")
@pytest.mark.parametrize("tokenizer", [Bytes(), Twos(), Bytes(begin=(), bos=None)])
@pytest.mark.parametrize("limits", [(30, None), (9, None), (9, 4), (3, 2)])
def test_laws_of_every_pair(tokenizer, limits):
    length, prompt_length = limits
    kept = 0
    for record in some_records(100):
        try:
            pair = only(tokenizer, *record, max_length=length, max_prompt_length=prompt_length)
        except ValueError as error:
            assert "no pair is left" in str(error)
            continue
        kept += 1
        assert pair.prompt and pair.chosen and pair.rejected and pair.chosen != pair.rejected
        assert len(pair.prompt) <= (prompt_length or length)
        for answer, text in ((pair.chosen, record.chosen), (pair.rejected, record.rejected)):
            check_answer(tokenizer, pair.prompt, answer, f"{record.prompt}{text}", length)
    assert kept > 25


def test_a_pair_does_not_depend_on_the_others(monkeypatch):
    records = some_records(30, letters="abcdefgh")
    expected = [only(Bytes(), *record) for record in records]
    monkeypatch.setattr("ctrl_jax.data.preferences.tokens.CHUNK", 7)
    tokenizer, done = Bytes(), []
    found = tokenize_preferences(tokenizer, records, max_length=100, progress=done.append)
    assert found == expected
    assert done == [7, 14, 21, 28, 30]
    assert tokenizer.calls == 3 * 5 + 2, "texts are tokenized together"


forgets_bos = pytest.mark.filterwarnings("ignore:preferences. the chat template")


def says(role, content):
    return {"role": role, "content": content}


QUESTION, YES, NO = says("user", "Is it?"), says("assistant", "Yes"), says("assistant", "No")


@forgets_bos
def test_a_conversation_ends_where_its_template_closes_the_turn():
    """What follows the closing token is never generated, and is no part of the answer."""
    pair = only(Chat(), [QUESTION], [YES], [NO])
    assert pair[:3] == ([BOS, *ids("u:Is it?#\na:")], ids("Yes#"), ids("No#"))
    pair = only(Chat(tail=" # \n"), [QUESTION], [YES], [NO])
    assert pair.chosen == ids("Yes #")


@forgets_bos
def test_a_template_that_closes_no_turn_is_closed_by_eos():
    for tail in ("", "\n"):
        pair = only(Chat(tail=tail), [QUESTION], [YES], [NO])
        assert pair[1:3] == ([*ids("Yes"), EOS], [*ids("No"), EOS])
    with pytest.raises(ValueError, match="eos_token_id: received None"):
        only(Chat(tail="", eos=None), [QUESTION], [YES], [NO])
    assert only(Chat(eos=None), [QUESTION], [YES], [NO]).chosen == ids("Yes#")


class WrittenChat(Written, Chat):
    pass


@forgets_bos
def test_an_end_that_both_the_message_and_the_template_write_is_there_once():
    said = says("assistant", "Yes>")
    pair = only(WrittenChat(tail=">\n"), [QUESTION], [said], [NO])
    assert pair[1:3] == ([*ids("Yes"), EOS], [*ids("No"), EOS])


@forgets_bos
def test_an_answer_may_be_several_messages():
    more = says("user", "Why?")
    pair = only(Chat(), [QUESTION], [YES, more, NO], [NO])
    assert pair.chosen == ids("Yes#\nu:Why?#\na:No#")


@forgets_bos
def test_a_template_given_is_used_and_one_that_would_not_be_is_refused():
    pair = only(Chat(), [QUESTION], [YES], [NO], chat_template="!")
    assert pair[:2] == ([BOS, *ids("u:Is it?!a:")], ids("Yes!"))
    with pytest.raises(ValueError, match="chat_template: received '!'; the records are strings"):
        only(Chat(), "a", "b", "c", chat_template="!")


@pytest.mark.filterwarnings("ignore:preferences. the chat template closes")
def test_a_beginning_that_the_template_forgets_is_added_with_a_warning():
    with pytest.warns(UserWarning, match=r"template does not write \[256\], which begins a text"):
        assert only(Chat(), [QUESTION], [YES], [NO]).prompt[0] == BOS


@forgets_bos
def test_what_a_template_refuses_is_named():
    refused = PreferenceRecord([says("user", "refused")], [YES], [NO], place="pairs.jsonl:3")
    good = PreferenceRecord([QUESTION], [YES], [NO])
    expected = r"pairs.jsonl:3: roles: received .*'user'.*; .* refuses it \(roles must alternate\)"
    for records in ([refused], [good, refused]):
        with pytest.raises(ValueError, match=expected):
            tokenize_preferences(Chat(begin=()), records, max_length=50)
    with pytest.raises(ValueError, match="received 'Bytes'; it has no apply_chat_template"):
        tokenize_preferences(Bytes(), [good], max_length=50)


def test_arguments_that_mean_nothing_are_refused():
    record = ("ab", "c", "d")
    for options, message in (
        ({"max_length": 1}, "max_length: received 1; .* of at least 2"),
        ({"max_length": 5, "max_prompt_length": 5}, "max_prompt_length: received 5; .* = 4"),
        ({"max_length": 5, "max_prompt_length": 0}, "max_prompt_length: received 0"),
        ({"truncation": "keep_start"}, "prompts are cut only to max_prompt_length"),
    ):
        with pytest.raises(ValueError, match=message):
            only(Bytes(), *record, **options)
    with pytest.raises(ValueError, match="eos_token_id: received None; it has no EOS"):
        only(Bytes(eos=None), *record)
    with pytest.raises(ValueError, match=r"records: received \[\]; there must be one"):
        tokenize_preferences(Bytes(), [], max_length=9)
    mixed = [PreferenceRecord(*record), PreferenceRecord([QUESTION], [YES], [NO])]
    with pytest.raises(
        ValueError, match="received '1 of strings among 2'; they must be of one kind"
    ):
        tokenize_preferences(Bytes(), mixed, max_length=9)


def test_an_unknown_truncation_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"truncation: received 'middle'.*keep_end\|keep_start"):
        only(Bytes(), "ab", "c", "d", truncation="middle")


@pytest.mark.parametrize("lengths", [(0, 0), (0, 5), (5, 5), (7, 5), (6, 7)])
def test_the_common_length_is_that_of_a_search_item_by_item(lengths):
    random = np.random.default_rng(1)
    for _ in range(50):
        parts = [random.integers(0, 2, length).tolist() for length in (*lengths, 6)]
        expected = len(
            [*itertools.takewhile(lambda same: len({*same}) == 1, zip(*parts, strict=False))]
        )
        assert common_length(*parts) == expected


def test_from_a_file_to_rows_and_back(tmp_path):
    lines = [dict(zip(("prompt", "chosen", "rejected"), r, strict=False)) for r in some_records(9)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line | {"weight": n}) for n, line in enumerate(lines)))
    rows = pack_pairs(tokenize_preferences(Bytes(), read_preferences(path), max_length=40))
    assert sorted(rows.weights[rows.numbers >= 0]) == [*range(9)]
    for row, pair in np.argwhere(rows.numbers >= 0):
        line = lines[rows.numbers[row, pair]]
        for answer, name in enumerate(("chosen", "rejected")):
            targets = rows.targets[row][rows.answers[row] == 2 * pair + answer]
            assert targets.tolist() == [*line[name].encode(), EOS]


# With transformers: every kind of tokenizer, against its own words and against TRL.
STORED = json.loads(Path(trl_tokens.__file__).with_suffix(".json").read_text())
CASES = [(kind, name) for kind in KINDS for name in trl_tokens.records(kind)]


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("transformers")
    return {kind: build(kind) for kind in KINDS}


def record_of(kind, name):
    prompt, chosen, rejected = trl_tokens.records(kind)[name]
    if prompt is not None:
        return prompt, chosen, rejected
    shared = shared_beginning(chosen, rejected)
    return chosen[:shared], chosen[shared:], rejected[shared:]


def as_ours(kind, parts, tokenizer):
    """TRL's ids with the differences that the module states."""
    prompt, chosen, rejected = parts
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if kind in ("zephyr", "plain"):  # the template writes no BOS
        prompt = [bos, *prompt]
    if prompt[:2] == [bos, bos]:  # the text writes BOS, and the tokenizer too
        prompt = prompt[1:]
    answers = [chosen, rejected]
    if kind in ("qwen", "zephyr", "gemma", "thinking", "plain"):
        answers = [answer[:-1] for answer in answers]  # the line feed after the turn
    if kind == "both":  # the text's EOS and the tokenizer's
        answers = [answer[:-1] for answer in answers]
    if kind == "plain":  # nothing closes the turn
        answers = [[*answer, eos] for answer in answers]
    return (prompt, *answers)


@pytest.mark.filterwarnings("ignore:preferences")
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_tokens_are_those_of_trl_but_for_the_stated_differences(kind, name, theirs):
    pair = only(theirs[kind], *record_of(kind, name), max_length=1000)
    assert pair[:3] == as_ours(kind, STORED[kind][name], theirs[kind])


@pytest.mark.filterwarnings("ignore:preferences")
@pytest.mark.parametrize("name", trl_tokens.TEXTS)
def test_answers_are_cut_where_trl_cuts_them(name, theirs):
    expected = STORED["cut"][name]
    record = record_of("gpt2", name)
    if expected is None:
        with pytest.raises(ValueError, match="no pair is left"):
            only(theirs["gpt2"], *record, max_length=trl_tokens.CUT)
    else:
        assert [*only(theirs["gpt2"], *record, max_length=trl_tokens.CUT)[:3]] == expected


@pytest.mark.filterwarnings("ignore:preferences")
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_whole_text_is_there_once(kind, name, theirs):
    tokenizer = theirs[kind]
    prompt, chosen, rejected = record_of(kind, name)
    pair = only(tokenizer, prompt, chosen, rejected, max_length=1000)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    adds_bos = KINDS[kind][2][0]
    for answer, words in ((pair.chosen, chosen), (pair.rejected, rejected)):
        text = [*pair.prompt, *answer]
        if adds_bos:
            assert text.count(bos) == 1 and text[0] == bos
        if KINDS[kind][4] is None:
            start, end = KINDS[kind][:2]
            plain = (prompt + words).removeprefix(start).removesuffix(end)
            assert tokenizer.decode(text, skip_special_tokens=True) == plain
            assert answer.count(eos) == 1 and answer[-1] == eos == tokenizer.pad_token_id
        elif kind != "gemma":
            turns = sum(message["role"] == "assistant" for message in words)
            others = len(words) - turns
            assert answer.count(eos) == (1 if kind == "plain" else turns + others)
            assert answer[-1] == eos


def test_the_stored_values_are_those_of_the_installed_trl(theirs):
    pytest.importorskip("trl", minversion="1.0")
    assert trl_tokens.values() | {"cut": trl_tokens.cut_values()} == STORED
