"""Preference optimization of a language model: where it starts, what it sums, where it ends."""

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms import (
    AnswerScores,
    LMPreference,
    make_lm_preference,
    make_reference_pass,
    score_answers,
    whole_params,
)
from ctrl_jax.data import TokenPair, pack_pairs
from ctrl_jax.data.preferences.rows import pad_rows
from ctrl_jax.losses import preference
from ctrl_jax.networks import LanguageModel, LoRA, language_model
from ctrl_jax.networks.lora import split as lora_parts
from tests.networks.language.decoders import QWEN, moved

GENERATOR = np.random.default_rng(2)
CONFIG = dataclasses.replace(QWEN, depth=1)
MODEL = language_model(CONFIG)
PARAMS = moved(MODEL)
STARTED = MODEL._replace(init=lambda key: PARAMS)
REFERENCE = jax.jit(make_reference_pass(MODEL))
BETA = 0.3


def draw_pair():
    prompt, chosen, rejected = (GENERATOR.integers(0, 23, size).tolist() for size in (5, 6, 4))
    return TokenPair(prompt, chosen, rejected, *GENERATOR.uniform(0.1, 0.9, 2))


PAIRS = [draw_pair() for _ in range(6)]


def dpo(scores: AnswerScores):
    return preference.dpo(*scores.log_ratios, beta=BETA)


def mallows_phi(scores: AnswerScores):
    return preference.mallows_phi(*scores.log_ratios, beta=BETA, dispersion=scores.dispersion)


def mallows_theta(scores: AnswerScores):
    return preference.mallows_theta(*scores.log_ratios, beta=BETA, dispersion=scores.dispersion)


def simpo(scores: AnswerScores):
    return preference.simpo(*scores.mean_log_probs, beta=2.0, gamma=0.5)


@pytest.fixture(scope="module")
def rows():
    packed = pad_rows(pack_pairs(PAIRS, length=32), 4)
    reference = REFERENCE(PARAMS, packed)
    return packed._replace(reference=np.asarray(reference.log_probs))


SGD = optax.sgd(0.1)
STEPS: dict[Any, Any] = {}
"""Compiled once for all tests, by what makes them different."""


def one_step(rows, loss_fn=dpo, optimizer=SGD, config=None, model=STARTED):
    key = loss_fn, optimizer, config, model.init, model.apply
    if key not in STEPS:
        algorithm = make_lm_preference(model, optimizer, loss_fn, config)
        STEPS[key] = algorithm.init, jax.jit(algorithm.step)
    init, step = STEPS[key]
    return step(init(jax.random.key(0)), rows)


def largest_difference(one, other):
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_the_loss_starts_at_log_two(rows):
    _, metrics = one_step(rows)
    assert abs(float(metrics["loss"]) - np.log(2)) < 1e-7
    for name in ("chosen", "rejected", "margins"):
        assert float(metrics[f"rewards/{name}"]) == 0.0
    assert float(metrics["rewards/accuracies"]) == 0.5  # ties
    weights, phi = (np.array([getattr(p, n) for p in PAIRS]) for n in ("weight", "dispersion"))
    for name, value in (("dispersion/mean", phi), ("weights/mean", -2 * np.log(phi))):
        expected = np.sum(weights * value) / weights.sum()
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-5)


def test_metrics_are_weighted_means_over_the_pairs(rows):
    """Away from the reference, by known log-ratios."""
    ratios = np.where(rows.numbers[..., None] < 0, 0.0, GENERATOR.normal(size=rows.reference.shape))
    shifted = rows._replace(reference=(rows.reference - ratios).astype(np.float32))
    _, metrics = one_step(shifted, config=LMPreference(beta=2.0))
    chosen, rejected = ratios[..., 0], ratios[..., 1]
    expected = {
        "loss": np.log1p(np.exp(-BETA * (chosen - rejected))),
        "rewards/chosen": 2 * chosen,
        "rewards/rejected": 2 * rejected,
        "rewards/margins": 2 * (chosen - rejected),
        "rewards/accuracies": chosen > rejected,
        "logps/chosen": rows.reference[..., 0],
        "logps/rejected": rows.reference[..., 1],
    }
    for name, values in expected.items():
        value = np.average(values, weights=rows.weights)
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_exact_link_starts_on_the_right_of_its_jump(rows):
    """-log g(0+), g(0+) = 1/(1 - phi) + 1/log phi; a log-ratio of -1e-9 would land on the left."""
    _, metrics = one_step(rows, mallows_phi)
    weights, phi = (np.array([getattr(p, n) for p in PAIRS]) for n in ("weight", "dispersion"))
    right = 1 / (1 - phi) + 1 / np.log(phi)
    expected = -np.sum(weights * np.log(right)) / weights.sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    left = -np.sum(weights * np.log(1 - right)) / weights.sum()
    zero = jnp.zeros(6)
    phi = jnp.asarray(phi, jnp.float32)
    jumped = preference.mallows_phi(zero - 1e-9, zero, beta=BETA, dispersion=phi)
    np.testing.assert_allclose(np.sum(weights * jumped) / weights.sum(), left, rtol=1e-5)
    assert left - expected > 0.1


def test_what_rounding_leaves_counts_as_zero(rows):
    """Four units in the last place on the wrong side of the jump, as another program may have."""
    away = rows.reference + 4 * np.spacing(np.abs(rows.reference))
    score = jax.jit(partial(score_answers, MODEL))
    scores = score(PARAMS, rows._replace(reference=away))
    for ratio in scores.log_ratios:
        np.testing.assert_array_equal(ratio, 0.0)
    far = score(PARAMS, rows._replace(reference=rows.reference - 1e-3))
    there = rows.numbers.reshape(-1) >= 0
    for ratio in far.log_ratios:
        np.testing.assert_allclose(ratio[there], 1e-3, atol=1e-4)


def test_rounding_has_a_gradient(rows):
    """The gradient at the reference is -beta/2 times that of the margin of log-probabilities."""

    def margin(params):
        scores = score_answers(MODEL, params, rows._replace(reference=None))
        weights = rows.weights.reshape(-1)
        return jnp.sum(weights * (scores.log_probs[0] - scores.log_probs[1]))

    expected = jax.jit(jax.grad(margin))(PARAMS)
    state, _ = one_step(rows, optimizer=optax.sgd(1.0))
    share = np.float32(BETA / 2 / rows.weights.sum())
    found = jax.tree.map(lambda a, b: np.subtract(a, b) / share, state.params, PARAMS)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * float(np.abs(b).max()) + 1e-4)


@pytest.mark.parametrize(
    ("loss_fn", "parts"),
    [
        (dpo, 2),
        (simpo, 4),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in ((dpo, 4), (simpo, 2))),
    ],
)
def test_parts_of_a_batch_add_up_to_it(rows, loss_fn, parts):
    whole, expected = one_step(rows, loss_fn)
    state, metrics = one_step(rows, loss_fn, config=LMPreference(accumulate=parts))
    assert largest_difference(state.params, whole.params) < 2e-6
    assert expected.keys() == metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_the_layout_does_not_matter(rows):
    """Packed with padding, or a pair to a row in another order: one update."""
    single = pack_pairs(PAIRS[::-1], pairs_per_row=1)
    reference = REFERENCE(PARAMS, single)
    single = single._replace(reference=np.asarray(reference.log_probs))
    config = LMPreference(chunk=7)
    one, other = (one_step(r, mallows_theta, config=config)[0] for r in (rows, single))
    assert largest_difference(one.params, other.params) < 2e-6
    assert largest_difference(one.params, PARAMS) > 1e-3


def test_a_pair_of_no_weight_is_as_if_absent(rows):
    weights = np.where(rows.numbers == 2, 0.0, rows.weights).astype(np.float32)
    others = [pair for n, pair in enumerate(PAIRS) if n != 2]
    without = pad_rows(pack_pairs(others, length=32), 4)
    reference = REFERENCE(PARAMS, without)
    without = without._replace(reference=np.asarray(reference.log_probs))
    one, _ = one_step(rows._replace(weights=weights))
    other, _ = one_step(without)
    assert largest_difference(one.params, other.params) < 2e-6


def test_a_batch_of_no_weight_changes_nothing(rows):
    state, metrics = one_step(rows._replace(weights=0 * rows.weights))
    assert float(metrics["update/finite"]) == 1.0 and int(metrics["update/skipped"]) == 0
    assert largest_difference(state.params, PARAMS) == 0.0 and np.isnan(metrics["loss"])


def test_adapters_learn_alone(rows):
    """They start from zero log-ratios, and nothing else moves, not by a bit."""
    lora = LoRA(rank=2, alpha=6.0, targets=("query", "value", "down"))
    adapted = language_model(CONFIG, lora=lora)

    def init(key):
        fresh = moved(adapted)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: 0.0 * leaf if path[-1].key == "lora_b" else leaf, fresh
        )

    reference = jax.jit(make_reference_pass(adapted))(init(None), rows)
    adapted_rows = rows._replace(reference=np.asarray(reference.log_probs))
    model = adapted._replace(init=init)
    config = LMPreference(adapters_only=True)
    state, metrics = one_step(adapted_rows, config=config, model=model)
    assert abs(float(metrics["loss"]) - np.log(2)) < 1e-7
    same = jax.tree.map(np.array_equal, whole_params(state), init(None))
    for path, unmoved in jax.tree_util.tree_leaves_with_path(same):
        assert unmoved is (path[-1].key != "lora_b"), path
    trained = jax.tree_util.tree_leaves_with_path(state.policy.params)
    assert {path[-1].key for path, _ in trained} == {"lora_a", "lora_b"}
    # The same where the step is given what does not move.
    apart = dataclasses.replace(config, frozen_apart=True)
    algorithm = make_lm_preference(model, SGD, dpo, apart)
    first, frozen = algorithm.init(jax.random.key(0)), lora_parts(init(None))[1]
    assert not jax.tree.leaves(first.reference)
    ended, _ = jax.jit(algorithm.step)(first, adapted_rows, frozen)
    assert largest_difference(whole_params(ended, frozen), whole_params(state)) < 1e-7
    with pytest.raises(ValueError, match="has no adapters"):
        make_lm_preference(MODEL, optax.sgd(0.1), dpo, config)


ANSWERS = 5
REWARDS = np.array([0.5, -1.0, 0.2, 1.3, -0.4])
BASE = np.array([0.3, -0.7, 0.0, 0.4, 1.0])


def free_model():
    """Any law over one token that follows the prompt: logits are the parameters."""

    def apply(params, tokens, positions=None, mask=None, at=None):
        shape = tokens.shape if at is None else at.shape
        return jnp.broadcast_to(params["logits"][None, None], (*shape, ANSWERS))

    shapes = {"logits": jax.ShapeDtypeStruct((ANSWERS,), jnp.float32)}
    return LanguageModel(
        lambda key: {"logits": jnp.asarray(BASE, jnp.float32)},
        apply,
        lambda params: jnp.eye(ANSWERS),
        shapes,
    )


@pytest.mark.parametrize("phi", [None, 0.8, 0.4])
def test_the_optimum_is_the_tilted_reference(phi):
    """Where Bradley-Terry's people see all pairs, DPO's minimum is pi_ref e^{r/beta}; Mallows-theta
    has c beta in place of beta. The weights are the exact probabilities of the outcomes."""
    pairs = [
        TokenPair([0], [i], [j], 1 / (1 + np.exp(REWARDS[j] - REWARDS[i])), phi)
        for i, j in itertools.permutations(range(ANSWERS), 2)
    ]
    model, beta = free_model(), 0.5
    rows = pack_pairs(pairs, length=12)
    params = model.init(jax.random.key(0))
    rows = rows._replace(reference=jax.jit(make_reference_pass(model))(params, rows).log_probs)

    def loss_fn(scores):
        if phi is None:
            return preference.dpo(*scores.log_ratios, beta=beta)
        dispersion = scores.dispersion
        return preference.mallows_theta(*scores.log_ratios, beta=beta, dispersion=dispersion)

    algorithm = make_lm_preference(
        model, optax.adam(optax.cosine_decay_schedule(0.1, 400)), loss_fn
    )

    @jax.jit
    def run(state, rows):
        return jax.lax.scan(lambda s, _: algorithm.step(s, rows), state, length=400)

    state, history = run(algorithm.init(jax.random.key(0)), rows)
    scale = beta if phi is None else -2 * np.log(phi) * beta
    ideal = BASE + REWARDS / scale
    ideal = np.exp(ideal - np.logaddexp.reduce(ideal))
    np.testing.assert_allclose(jax.nn.softmax(state.params["logits"]), ideal, atol=2e-4)
    assert float(history["loss"][-1]) < float(history["loss"][0]) == pytest.approx(np.log(2))


def test_what_cannot_be_is_refused(rows):
    with pytest.raises(ValueError, match="accumulate: received 3; it must divide the 4 rows"):
        one_step(rows, config=LMPreference(accumulate=3))
    with pytest.raises(ValueError, match=r"rows\.reference: received None"):
        one_step(rows._replace(reference=None))
    with pytest.raises(ValueError, match=r"rows\.dispersion: received None"):
        one_step(rows._replace(dispersion=None), mallows_theta)
    wrong: list[dict[str, Any]] = [{"beta": 0.0}, {"accumulate": 0}, {"average_decay": 1.0}]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            LMPreference(**options)


def test_half_precision_starts_at_log_two(rows):
    """bfloat16 arithmetic over float32 parameters."""
    model = language_model(CONFIG, dtype=jnp.bfloat16)
    reference = jax.jit(make_reference_pass(model))(PARAMS, rows)
    half = rows._replace(reference=np.asarray(reference.log_probs))
    state, metrics = one_step(half, model=model._replace(init=lambda key: PARAMS))
    assert abs(float(metrics["loss"]) - np.log(2)) < 1e-6
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    exact, _ = one_step(rows)
    moved_by = largest_difference(exact.params, PARAMS)
    assert largest_difference(state.params, exact.params) < 0.1 * moved_by


def test_recomputed_blocks_give_the_same_update(rows):
    model = language_model(CONFIG, remat=True)._replace(init=lambda key: PARAMS)
    one, other = (one_step(rows, model=m)[0] for m in (STARTED, model))
    assert largest_difference(one.params, other.params) < 2e-6


def test_theta_descends_on_held_pairs(rows):
    algorithm = make_lm_preference(STARTED, optax.adam(3e-3), mallows_theta)
    step = jax.jit(algorithm.step)
    state = algorithm.init(jax.random.key(0))
    losses = []
    for _ in range(5):
        state, metrics = step(state, rows)
        losses.append(float(metrics["loss"]))
    assert losses == sorted(losses, reverse=True)
    assert float(metrics["rewards/accuracies"]) == pytest.approx(1.0)
