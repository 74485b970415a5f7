"""The Inception score at its two ends, in between, and on bad input."""

import numpy as np
import pytest

from ctrl_jax.metrics.inception_score import inception_score


def test_equal_probabilities_score_one():
    logits = np.tile(np.random.default_rng(0).normal(size=(1, 7)), (40, 1))
    assert inception_score(logits, parts=4) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_certain_and_equally_frequent_classes_score_their_number():
    logits = np.tile(200.0 * np.eye(5), (8, 1))
    assert inception_score(logits, parts=8) == pytest.approx((5.0, 0.0), rel=1e-12)


def test_two_images_by_hand():
    logits = np.log(np.array([[0.9, 0.1], [0.5, 0.5]]))
    marginal = np.array([0.7, 0.3])
    divergences = [
        0.9 * np.log(0.9 / marginal[0]) + 0.1 * np.log(0.1 / marginal[1]),
        0.5 * np.log(0.5 / marginal[0]) + 0.5 * np.log(0.5 / marginal[1]),
    ]
    mean, std = inception_score(logits + 3.0, parts=1)
    assert mean == pytest.approx(np.exp(np.mean(divergences)), rel=1e-12) and std == 0.0


@pytest.mark.parametrize(
    ("logits", "parts", "message"),
    [
        (np.zeros((3, 2)), 4, r"inception_score.parts: received 4; it must lie in \[1, 3\]"),
        (np.full((3, 2), np.nan), 1, "logits: received .NaN or infinity.; all must be finite"),
    ],
)
def test_bad_input_is_named(logits, parts, message):
    with pytest.raises(ValueError, match=message):
        inception_score(logits, parts=parts)
