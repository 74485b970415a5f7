"""Pairs in rows: nothing lost, nothing mixed, little room wasted."""

import jax
import numpy as np
import pytest

from ctrl_jax.data.preferences.rows import (
    PreferenceRows,
    TokenPair,
    pack_pairs,
    pad_rows,
    spread,
    take_rows,
)

PAIRS = [
    TokenPair([1, 5, 6], [7, 2], [8, 9, 2], 0.5, 0.1),
    TokenPair([1], [2], [3, 2], 2.0, 0.9),
    TokenPair([1, 4], [4, 4, 4, 4, 2], [2], 1.0, 1.0),
]


def random_pairs(number, longest=40, seed=0):
    generator = np.random.default_rng(seed)

    def part():
        return generator.integers(0, 50, generator.integers(1, longest)).tolist()

    return [TokenPair(part(), part(), part()) for _ in range(number)]


def read_back(rows: PreferenceRows) -> dict[int, tuple[list[int], list[int], list[int]]]:
    """The pairs that rows hold, from the tokens and, independently, from the slots."""
    found = {}
    for i, row in enumerate(rows.numbers):
        for text, n in enumerate(row):
            if n < 0:
                continue
            parts = [
                rows.tokens[i, (rows.texts[i] == text) & (rows.branches[i] == branch)].tolist()
                for branch in range(3)
            ]
            for answer in range(2):
                slots = rows.answers[i] == 2 * text + answer
                assert rows.targets[i, slots].tolist() == parts[1 + answer]
                before = rows.tokens[i, rows.sources[i, slots]].tolist()
                assert before == [parts[0][-1], *parts[1 + answer][:-1]]
                assert (rows.texts[i, rows.sources[i, slots]] == text).all()
                assert set(rows.branches[i, rows.sources[i, slots]]) <= {0, 1 + answer}
            assert n not in found
            found[int(n)] = tuple(parts)
    return found


@pytest.mark.parametrize("most", [None, 1, 2])
@pytest.mark.parametrize("length", [None, 150, 200])
def test_every_pair_is_there_once_and_whole(length, most):
    pairs = random_pairs(60)
    rows = pack_pairs(pairs, length=length, pairs_per_row=most)
    expected = {n: (p.prompt, p.chosen, p.rejected) for n, p in enumerate(pairs)}
    assert read_back(rows) == expected
    assert (rows.numbers >= 0).sum(axis=1).max() <= (most or 60)
    used = sum(pair.tokens for pair in pairs)
    assert (rows.texts >= 0).sum() == used
    assert (rows.answers >= 0).sum() == sum(len(p.chosen) + len(p.rejected) for p in pairs)


def test_weights_and_dispersion_stay_with_their_pairs():
    rows = pack_pairs(PAIRS, length=20)
    there = rows.numbers >= 0
    order = rows.numbers[there]
    assert rows.dispersion is not None
    np.testing.assert_array_equal(
        rows.weights[there], np.array([p.weight for p in PAIRS], np.float32)[order]
    )
    np.testing.assert_array_equal(
        rows.dispersion[there], np.array([0.1, 0.9, 1.0], np.float32)[order]
    )
    assert (rows.weights[~there] == 0).all() and (rows.dispersion[~there] == 1).all()
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    placed = spread(values, rows, padding=-7.0)
    np.testing.assert_array_equal(placed[there], values[order])
    assert (placed[~there] == -7).all()


def test_rows_are_filled_well():
    """Best fit with the longest first needs at most 11/9 of the fewest rows, and 6/9 of one."""
    pairs = random_pairs(400, longest=60, seed=3)
    rows = pack_pairs(pairs, length=256)
    fewest = -(-sum(pair.tokens for pair in pairs) // 256)
    assert len(rows.tokens) <= 11 / 9 * fewest + 6 / 9
    assert len(pack_pairs(pairs, length=256, pairs_per_row=1).tokens) == 400


def test_rows_of_as_many_pairs_are_about_as_long():
    pairs = random_pairs(401, longest=60, seed=3)
    rows = pack_pairs(pairs, pairs_per_row=4)
    counts = (rows.numbers >= 0).sum(axis=1)
    assert len(counts) == 101 and counts.sum() == 401 and counts.max() == 4
    assert sum(pair.tokens for pair in pairs) > 0.9 * rows.tokens.size


def test_one_pair_to_a_row_keeps_the_order():
    rows = pack_pairs(PAIRS, pairs_per_row=1)
    np.testing.assert_array_equal(rows.numbers[:, 0], [0, 1, 2])
    assert rows.tokens.shape == (3, 8) and rows.sources.shape == (3, 6)


def test_empty_rows_weigh_nothing():
    rows = pack_pairs(PAIRS, pairs_per_row=1)
    rows = rows._replace(reference=np.ones((3, 1, 2), np.float32))
    padded = pad_rows(rows, 5)
    first = take_rows(padded, slice(3))
    for before, kept, after in zip(*map(jax.tree.leaves, (rows, first, padded)), strict=True):
        np.testing.assert_array_equal(kept, before)
        assert before.dtype == after.dtype and len(after) == 5
    assert padded.weights[3:].sum() == 0 and (padded.answers[3:] == -1).all()
    with pytest.raises(ValueError, match="number: received 2; there are 3 rows already"):
        pad_rows(rows, 2)


@pytest.mark.parametrize(
    "pairs, options, message",
    [
        ([], {}, "pairs: received .*; there must be one or more"),
        ([TokenPair([], [1], [2])], {}, "pair 0: prompt: received .*; it must have a token"),
        (
            [PAIRS[0], TokenPair([1], [], [2], 1.0, 0.5)],
            {},
            "pair 1: chosen: received .*; it must have a token",
        ),
        ([TokenPair([1], [2], [3], float("nan"))], {}, "pair 0: weight: received"),
        ([TokenPair([1], [2], [3], -1.0)], {}, "pair 0: weight: received"),
        ([TokenPair([1], [2], [3], 1e39)], {}, "pair 0: weight: received"),
        ([TokenPair([1], [2], [3], 1.0, 1e-300)], {}, "pair 0: dispersion: received 1e-300"),
        ([TokenPair([1], [2], [3], 1.0, 0.0)], {}, r"pair 0: dispersion: .* lie in \(0, 1\]"),
        (
            [PAIRS[0], TokenPair([1], [2], [3])],
            {},
            "dispersion: received .none in 1 of 2.; .*; give it to all",
        ),
        (PAIRS, {"length": 7}, "pair 0: tokens: received 8; rows have 7"),
        (PAIRS, {"length": 0}, "length: received 0; .* at least 1"),
        (PAIRS, {"length": 9, "pairs_per_row": 2}, "length: received 9; .* take 12 tokens"),
        (PAIRS, {"pairs_per_row": 0}, "pairs_per_row: received 0; .* at least 1"),
    ],
)
def test_what_cannot_be_packed_is_refused(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        pack_pairs(pairs, **options)


@pytest.mark.parametrize("wrong", [1.7, 2**32 + 5, -5, 2**80])
def test_what_is_no_token_is_refused(wrong, unchecked):
    with pytest.raises(ValueError, match=f"pair 0: chosen: received {wrong}; token ids"):
        pack_pairs([TokenPair([1], [2, wrong], [3])])
