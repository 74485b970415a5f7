"""Columns of public collections, understood without options; records written anew."""

import json

import pytest

from ctrl_jax.data import read_preferences
from ctrl_jax.data.preferences.file import read_files
from ctrl_jax.runtime import RunWarning


def says(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]


ASKED, BETTER, WORSE = "Why is grass green?", "It has chlorophyll.", "It just is."
TALK = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant:"
CONVERSATION = (says(ASKED), says(ASKED, BETTER)[1:], says(ASKED, WORSE)[1:])
COLLECTIONS = {
    "ultrafeedback_binarized": (
        {
            "prompt": ASKED,
            "prompt_id": "9f3a",
            "chosen": says(ASKED, BETTER),
            "rejected": says(ASKED, WORSE),
            "messages": says(ASKED, BETTER),
            "score_chosen": 8.5,
            "score_rejected": 6.0,
        },
        CONVERSATION,
    ),
    "dpo-mix": (
        {
            "dataset": "mix",
            "chosen": says("Hi", "Hello", ASKED, BETTER),
            "rejected": says("Hi", "Hello", ASKED, WORSE),
            "chosen_rating": 5,
            "rejected_rating": 2.0,
        },
        (says("Hi", "Hello", ASKED), *CONVERSATION[1:]),
    ),
    "HH-RLHF": (
        {"chosen": f"{TALK} So it goes.", "rejected": f"{TALK} So what.\n\nHuman: Oh"},
        (TALK, " So it goes.", " So what.\n\nHuman: Oh"),
    ),
    "SHP": (
        {
            "post_id": "x1",
            "domain": "askbotany",
            "upvote_ratio": 0.9,
            "history": ASKED,
            "c_root_id_A": "a",
            "c_root_id_B": "b",
            "created_at_utc_A": 1,
            "created_at_utc_B": 2,
            "score_A": 3,
            "score_B": 12,
            "human_ref_A": WORSE,
            "human_ref_B": BETTER,
            "labels": 0,
            "seconds_difference": 1.0,
            "score_ratio": 4.0,
        },
        (f"\n\nHuman: {ASKED}\n\nAssistant:", f" {BETTER}", f" {WORSE}"),
    ),
}


def write(path, *records):
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_record_of_a_collection(name, tmp_path):
    record, expected = COLLECTIONS[name]
    found = read_files(write(tmp_path / "a.jsonl", record), name="data")
    assert found.records[0][:3] == expected
    assert {*found.unread} <= record.keys() and len(found.unread) == {
        "ultrafeedback_binarized": 4,
        "dpo-mix": 3,
        "HH-RLHF": 0,
        "SHP": 11,
    }[name]


def test_the_label_says_which_answer_is_preferred(tmp_path):
    record, expected = COLLECTIONS["SHP"]
    (found,) = read_preferences(write(tmp_path / "a", record | {"labels": 1}))
    assert found[:3] == (expected[0], expected[2], expected[1])
    for label in (2, 0.5, None, True, "A"):
        with pytest.raises(ValueError, match=r"labels: received .*; it says which answer"):
            read_preferences(write(tmp_path / "a", record | {"labels": label}))
    with pytest.raises(ValueError, match="an answer must not be empty"):
        read_preferences(write(tmp_path / "a", record | {"human_ref_A": " "}))


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": ASKED, "chosen": says(ASKED, BETTER)[1:], "rejected": says(ASKED, WORSE)[1:]},
        {"prompt": says(ASKED), "chosen": BETTER, "rejected": WORSE},
        {"prompt": says(ASKED), "chosen": says(ASKED, BETTER), "rejected": says(ASKED, WORSE)},
    ],
)
def test_mixed_kinds_that_mean_one_thing(record, tmp_path):
    (found,) = read_preferences(write(tmp_path / "a", record))
    assert found[:3] == CONVERSATION


def test_a_prompt_beside_whole_transcripts_is_not_repeated(tmp_path):
    record = {"prompt": TALK, "chosen": f"{TALK} Yes", "rejected": f"{TALK} No"}
    (found,) = read_preferences(write(tmp_path / "a", record))
    assert found[:3] == (TALK, " Yes", " No")


def test_all_unknown_keys_are_named_at_once(tmp_path):
    record, _ = COLLECTIONS["ultrafeedback_binarized"]
    strange = [record | {"margin": 1}, record | {"length": None}, record | {"topic": "a"}]
    with pytest.raises(ValueError, match=r":1: received \['margin', 'topic'\]; .*: line 3$"):
        read_preferences(write(tmp_path / "a", *strange))
    bad = record | {"chosen": ""}
    expected = (
        r":1: received \['margin', 'topic'\]; .*; besides, .*:4: .*of one kind.*: lines 3, 4$"
    )
    with pytest.raises(ValueError, match=expected):
        read_preferences(write(tmp_path / "a", *strange, bad))
    assert len(read_preferences(write(tmp_path / "a", *strange), ignore=["margin", "topic"])) == 3


def test_what_cannot_be_used_is_left_out_where_asked_for(tmp_path):
    good = [{"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(1000)]
    lines = [json.dumps(record) for record in good]
    lines[7:7] = ['{"prompt": "half']
    lines[500:500] = [json.dumps(good[0] | {"rejected": ""}), json.dumps(good[0] | {"chosen": "b"})]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r":8: .*it is no JSON.*; as faulty: line 501$"):
        read_preferences(path)
    with pytest.warns(RunWarning) as caught:
        found = read_files(path, name="data", leave_out_faulty=True)
    assert [record.prompt for record in found.records] == [str(n) for n in range(1000)]
    said = [str(warning.message).removeprefix(f"data {path}: ") for warning in caught]
    assert said[0].startswith("2 faulty records are left out, lines 8, 501; the first: ")
    assert said[1] == "1 pairs of equal answers are left out, line 502"
    assert found.lines()[:2] == [
        f"1003 records in {path}, 3 left out",
        "left out: 2 faulty records (lines 8, 501)",
    ]
    path.write_text("\n".join(lines[7:8]))
    with pytest.raises(ValueError, match="it is no JSON"):  # where nothing would be left
        read_preferences(path, leave_out_faulty=True)


def test_a_prompt_that_both_answers_repeat_is_told_of(tmp_path):
    path = tmp_path / "a.jsonl"
    record = {
        "prompt": "Sum of 2, 2? ",
        "chosen": "Sum of 2, 2? Four",
        "rejected": "Sum of 2, 2? 5",
    }
    records = [record, record | {"chosen": "Four"}, record | {"prompt": ""}]
    path.write_text("\n".join(map(json.dumps, records)))
    with pytest.warns(RunWarning, match="both answers of 1 of 3 records begin with their prompt"):
        read_preferences(path)
    path.write_text(json.dumps(record))
    (found,) = read_preferences(path, ignore=["prompt"])
    assert found[:3] == ("Sum of 2, 2?", " Four", " 5"), "what the warning advises"


def test_keys_that_say_nothing_are_read_over(tmp_path):
    path = tmp_path / "a.jsonl"
    answer = says(ASKED, BETTER)[1] | {"tool_calls": [], "name": None}
    record = {"prompt": says(ASKED), "chosen": [answer], "rejected": says(ASKED, WORSE)[1:]}
    path.write_text(json.dumps(record | {"system": "", "tools": None}))
    assert read_preferences(path)[0][:3] == CONVERSATION
