"""A user's preference file, and the mistakes in one."""

import json
import math

import pytest

from ctrl_jax.data import read_preferences
from ctrl_jax.data.preferences.record import PreferenceRecord, shared_beginning
from ctrl_jax.runtime import RunWarning
from tests.runtime.processes import run_python

GOOD = {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}


def says(role, content):
    return {"role": role, "content": content}


QUESTION, YES, NO = says("user", "Is it?"), says("assistant", "Yes."), says("assistant", "No.")
CHAT = {"prompt": [QUESTION], "chosen": [YES], "rejected": [NO]}


def write(path, *records):
    path = path / "pairs.jsonl"
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_strings_conversations_and_numbers(tmp_path):
    path = write(tmp_path, GOOD | {"weight": 2, "dispersion": 1}, CHAT | {"dispersion": 0.25})
    assert read_preferences(path) == [
        PreferenceRecord("2 + 2 =", " 4", " 5", 2.0, 1.0, f"{path}:1"),
        PreferenceRecord([QUESTION], [YES], [NO], 1.0, 0.25, f"{path}:2"),
    ]


def test_blank_lines_marks_and_windows_line_ends_say_nothing(tmp_path):
    line = json.dumps(GOOD | {"chosen": " é\u2028"}, ensure_ascii=False).encode()
    path = write(tmp_path, b"\xef\xbb\xbf" + line + b"\r", b"", b"  \r", line)
    records = read_preferences(path)
    assert [r.place.rpartition(":")[2] for r in records] == ["1", "4"]
    assert records[0].chosen == records[1].chosen == " é\u2028"


@pytest.mark.parametrize(
    ("chosen", "rejected", "shared"),
    [
        ("The sky is blue.", "The sky is grey.", "The sky is"),  # the space goes with the word
        ("Q\nA: yes", "Q\nA: no", "Q\nA:"),
        ("It is blue", "It is black", "It is"),  # never within a word
        ("It costs 3.14", "It costs 3.15", "It costs"),
        ("It isn't", "It isn’t", "It"),
        ("a b", "a bc", "a"),
        ("a b", "a b c", "a b"),  # one begins the other: nothing is left of the first
        ("天空是蓝色", "天空是红色", "天空是"),  # without spaces every letter begins a word
        ("Q7? A: red sky", "Q7? A: rough", "Q7? A:"),
        ("Q7? A: the red sky", "Q7? A: the sea", "Q7? A:"),  # a turn, where there is one
        ("Who?\nAnswer: it is I", "Who?\nAnswer: it is he", "Who?\nAnswer:"),
        ("One? A: 1 B: 2 It is A", "One? A: 1 B: 2 It is B", "One? A: 1 B: 2 It is"),
        ("Option A: so. Is it good", "Option A: so. Is it bad", "Option A: so. Is it"),
        (
            "\n\nHuman: a\n\nAssistant: b c",
            "\n\nHuman: a\n\nAssistant: b d",
            "\n\nHuman: a\n\nAssistant:",
        ),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: ab\n\nAssistant: d", ""),
        ("blue", "grey", ""),
        (" a", " b", ""),
    ],
)
def test_the_prompt_that_two_strings_share(chosen, rejected, shared):
    assert chosen[: shared_beginning(chosen, rejected)] == shared
    assert shared_beginning(chosen, rejected) == shared_beginning(rejected, chosen)


MORE = says("user", "Why?")
TOOL = says("tool", "42")


@pytest.mark.parametrize(
    ("chosen", "rejected", "shared"),
    [
        ([QUESTION, YES], [QUESTION, NO], 1),
        ([QUESTION, YES, MORE, YES], [QUESTION, YES, MORE, NO], 3),
        ([QUESTION, YES], [QUESTION, YES, MORE, NO], 1),
        ([QUESTION, YES, TOOL, YES], [QUESTION, YES, NO], 1),  # not where a tool goes on
        ([says("system", "S"), QUESTION, YES], [says("system", "S"), MORE, YES], 0),
        ([YES], [NO], 0),
    ],
)
def test_the_prompt_that_two_conversations_share(chosen, rejected, shared):
    assert shared_beginning(chosen, rejected) == shared
    assert shared_beginning(rejected, chosen) == shared


def test_an_absent_prompt_is_taken_off_both_answers(tmp_path):
    path = write(
        tmp_path,
        {"chosen": "Q: sky? A: blue", "rejected": "Q: sky? A: red"},
        {"chosen": [QUESTION, YES], "rejected": [QUESTION, NO]},
        {"prompt": "", "chosen": "a b", "rejected": "a c"},
    )
    strings, conversations, empty = read_preferences(path)
    assert strings[:3] == ("Q: sky? A:", " blue", " red")
    assert conversations[:3] == ([QUESTION], [YES], [NO])
    assert empty[:3] == ("", "a b", "a c"), "a prompt that is given is not looked for"


FAULTS = {
    "no JSON": (b'{"prompt": "a", ', r"received '\{.*it is no JSON .*; write one JSON object"),
    "an array": ([GOOD], "received 'list'; it must be an object with the keys prompt, chosen"),
    "twice": (b'{"prompt": "a", "prompt": "b"}', "a key stands twice"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "it is not UTF-8"),
    "Latin-1": (b'{"prompt": "\xe9"}', "it is not UTF-8"),
    "deep": (b"[" * 100_000, "it is no JSON"),
    "unknown": (GOOD | {"score": 1}, r"received \['score'\]; the known keys are .*ignore"),
    "missing": ({"prompt": "a", "chosen": "b"}, "rejected must be given"),
    "no text": (GOOD | {"prompt": 3}, "prompt: received 'float'; it must be a string or a list"),
    "null": ({k: None for k in GOOD}, "received 'NoneType'; it must be a string or a list"),
    "mixed": (
        {"prompt": "Was it?", "chosen": [QUESTION, YES], "rejected": [QUESTION, NO]},
        "'prompt': 'a string', 'chosen': 'messages'.*ignore its key",
    ),
    "empty": (GOOD | {"rejected": ""}, "rejected: received ''; an answer must not be empty"),
    "blank": (GOOD | {"chosen": " \n"}, r"chosen: received ' \\n'; an answer must not be empty"),
    "begins the other": ({"chosen": "a b", "rejected": "a b c"}, "the prompt is taken off"),
    "shares nothing": ({"chosen": "a", "rejected": "b"}, "both share; give the prompt"),
    "half a character": (GOOD | {"chosen": "\ud83d"}, "half of a surrogate pair"),
    "weight NaN": (GOOD | {"weight": math.nan}, "weight: received nan; .*finite"),
    "weight null": (GOOD | {"weight": None}, "weight: received None; .*finite"),
    "weight below 0": (GOOD | {"weight": -1}, "weight: received -1.0; .*zero or above"),
    "weight huge": (GOOD | {"weight": 10**400}, "weight: received inf; .*finite"),
    "dispersion 0": (GOOD | {"dispersion": 0}, r"dispersion: received 0.0; .*\(0, 1\]"),
    "dispersion NaN": (GOOD | {"dispersion": math.nan}, r"dispersion: received nan; .*\(0, 1\]"),
    "dispersion true": (GOOD | {"dispersion": True}, r"dispersion: received True; .*\(0, 1\]"),
    "role": (CHAT | {"prompt": [says("human", "?")]}, "prompt, message 0: role: received 'human'"),
    "role missing": (CHAT | {"prompt": [{"content": "?"}]}, "role: received None"),
    "parts": (CHAT | {"chosen": [says("assistant", [{"text": "a"}])]}, "content: received 'list'"),
    "message": (CHAT | {"chosen": ["Yes."]}, "chosen, message 0: received 'str'; it must be an"),
    "tool call": (CHAT | {"chosen": [YES | {"tool_calls": [1]}]}, r"\['tool_calls'\]; the known"),
    "no message": (CHAT | {"chosen": []}, r"chosen: received \[\]; an answer must begin"),
    "no prompt": (CHAT | {"prompt": []}, r"prompt: received \[\]; a prompt must end"),
    "prompt repeated": (CHAT | {"chosen": [QUESTION, YES]}, "an answer must begin and end"),
    "user last": (CHAT | {"chosen": [YES, MORE]}, "an answer must begin and end"),
    "says nothing": (CHAT | {"rejected": [says("assistant", " ")]}, "rejected: .*not be empty"),
    "started": (CHAT | {"prompt": [QUESTION, YES]}, "a prompt must end with a message that is not"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_record_is_one_line_with_its_place(name, tmp_path):
    record, message = FAULTS[name]
    path = write(tmp_path, GOOD, record)
    with pytest.raises(ValueError, match=message) as caught:
        read_preferences(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:2: ")
    assert "\n" not in text and len(text) < 400 + len(str(path))


def test_all_faulty_lines_are_listed_up_to_a_few(tmp_path):
    bad = GOOD | {"chosen": ""}
    with pytest.raises(ValueError, match=r":2: chosen: .*; as faulty: line 4$"):
        read_preferences(write(tmp_path, GOOD, bad, GOOD, bad))
    expected = r":1: chosen: .*; as faulty: lines 2, 3, 4, 5, 6, 7, 8, 9 and 11 more$"
    with pytest.raises(ValueError, match=expected):
        read_preferences(write(tmp_path, *[bad] * 20))


def test_ignored_keys_are_not_read(tmp_path):
    record = {"prompt": "Is it?", "score": 3, "chosen": [QUESTION, YES | {"id": 7}]}
    path = write(tmp_path, record | {"rejected": [QUESTION, NO]})
    (found,) = read_preferences(path, ignore=["score", "prompt", "id"])
    assert found[:3] == ([QUESTION], [YES], [NO])


def test_equal_answers_are_left_out(tmp_path):
    equal = GOOD | {"rejected": GOOD["chosen"]}
    path = write(tmp_path, equal, GOOD, equal)
    with pytest.warns(RunWarning, match=r"pairs of equal answers are left out, lines 1, 3$"):
        (record,) = read_preferences(path)
    assert record.place.endswith(":2")
    with pytest.raises(ValueError, match=r"every record are equal \(line 1\)"):
        read_preferences(write(tmp_path, equal))


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        read_preferences(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match=r"it holds no .jsonl.*; give a file"):
        read_preferences(tmp_path)
    with pytest.raises(ValueError, match="it must hold records"):
        read_preferences(write(tmp_path, b"", b" "))


def test_dispersion_is_in_all_records_or_in_none(tmp_path):
    path = write(tmp_path, GOOD | {"dispersion": 0.5}, GOOD)
    with pytest.raises(ValueError, match=r"received '1 in 2 records'; .*:2 has none; add it there"):
        read_preferences(path)


def test_the_reader_is_no_part_of_importing_the_runtime():
    code = "import sys, ctrl_jax.runtime; print('ctrl_jax.pretrained' in sys.modules)"
    status, out, err = run_python("-c", code)
    assert (status, out) == (0, "False\n"), err
