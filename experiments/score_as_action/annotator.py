"""The hidden annotator: a classifier of real digits that stands for a person with a preference.

It wants one class. Shown two images it prefers the one in which it sees more of that class, with a
person's inconsistency: the better one is chosen with probability sigmoid(sharpness * difference).
Training never sees it; only its choices, and at the end its verdict as the gold measure.
"""

import numpy as np

from ctrl_jax._checks import refuse


class Annotator:
    """Fitted on held-out real images.

    Args:
        images: real images, (n, ...), never used for pre-training.
        labels: their classes.
        target: the class it wants.
        sharpness: how consistent its choices are.

    Raises:
        ValueError: the target is not among the labels.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, target: int, *, sharpness: float = 2.0
    ):
        from sklearn.svm import SVC

        classes = np.unique(labels)
        if target not in classes or len(classes) < 2:
            rule = f"it must be one of the classes {classes.tolist()} (at least two)"
            raise refuse("target_class", target, rule, "choose one of them")
        self.target, self.sharpness = target, sharpness
        scale = 1.0 / (images[0].size * float(np.var(images)))
        self._classifier = SVC(gamma=scale, C=10.0, decision_function_shape="ovr")
        self._classifier.fit(_flat(images), labels)

    def success(self, images: np.ndarray) -> np.ndarray:
        """Return 1 for images seen as the wanted class, else 0."""
        return (self._classifier.predict(_flat(images)) == self.target).astype(np.float64)

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of real images it classifies correctly."""
        return float(np.mean(self._classifier.predict(_flat(images)) == labels))

    def prefers_first(
        self, first: np.ndarray, second: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Return its choice for each pair of images, True for the first."""
        gap = self.sharpness * (self._likeness(first) - self._likeness(second))
        return generator.random(len(first)) < 1 / (1 + np.exp(-gap))

    def _likeness(self, images: np.ndarray) -> np.ndarray:
        """How much more of the wanted class than of the likeliest other one it sees."""
        scores = np.asarray(self._classifier.decision_function(_flat(images)))
        if scores.ndim == 1:
            return scores if self._classifier.classes_[1] == self.target else -scores
        column = int(np.searchsorted(self._classifier.classes_, self.target))
        return scores[:, column] - np.delete(scores, column, axis=1).max(axis=1)


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1)
