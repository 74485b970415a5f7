"""Laws of every decoder: what a token sees, where it stands, and what it is computed with."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.language.config import Learned
from ctrl_jax.networks.language.decoder import language_model
from ctrl_jax.networks.language.mask import causal_mask, positions_of, text_lengths, text_mask
from ctrl_jax.networks.layers.rotary import Rotary, frequencies
from ctrl_jax.networks.layers.rotary_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    YarnScaling,
    attention_factor,
)
from tests.networks.language.decoders import CONFIGS, GEMMA, GPT2, NEOX, OLMO, QWEN, SIZES, moved

LENGTH = 12
KEY, VALUE = ((jax.tree_util.DictKey(name),) for name in ("key", "value"))
ROWS = LENGTH + 1
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, SIZES["vocabulary"], (ROWS, LENGTH)).astype(np.int32)
CAUSAL = np.asarray(causal_mask(ROWS, LENGTH))
places_of = jax.jit(positions_of)


class Case:
    """A decoder with parameters, and one compiled program for all calls."""

    def __init__(self, config):
        self.config, self.model = config, language_model(config)
        self.params = moved(self.model)
        self.program = jax.jit(
            lambda params, tokens, positions, mask: self.model.logits(
                params, self.model.apply(params, tokens, positions, mask)
            )
        )

    def __call__(self, tokens, mask: Any = CAUSAL, positions=None):
        """Logits of up to 13 rows of up to 12 tokens; more rows and tokens are appended unseen."""
        rows, length = tokens.shape
        missing = ((0, ROWS - rows), (0, LENGTH - length))
        tokens = np.pad(tokens, missing)
        mask = np.pad(np.asarray(mask)[:rows, :length, :length], (*missing, missing[1]))
        positions = places_of(mask) if positions is None else np.pad(positions, missing)
        mask = mask | np.eye(LENGTH, dtype=bool)
        found = self.program(self.params, tokens, np.maximum(positions, 0, dtype=np.int32), mask)
        return np.asarray(found)[:rows, :length]


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    return Case(CONFIGS[request.param])


# What any decoder does with its blocks, tried quickly on two that differ most.
few = pytest.mark.parametrize(
    "case",
    [pytest.param(n, marks=() if n in ("neox", "gemma") else pytest.mark.slow) for n in CONFIGS],
    indirect=True,
)


def agree(found, expected):
    """Equal up to the rounding of sums in another order; logits are of size one to ten."""
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_later_token_never_changes_an_earlier_logit(case):
    base = TOKENS[0]
    changed = np.tile(base, (ROWS, 1))
    changed[np.arange(1, ROWS), np.arange(LENGTH)] = (base + 1) % 23
    logits = case(changed)
    for token in range(LENGTH):
        if token:
            agree(logits[token + 1, :token], logits[0, :token])
        assert np.abs(logits[token + 1, token] - logits[0, token]).max() > 1e-2


def test_every_token_seen_matters(case):
    """And with windows of w in all blocks, none further back than the sum of their w - 1."""
    base = TOKENS[0]
    changed = np.stack([base, base])
    changed[1, 0] = (base[0] + 1) % 23
    logits = case(changed)
    moved_by = np.abs(logits[1] - logits[0]).max(axis=1)
    reach = sum((window or LENGTH) - 1 for window in case.config.windows) + 1
    assert (moved_by[:reach] > 1e-4).all()
    assert (moved_by[reach:] < 1e-5).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(case, side):
    text = TOKENS[:1, :7]
    before, after = (5, 0) if side == "left" else (0, 5)
    padded = np.pad(text, ((0, 0), (before, after)), constant_values=3)
    texts = np.pad(np.zeros((1, 7), np.int32), ((0, 0), (before, after)), constant_values=-1)
    agree(case(padded, text_mask(jnp.asarray(texts)))[:, before : before + 7], case(text))


def test_packed_texts_are_separate_texts(case):
    first, second = TOKENS[:1, :5], TOKENS[1:2, :7]
    texts = jnp.asarray([[0] * 5 + [1] * 7])
    packed = case(np.concatenate([first, second], axis=1), text_mask(texts))
    agree(packed[:, :5], case(first))
    agree(packed[:, 5:], case(second))


def test_branches_are_texts_of_their_own(case):
    """[prompt | chosen | rejected] with the prompt once, against one row for each answer."""
    prompt, chosen, rejected = np.split(TOKENS[:1], [4, 7], axis=1)
    branches = jnp.asarray([[0] * 4 + [1] * 3 + [2] * 5])
    together = case(TOKENS[:1], text_mask(jnp.zeros_like(branches), branches))
    alone = [case(np.concatenate([prompt, part], axis=1)) for part in (chosen, rejected)]
    agree(together[:, :7], alone[0])
    agree(together[:, 7:], alone[1][:, 4:])


def test_masks_and_positions_by_hand():
    texts, branches = jnp.asarray([[0, 0, 0, 1, -1]]), jnp.asarray([[0, 1, 2, 0, 0]])
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    mask = text_mask(texts, branches)
    np.testing.assert_array_equal(mask[0], np.array(expected, bool))
    np.testing.assert_array_equal(positions_of(mask), [[0, 1, 1, 0, 0]])


def test_lengths_of_texts_by_hand():
    """The longest branch counts for its text; padding is a text of its own."""
    texts = jnp.asarray([[0, 0, 0, 0, 0, 1, -1, -1]])
    branches = jnp.asarray([[0, 0, 1, 2, 2, 0, 0, 0]])
    mask = text_mask(texts, branches)
    found = text_lengths(mask, positions_of(mask))
    np.testing.assert_array_equal(found, [[4, 4, 4, 4, 4, 1, 2, 2]])


LONG = LongScaling((1.0, 1.2), (3.0, 0.7), 6, attention=1.2)


@pytest.mark.parametrize("scaling", [LONG, DynamicScaling(3.0, 6)], ids=["long", "dynamic"])
def test_rotations_that_depend_on_the_length_are_those_of_each_text(scaling):
    """In rows that hold one text, a short and a long one, or padding; and where the text grows."""
    changed = Case(dataclasses.replace(QWEN, depth=1, positions=Rotary(20.0, 1.0, scaling)))
    plain = Case(dataclasses.replace(QWEN, depth=1, positions=Rotary(20.0)))
    first, second = TOKENS[:1, :5], TOKENS[1:2, :7]
    texts = jnp.asarray([[0] * 5 + [1] * 7])
    packed = changed(np.concatenate([first, second], axis=1), text_mask(texts))
    agree(packed[:, :5], changed(first))
    agree(packed[:, 5:], changed(second))
    if scaling is not LONG:
        agree(changed(first), plain(first))
    assert np.abs(changed(second) - plain(second))[:, 1:6].max() > 1e-2
    # A text of seven tokens turns from its beginning as one of six does not.
    longer = changed(second)[:, :6]
    assert np.abs(longer - changed(second[:, :6])).max() > 1e-3
    # Without mask, the row is the text.
    whole = jax.jit(lambda p, t: changed.model.logits(p, changed.model.apply(p, t)))
    agree(whole(changed.params, second), changed(second))


def test_only_differences_of_positions_matter_to_rotations(case):
    # As little as 3 positions: the learned table has 12.
    tokens, places = TOKENS[:1, :8], np.arange(8)[None]
    here, there = case(tokens, positions=places), case(tokens, positions=places + 3)
    if case.config is GPT2:
        assert np.abs(here - there).max() > 1e-2
    else:
        agree(there, here)
        assert np.abs(here - case(tokens, positions=2 * places)).max() > 1e-2


def test_defaults_are_the_causal_mask_and_its_positions(case):
    plain = jax.jit(lambda p, t: case.model.logits(p, case.model.apply(p, t)))
    agree(plain(case.params, TOKENS), case(TOKENS))


def test_states_at_some_places_are_those_of_all(case):
    """One place twice, as where two answers begin."""
    at = jnp.asarray([[3, 3, 0, 7, LENGTH - 1], [1, 2, 2, 0, 5]])

    @jax.jit
    def both(params):
        every, some = (
            case.model.apply(params, jnp.asarray(TOKENS[:2]), at=places) for places in (None, at)
        )
        return jnp.take_along_axis(every, at[..., None], axis=1), some

    expected, found = map(np.asarray, both(case.params))
    agree(found, expected)


def loss_of(config, **options):
    model = language_model(config, **options)

    def loss(params):
        hidden = model.apply(params, jnp.asarray(TOKENS[:2]))
        return jnp.mean(jnp.square(hidden @ model.head(params)).astype(jnp.float32))

    return loss


def gradients(config, params, **options):
    return jax.jit(jax.value_and_grad(loss_of(config, **options)))(params)


@pytest.fixture(scope="module")
def slopes(case):
    return gradients(case.config, case.params)


def test_gradients_reach_every_parameter(case, slopes):
    """But a bias of keys without rotation, which adds the same to all that a softmax sees."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes[1]):
        largest = float(np.abs(leaf).max())
        if case.config is GPT2 and "['key']['bias']" in jax.tree_util.keystr(path):
            assert largest < 1e-5
        else:
            assert 1e-4 < largest < 1e3, path


@few
def test_recomputing_blocks_changes_neither_loss_nor_gradient(case, slopes):
    loss, gradient = gradients(case.config, case.params, remat=True)
    np.testing.assert_allclose(loss, slopes[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max() + 1e-6),
        gradient,
        slopes[1],
    )


def test_blocks_are_recomputed_where_asked():
    params = language_model(NEOX).shapes
    for remat, blocks in ((False, 0), (True, NEOX.depth)):
        steps = jax.make_jaxpr(jax.grad(loss_of(NEOX, remat=remat)))(params).eqns
        assert sum("prevent_cse" in step.params for step in steps) == blocks


@few
def test_half_precision_follows_single_precision(case, slopes):
    """bfloat16 keeps 8 bits: 0.4 % a rounding, some tens of roundings in a row."""
    loss, gradient = gradients(case.config, case.params, dtype=jnp.bfloat16)
    np.testing.assert_allclose(loss, slopes[0], rtol=0.1)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))
    ours, exact = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (gradient, slopes[1])
    )
    assert float(ours @ exact / np.linalg.norm(ours) / np.linalg.norm(exact)) > 0.99
    half = language_model(case.config, dtype=jnp.bfloat16)
    hidden = jax.eval_shape(half.apply, case.params, TOKENS)
    assert hidden.dtype == jax.eval_shape(half.head, case.params).dtype == jnp.bfloat16


def test_a_shared_key_head_is_two_equal_ones():
    few = Case(dataclasses.replace(QWEN, window=None, depth=1))
    full = Case(dataclasses.replace(QWEN, window=None, depth=1, key_heads=4))

    def twice(leaf):
        heads = leaf.reshape(*leaf.shape[:-1], 2, 4)
        return jnp.repeat(heads, 2, axis=-2).reshape(*leaf.shape[:-1], 16)

    full.params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: twice(leaf) if path[-2:-1] in (KEY, VALUE) else leaf, few.params
    )
    agree(full(TOKENS), few(TOKENS))


def test_limits_of_the_window():
    """As long as the text: none. One: every token by itself."""
    logits = {}
    for window in (None, LENGTH, 1):
        limit = Case(dataclasses.replace(QWEN, window=window, depth=1))
        logits[window] = limit(TOKENS)
        alone = limit(TOKENS, np.broadcast_to(np.eye(LENGTH, dtype=bool), CAUSAL.shape))
    agree(logits[LENGTH], logits[None])
    agree(logits[1], alone)
    assert np.abs(logits[1] - logits[None]).max() > 0.1


def test_rotations_by_hand():
    np.testing.assert_allclose(frequencies(Rotary(base=100.0), 4), [1.0, 0.1])
    np.testing.assert_allclose(
        frequencies(Rotary(100.0, 1.0, LinearScaling(4.0)), 4), [0.25, 0.025]
    )
    # The slower rotation turns n times over 63 tokens; between low and high the law is linear in n.
    n = 63 * 0.1 / (2 * np.pi)
    none = 1e-9  # the law takes no 0: it is divided by
    for low, high, kept in ((n, 4.0, 0), (none, n, 1), (none, 2 * n, 1 / 2), (none, 3 * n, 1 / 3)):
        slow = kept * 0.1 + (1 - kept) * 0.1 / 8
        scaled = frequencies(Rotary(100.0, 1.0, Llama3Scaling(8.0, low, high, 63)), 4)
        np.testing.assert_allclose(scaled, [1.0, slow])


def test_rates_of_longer_texts_by_hand():
    plain = np.array([1.0, 10**-0.5, 0.1, 10**-1.5])  # of base 100 and 8 entries
    # Turns over 63 tokens: 63 w / 2 pi; places of 4 and 1 of them: log of 63 / 2 pi turns.
    place = [4 * np.log(63 / (2 * np.pi * turns)) / np.log(100.0) for turns in (4.0, 1.0)]
    slowed = np.clip((np.arange(4) - place[0]) / (place[1] - place[0]), 0, 1)
    yarn = YarnScaling(8.0, 63, 4.0, 1.0, whole=False)
    found = frequencies(Rotary(100.0, 1.0, yarn), 8)
    np.testing.assert_allclose(found, plain * (1 - slowed + slowed / 8))
    assert 0 < slowed[1] < 1 and slowed[0] == 0 and slowed[3] == 1
    rounded = np.arange(4) / 3
    assert [np.floor(place[0]), np.ceil(place[1])] == [0, 3]
    found = frequencies(Rotary(100.0, 1.0, dataclasses.replace(yarn, whole=True)), 8)
    np.testing.assert_allclose(found, plain * (1 - rounded + rounded / 8))
    assert attention_factor(yarn) == 1 + np.log(8.0) / 10
    assert attention_factor(dataclasses.replace(yarn, attention=0.5)) == 0.5
    # A text of 18 tokens where 6 are usual: base 100 (3 * 3 - 2)^(8 / 6).
    dynamic = Rotary(100.0, 1.0, DynamicScaling(3.0, 6))
    base = 100 * 7 ** (8 / 6)
    np.testing.assert_allclose(frequencies(dynamic, 8, 18), base ** (-np.arange(4) / 4))
    np.testing.assert_allclose(frequencies(dynamic, 8, 6), plain)
    long = Rotary(100.0, 0.5, LongScaling((1.0, 2.0), (4.0, 8.0), 6))
    np.testing.assert_allclose(frequencies(long, 8, 6), [1, 0.1 / 2])
    lengths = jnp.asarray([[6, 7]])
    np.testing.assert_allclose(frequencies(long, 8, lengths)[0], [[1, 0.05], [0.25, 0.1 / 8]])


def test_what_is_not_in_a_table_makes_its_row_nan_and_no_other():
    case = Case(dataclasses.replace(GPT2, depth=1))
    tokens = np.stack([TOKENS[0]] * 3)
    tokens[1:, 4] = 23, -1
    logits = np.isnan(case(tokens))
    assert not logits[0].any() and logits[1:].all()
    assert np.isnan(case(TOKENS[:1], positions=np.arange(LENGTH)[None] + 1)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TOKENS[0],), r"tokens: received int32\[12\]; they must be integers"),
        ((TOKENS.astype(np.float32),), "tokens: received float32"),
        ((TOKENS, TOKENS[:2]), r"positions: received int32\[2, 12\]; they must be integers"),
        ((TOKENS, None, CAUSAL[0]), r"mask: received bool\[12, 12\]; it must be booleans \(13, 12"),
        ((TOKENS, None, CAUSAL.astype(np.int32)), "mask: received int32"),
        ((TOKENS, None, None, TOKENS[:2]), r"at: .*; they must be integers \(13, places\)"),
        ((np.tile(TOKENS, 2),), r"tokens: .*\[13, 24\]; the model has 12 positions"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    model = language_model(GPT2)
    params = model.shapes
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p: model.apply(p, *jax.tree.map(jnp.asarray, arguments)), params)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (NEOX, {"depth": 0}, "depth: received 0; it must be a whole number of at least 1"),
        (QWEN, {"key_heads": 3}, "key_heads: received 3; it must divide the 4 heads"),
        (QWEN, {"window": 0}, "window: received 0"),
        (QWEN, {"epsilon": 0.0}, "epsilon: received 0.0; it must be above zero"),
        (
            QWEN,
            lambda: {"positions": Rotary(fraction=0.25)},
            "positions.fraction: received 0.25; .* even",
        ),
        (QWEN, lambda: {"positions": Rotary(fraction=1.5)}, "fraction: received 1.5"),
        (
            QWEN,
            lambda: {"positions": Rotary(base=0.0)},
            "base: received 0.0; it must be above zero",
        ),
        (
            QWEN,
            lambda: {"positions": Rotary(scaling=LinearScaling(-1.0))},
            "factor: received -1.0; it must",
        ),
        (
            QWEN,
            lambda: {"positions": Rotary(scaling=Llama3Scaling(8.0, 4.0, 1.0, 16))},
            "low must be bel",
        ),
        (GPT2, lambda: {"positions": Learned(0)}, "length: received 0"),
        (
            QWEN,
            lambda: {"positions": Rotary(fraction=float("nan"))},
            "fraction: received nan; it must be",
        ),
        (
            QWEN,
            lambda: {"positions": Rotary(base=1.0, scaling=YarnScaling(2.0, 8))},
            "above 1 for YaRN",
        ),
        (
            QWEN,
            lambda: {"positions": Rotary(scaling=YarnScaling(2.0, 8, 1.0, 2.0))},
            "not be below slow",
        ),
        (
            QWEN,
            lambda: {"positions": Rotary(scaling=DynamicScaling(0.5, 8))},
            "factor of at least 1",
        ),
        (QWEN, lambda: {"positions": Rotary(scaling=DynamicScaling(2.0, 0))}, "length: received 0"),
        (
            QWEN,
            lambda: {"positions": Rotary(scaling=LongScaling((1.0,), (1.0,), 8))},
            "each of 2 rotat",
        ),
        (GEMMA, lambda: {"window_positions": Rotary(0.0)}, "base: received 0.0"),
        (GEMMA, {"window": None}, "unwindowed: .*; it needs a window; leave it out"),
        (GEMMA, {"unwindowed": (2,)}, "they must be numbers of the 2 blocks"),
        (GPT2, {"unrotated": (0,)}, "unrotated: .*; it needs positions that rotate"),
        (NEOX, {"norm_places": "after"}, "parallel parts normalize what they read"),
        (OLMO, {"query_key_norm": False}, "joint_query_key_norm: .* it needs query_key_norm"),
        (GEMMA, {"score_cap": 0.0}, "score_cap: received 0.0; it must be above zero"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        # Positions check themselves: those are made here.
        made: Any = changes() if callable(changes) else changes
        dataclasses.replace(config, **made)
