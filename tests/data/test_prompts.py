"""A user's file of prompts, and the mistakes in one."""

import bz2
import gzip
import json

import numpy as np
import pytest

from ctrl_jax.data import Prompt, distinct, read_prompts


def test_lines_of_text(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff a café \r\n\r\n# 3 cats\tand {a dog}\u2028!\n \nlast".encode())
    assert read_prompts(path) == (
        Prompt("a café", place=f"{path}:1"),
        Prompt("# 3 cats\tand {a dog}\u2028!", place=f"{path}:3"),
        Prompt("last", place=f"{path}:5"),
    )


def test_objects_keep_what_else_they_say(tmp_path):
    records = [
        {"prompt": "two cats", "negative_prompt": "", "weight": 2, "height": 64, "include": [1.5]},
        {"prompt": "", "negative_prompt": None, "weight": None},
        {"prompt": "line\nand\ttab ", "id": "a"},
    ]
    text = "\ufeff" + "\r\n\n".join(map(json.dumps, records))
    path = tmp_path / "prompts.JSONL.gz"
    path.write_bytes(gzip.compress(text.encode()))
    first, second, third = read_prompts(path)
    assert first[:4] == ("two cats", "", 2.0, {"height": 64, "include": [1.5]})
    assert isinstance(first.fields["height"], int) and isinstance(first.weight, float)
    assert second[:4] == ("", None, 1.0, {})
    assert third == ("line\nand\ttab ", None, 1.0, {"id": "a"}, f"{path}:5")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": 3}', r"2: prompt: received 3; it must be text"),
        ('{"prompt": "a", "negative_prompt": ["b"]}', r"2: negative_prompt: .*it must be text"),
        ('{"prompt": null, "text": "b"}', r"2: received 'prompt, text'; it must have the field"),
        ("{}", r"2: received 'no field'; it must have the field prompt"),
        ('{"prompt": "a", "weight": 0}', r"2: weight: received 0; it must be above zero"),
        ('{"prompt": "a", "weight": NaN}', r"2: weight: received nan; it must be a finite"),
        ('{"prompt": "a", "weight": 1e999}', r"2: weight: received inf; it must be a finite"),
        ('{"prompt": "a", "weight": true}', r"2: weight: received True; it must be a finite"),
        ('{"prompt": "a", "weight": "2"}', r"2: weight: received '2'; it must be a finite"),
        ('{"prompt": "a", "prompt": "b"}', r"2: received .*a key stands twice"),
        ('{"prompt": "a", "score": NaN}', r"2: score: received nan; it must be a finite"),
        ('{"prompt": "a", "Negative-Prompts": "b"}', r"much like the field negative_prompt; rena"),
        ('{"prompt": "a", "negative": "b"}', r"2: received 'negative'; it is much like"),
        ('[{"prompt": "a"}]', r"2: received '\[{.*it must be an object.*without a list around"),
        ('"a prompt"', r"2: received '\"a prompt\"'; it must be an object"),
        ('{"prompt": "a\\u0000b"}', r"2: prompt: .*character 2 is '\\x00', which no prompt has"),
        ('{"prompt": "\\ud800"}', r"character 1 is '\\ud800'"),
        ('{"prompt": "a"', r"2: received .*it is no JSON"),
    ],
)
def test_faulty_objects(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(ValueError, match=message):
        read_prompts(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "it holds no prompt; write one on each line"),
        ("a.jsonl", b"\n \r\n", "it holds no prompt"),
        ("a.txt", b"fine\na\x00b", r"a.txt:2: received .*character 2 is '\\x00'"),
        ("a.txt", b"of old\rMacs", r"a.txt:1: .*character 7 is '\\r'"),
        ("a.txt", "fine".encode("utf-16"), r"a.txt:1: .*it is not UTF-8 .*save the file as UTF-8"),
        ("a.txt", b'{"prompt": "a"}', r"let the file's name end in \.jsonl"),
        ("a.csv", b"a", r"received .*a.csv'; its name must end in \.txt"),
        ("a.json", b"[]", r"its name must end in \.txt, .* or \.jsonl"),
        ("prompts", b"a", r"its name must end in \.txt"),
        ("a.txt.bz2", bz2.compress(b"a prompt")[:-5], "it cannot be unpacked"),
    ],
)
def test_faulty_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_prompts(tmp_path / name, name="--prompts")
    assert name in str(raised.value)


@pytest.mark.usefixtures("unchecked")
def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "absent.txt", tmp_path / "folder.txt"):
        with pytest.raises(ValueError, match=r"--prompts: received .*it cannot be read"):
            read_prompts(path, name="--prompts")
    with pytest.raises(ValueError, match="it must be a path"):
        read_prompts(3)  # pyright: ignore[reportArgumentType]


def test_distinct_texts_and_where_they_are_used():
    prompts = [Prompt("a"), Prompt("b", weight=2.0), Prompt("a", "x")]
    texts, index = distinct(prompts)
    assert texts == ("a", "b") and index.dtype == np.int32
    assert [texts[i] for i in index] == ["a", "b", "a"]
    assert distinct(["", "b", ""]).texts == ("", "b") and distinct([]).index.shape == (0,)
