"""Data that several studies share."""

import numpy as np

ROLL_SCALE = 1 / 7
"""Brings the roll to unit variance, nearly."""


def draw_roll(generator: np.random.Generator, number: int) -> np.ndarray:
    """Return points on a spiral of one and a half turns, with a little noise."""
    angle = 1.5 * np.pi * (1 + 2 * generator.random(number))
    points = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    noise = 0.25 * generator.normal(size=points.shape)
    return (ROLL_SCALE * (points + noise)).astype(np.float32)
