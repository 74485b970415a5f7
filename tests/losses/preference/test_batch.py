"""Losses that look at the other pairs of a batch: how much each counts, and what is held fixed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax import losses
from ctrl_jax.algorithms import AnswerScores, named_loss
from ctrl_jax.losses.preference.named import NAMED
from tests.losses.preference.test_values import STORED, X
from tests.oracles import preference as oracle

preference: Any = losses.preference  # what is refused below has the wrong type as well
BETA = 0.4
PAIR = tuple(2 * jax.random.normal(jax.random.key(3), (2, 6)))
MASS = jnp.asarray([1.0, 2.0, 0.0, 3.0, 1.0, 0.0])
OF_BATCH = {"aot": preference.aot, "kto_pairs": preference.kto_pairs}


def test_kto_of_pairs_by_its_formula():
    w, r = (np.asarray(v, np.float64) for v in PAIR)
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    found = preference.kto_pairs(*PAIR, beta=BETA, **weights)
    np.testing.assert_allclose(found, oracle.kto_pairs(w, r, BETA, 1.5, 0.5), rtol=1e-5)


@pytest.mark.parametrize("name", OF_BATCH)
def test_mass_is_repetition_and_padding_is_nothing(name):
    """In value and gradient; what a pair without mass holds does not matter."""
    numbers = MASS.astype(int)
    rows = np.repeat(np.arange(6), numbers)

    def total(pair, mass, rows):
        values = OF_BATCH[name](*(v[rows] for v in pair), beta=BETA, mass=mass)
        return jnp.sum(values * (1.0 if mass is None else mass)), values

    @jax.jit
    def both(pair):
        spoiled = tuple(jnp.where(MASS > 0, v, 1e6 * s) for v, s in zip(pair, (1, -1), strict=True))
        return [
            jax.value_and_grad(total, has_aux=True)(pair, None, rows),
            jax.value_and_grad(total, has_aux=True)(spoiled, MASS, np.arange(6)),
        ]

    ((repeated, each), slope), ((massive, values), slope_of_mass) = both(PAIR)
    np.testing.assert_allclose(massive, repeated, rtol=1e-5)
    np.testing.assert_allclose(np.where(MASS > 0, slope_of_mass, 0.0), slope, rtol=1e-4, atol=1e-6)
    # The value of a pair is the mean over its repetitions.
    first = np.concatenate([[0], np.cumsum(numbers)])
    for i in np.flatnonzero(numbers):
        own = each[first[i] : first[i + 1]]
        np.testing.assert_allclose(values[i], np.mean(own), rtol=1e-5)
    assert np.isfinite(values).all()


def test_equal_mass_changes_nothing():
    for loss in OF_BATCH.values():
        np.testing.assert_allclose(
            loss(*PAIR, beta=BETA, mass=jnp.ones(6)), loss(*PAIR, beta=BETA), rtol=1e-6
        )


def test_the_divergence_of_kto_is_held_fixed():
    jacobian = jax.jacobian(lambda w: preference.kto_pairs(w, PAIR[1], beta=BETA))(PAIR[0])
    np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))


def scores_of(rows, weights):
    def both(name, rows):
        chosen, rejected = (jnp.asarray(X[f"{name}_{a}"][rows]) for a in ("chosen", "rejected"))
        return chosen, rejected

    log_probs, reference = both("policy", rows), both("ref", rows)
    ratios = log_probs[0] - reference[0], log_probs[1] - reference[1]
    phi = jnp.full(len(rows), 0.3)
    return AnswerScores(log_probs, both("tokens", rows), ratios, phi, jnp.asarray(weights))


def test_padding_changes_no_named_loss():
    """Eight pairs, and the same with four more that weigh nothing."""
    alone, padded = (
        scores_of(np.arange(8), np.ones(8, "f4")),
        scores_of(np.arange(12), np.repeat(np.array([1, 0], "f4"), (8, 4))),
    )

    @jax.jit
    def compute(alone, padded):
        fns = [named_loss(name, beta=0.1) for name in NAMED]
        return [(loss(alone), loss(padded)) for loss in fns]

    for name, (short, long) in zip(NAMED, compute(alone, padded), strict=True):
        np.testing.assert_allclose(long[:8], short, rtol=1e-4, atol=1e-6, err_msg=name)
        assert np.isfinite(long).all(), name


def test_several_losses_are_their_weighted_sum():
    scores = scores_of(np.arange(12), np.ones(12, "f4"))
    found = named_loss(("dpo", "ipo"), beta=0.1, shares=(0.7, 0.2))(scores)
    np.testing.assert_allclose(np.mean(found), STORED["values"]["two_losses"], rtol=1e-5)
    options: dict[str, Any] = {"label_smoothing": 0.2, "tau": 0.3}
    found = named_loss(("robust", "aot", "discopop"), beta=0.1, **options)(scores)
    parts = [
        named_loss("robust", beta=0.1, label_smoothing=0.2)(scores),
        named_loss("aot", beta=0.1, label_smoothing=0.2)(scores),
        named_loss("discopop", beta=0.1, tau=0.3)(scores),
    ]
    np.testing.assert_allclose(found, sum(parts), rtol=1e-6)


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: preference.bco(*PAIR, beta=0.1, shift=NAN), "shift: received nan; it must be fin"),
        (
            lambda: preference.bco(*PAIR, beta=0.1, shift=jnp.asarray([0, 0, jnp.inf, 0, 0, 0])),
            "shift: received inf; it must be fin",
        ),
        (lambda: preference.kto(PAIR[0], PAIR[0] > 0, NAN, beta=0.1), "kl: received nan; it must"),
        (
            lambda: preference.dpo(*PAIR, beta=0.1, weights=MASS * jnp.nan),
            "weights: received nan; it must be fin",
        ),
        (
            lambda: preference.aot(*PAIR, beta=0.1, mass=-MASS),
            "mass: received -1.0; .* zero or above",
        ),
        (
            lambda: preference.kto_pairs(*PAIR, beta=0.1, mass=MASS[:2]),
            r"mass: .* one per example, shape \[6\]",
        ),
        (
            lambda: preference.discopop(*PAIR, beta=0.1, tau=0.0),
            "tau: received 0.0; it must be above",
        ),
        (
            lambda: preference.simpo(*PAIR, beta=0.1, gamma=0.5, alpha=0.0),
            "alpha: received 0.0; it must not be 0",
        ),
        (lambda: named_loss("exo_pair", beta=0.1), "received 'exo_pair'; .* TRL's name .*give exo"),
        (lambda: named_loss((), beta=0.1), r"name: received \(\); there must be a loss"),
        (lambda: named_loss(("dpo", "sft"), beta=0.1, shares=(1.0,)), "shares: .* one for each lo"),
        (lambda: named_loss("dpo", beta=0.1, shares=(NAN,)), "shares: received nan; .* finite"),
    ],
)
def test_what_is_refused(call, said, unchecked):
    with pytest.raises(ValueError, match=said):
        call()
