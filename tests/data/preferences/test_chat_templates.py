"""What chat templates do to conversations: the clock, lost words, other ends, no end."""

import warnings
from typing import Any

import pytest

from ctrl_jax.data import PreferenceRecord, tokenize_preferences
from ctrl_jax.data.preferences import texts
from ctrl_jax.data.preferences.tokens import answer_end
from tests.oracles.small_tokenizers import CHATML, LLAMA3, build

CLOCK = "{{ strftime_now('%d %b %Y') }}" + CHATML
NO_THOUGHTS = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
TRIMMED = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + CHATML
RANDOM = "{{ range(10**4) | random }}" + CHATML


def says(*contents) -> list[Any]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]


def record(*contents, rejected="No"):
    *prompt, chosen = says(*contents)
    return PreferenceRecord(prompt, [chosen], [chosen | {"content": rejected}], place="pairs:1")


@pytest.fixture(scope="module")
def qwen():
    pytest.importorskip("transformers")
    return build("qwen")


@pytest.fixture
def other_tokenizer():
    pytest.importorskip("transformers")
    return build("qwen")


@pytest.fixture
def tokenize(qwen):
    def run(template, *records, **options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pairs = tokenize_preferences(
                qwen, records, max_length=400, chat_template=template, **options
            )
        said = [str(w.message).removeprefix("preferences: ") for w in caught]
        return [qwen.decode([*pair.prompt, *pair.chosen]) for pair in pairs], said

    return run


def test_the_clock_is_always_at_the_date_that_is_given(tokenize):
    (text,), said = tokenize(CLOCK, record("Is It?", "Yes"))
    assert text.startswith("26 Jul 2024<|im_start|>")
    assert said == [
        "the chat template reads the clock: it is shown 2024-07-26 (the option date), always"
    ]
    (text,), _ = tokenize(CLOCK, record("Is It?", "Yes"), date="2031-02-03")
    assert text.startswith("03 Feb 2031<|im_start|>")
    inside = (
        "{% macro a(f) %}{{ strftime_now(f) }}{% endmacro %}\n{{ a('%A %-d/%m/%y %H:%M 5%%') }}"
    )
    (text,), _ = tokenize(f"\n {inside}{CHATML}", record("Is It?", "Yes"), date="2031-02-03T04:05")
    assert text.startswith("\nMonday 3/02/31 04:05 5%<|im_start|>")
    assert tokenize(CHATML, record("Is It?", "Yes"))[1] == []


def test_what_messages_say_and_the_text_does_not_is_counted(tokenize):
    thought = "<think>blue</think>Yes"
    (text,), said = tokenize(NO_THOUGHTS, record("Is It?", thought, "sky?", "blue"))
    assert "think" not in text
    assert said == [f"1 of 1 pairs: {texts.LACKS} (pairs:1)"]
    _, said = tokenize(TRIMMED, record("Is It?", " Yes\n"), record("Is It?", "Yes"))
    assert said == [f"1 of 2 pairs: {texts.STRIPPED} (pairs:1)"]
    assert tokenize(CHATML, record("Is It?", thought, "sky?", " blue"))[1] == []


def test_answers_that_become_equal_are_not_blamed_on_the_length(tokenize):
    equal = record("Is It?", "<think>blue</think>Yes", rejected="<think>grey</think>Yes")
    texts, said = tokenize(NO_THOUGHTS, equal, record("Is It?", "Yes"))
    assert len(texts) == 1 and "1 of 2 pairs: left out: its answers have the same tokens (" in (
        " ".join(said)
    )
    with pytest.raises(ValueError, match=r"no pair is left; .*same tokens .*; repair the data"):
        tokenize(NO_THOUGHTS, equal)


def test_an_answer_ends_where_the_template_ends_it(qwen, other_tokenizer):
    pair, other = record("Is It?", "Yes"), other_tokenizer
    close = qwen.convert_tokens_to_ids("<|im_end|>")
    assert answer_end(qwen, [pair]) == qwen.eos_token_id == close
    other.eos_token = "<|im_start|>"
    assert other.eos_token_id != close
    assert answer_end(other, [pair]) == close
    said = rf"closes answers by '<.im_end.>' \({close}\), not by the tokenizer's EOS"
    with pytest.warns(UserWarning, match=said):
        (found,) = tokenize_preferences(other, [pair], max_length=99)
    assert found.chosen[-1] == close
    strings = [PreferenceRecord("Is It?", " Yes", " No")]
    assert answer_end(other, strings) == other.eos_token_id
    plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert answer_end(other, [pair], chat_template=plain) == other.eos_token_id


def test_a_template_that_does_not_end_is_stopped(tokenize, monkeypatch):
    monkeypatch.setattr(texts, "SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"pairs:1: roles: .* not done with it after 0.2 seconds"):
        tokenize(ENDLESS, record("Is It?", "Yes"))
    # Of one record only.
    template = "{% if messages[0].content == 'sky?' %}" + ENDLESS.replace(
        CHATML, "{% endif %}" + CHATML
    )
    (text,), said = tokenize(
        template, record("Is It?", "Yes"), record("sky?", "blue"), leave_out_faulty=True
    )
    assert "Is It?" in text
    assert said == ["1 of 2 pairs: left out: the chat template refuses it (pairs:1)"]


def test_templates_that_are_none(qwen, tokenize, monkeypatch):
    pair = record("Is It?", "Yes")
    for template, message in (
        (RANDOM, "chat_template: .* it renders one conversation differently each time"),
        ("{{ 'a' * 10**8 }}" + CHATML, r"refuses it \(it writes 1000000\d\d characters of it"),
        ("{{ 9**9**9 }}" + CHATML, "chat_template: .* powers or numbers of which the arithmetic"),
        ("{{ 'a' * 99999999999 }}" + CHATML, "chat_template: .* of which the arithmetic may not"),
        ("{% for m in", "chat_template: .* it is no template in Jinja"),
        ("nothing", "chat_template: received 'nothing…'; it leaves out what the assistant says"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenize(template, pair)
    monkeypatch.setattr(qwen, "chat_template", None)
    monkeypatch.setattr(qwen, "name_or_path", "models/base", raising=False)
    expected = "tokenizer: received 'models/base'; it has no chat template, .*; give chat_template"
    with pytest.raises(ValueError, match=expected):
        tokenize(None, pair)
    assert len(tokenize(CHATML, pair)[0]) == 1


def test_a_refused_conversation_is_left_out_where_asked_for(tokenize):
    template = "{% if messages[0].content == 'sky?' %}{{ raise_exception('no') }}{% endif %}"
    refused, good = record("sky?", "blue"), record("Is It?", "Yes")
    texts, said = tokenize(template + CHATML, refused, good, refused, leave_out_faulty=True)
    assert len(texts) == 1
    assert said == ["2 of 3 pairs: left out: the chat template refuses it (pairs:1, pairs:1)"]
    for records in ((refused, good), (good, refused)):
        with pytest.raises(ValueError, match=r"refuses it \(no\)"):
            tokenize(template + CHATML, *records)
    with pytest.raises(ValueError, match=r"refuses it \(no\)"):
        tokenize(template + CHATML, refused, leave_out_faulty=True)


def test_llama_trims(tokenize):
    _, said = tokenize(LLAMA3, record("Is It?", "Yes "))
    assert any(texts.STRIPPED in note for note in said)
