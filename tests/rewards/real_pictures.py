"""The photographs that ship with scikit-learn, (427, 640, 3) bytes each."""

import functools

import numpy as np
from sklearn.datasets import load_sample_image


@functools.cache
def china() -> np.ndarray:
    """A temple, many edges."""
    return np.asarray(load_sample_image("china.jpg"))


@functools.cache
def flower() -> np.ndarray:
    """A flower, mostly smooth."""
    return np.asarray(load_sample_image("flower.jpg"))
