r"""The Frechet distance of two samples through features, and their moments in one pass.

Fit a Gaussian to the features of each sample. The squared W_2 distance of N(m, S) and N(m', S') is

    d^2 = |m - m'|^2 + tr S + tr S' - 2 tr (S^{1/2} S' S^{1/2})^{1/2},

which with the features of an Inception network is known as FID. The last trace is the sum of the
singular values of S^{1/2} S'^{1/2}; found so, a singular covariance costs no digits. Moments are
merged pairwise (`Moments.merge`), so a large set streams through in batches. All in float64 on the
host. The estimate is biased upwards for small samples, by about tr S (1/n + 1/m) and more: compare
equal sizes only.

Source: Dowson and Landau 1982; Heusel et al. 2017; Chan, Golub and LeVeque 1983 (moments).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, refuse
from ctrl_jax._door import read_host

Samples = Float[Array, "_ ..."] | Float[np.ndarray, "_ ..."]
FeatureFn = Callable[[Any], Any]
"""``feature_fn(images)`` returns (batch, features)."""


class Moments(NamedTuple):
    """What is known of features seen so far, in float64.

    Fields:
        number: of examples.
        mean: of the features.
        scatter: sum over examples of the outer square of their distance to the mean.
    """

    number: int
    mean: Float[np.ndarray, " features"]
    scatter: Float[np.ndarray, "features features"]

    @property
    def covariance(self) -> Float[np.ndarray, "features features"]:
        """Return the unbiased covariance."""
        return self.scatter / (self.number - 1)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of this set and another together.

        With n = n_1 + n_2, delta = m_2 - m_1 and the scatter C about the mean m,

            m = m_1 + (n_2 / n) delta,   C = C_1 + C_2 + (n_1 n_2 / n) delta delta^T.

        Args:
            other: moments of other examples, of as many features.

        Source: Chan, Golub and LeVeque 1983.
        """
        number = self.number + other.number
        delta = other.mean - self.mean
        mean = self.mean + other.number / number * delta
        between = self.number * other.number / number * np.outer(delta, delta)
        return Moments(number, mean, self.scatter + other.scatter + between)


def feature_moments(
    batches: Samples | Iterable[Samples], feature_fn: FeatureFn | None = None, *, batch: int = 1024
) -> Moments:
    """Return the moments of the features of a sample, batch by batch.

    Args:
        batches: one array (n, ...), or an iterable of them, of which one is held at a time.
        feature_fn: maps (batch, ...) to (batch, features); by default the flattened values.
        batch: most examples of one array that `feature_fn` sees at once.

    Raises:
        ValueError: fewer than two examples, features that are not (batch, features) or not finite.
    """
    check_count("feature_moments.batch", batch)
    total: Moments | None = None
    arrays = [batches] if isinstance(batches, np.ndarray | jax.Array) else batches
    if isinstance(arrays, str | Mapping) or not isinstance(arrays, Iterable):
        rule = "it must be an array (n, ...) or an iterable of such"
        raise refuse("feature_moments.batches", batches, rule, "give one")
    for array in arrays:
        if not getattr(array, "ndim", 0):
            rule = "each must be an array (n, ...)"
            raise refuse("feature_moments.batches", array, rule, "convert it with numpy.asarray")
        for start in range(0, array.shape[0], batch):
            found = _moments(_features(array[start : start + batch], feature_fn))
            total = found if total is None else total.merge(found)
    _check_examples(0 if total is None else total.number)
    return cast(Moments, total)


def frechet(x: Samples, y: Samples, feature_fn: FeatureFn | None = None) -> float:
    """Return the squared Frechet distance of two samples, known as FID for features of Inception.

    |m - m'|^2 + tr S + tr S' - 2 tr (S^{1/2} S' S^{1/2})^{1/2} of the means m, m' and covariances
    S, S' of their features: the squared W_2 distance of the Gaussians fitted to them. It is biased
    upwards for small samples: compare equal sizes only.

    Args:
        x: one sample, shape (n, ...).
        y: the other, shape (m, ...).
        feature_fn: maps (batch, ...) to (batch, features); by default the flattened values. See
            `feature_moments` for sets that do not fit into memory.

    Raises:
        ValueError: fewer than two examples, or features of different or wrong shapes.

    Source: Dowson and Landau 1982; Heusel et al. 2017.
    """
    if feature_fn is None:
        x, y = read_host("frechet.x", x), read_host("frechet.y", y)
        for name, sample in (("x", x), ("y", y)):
            if not sample.ndim:
                raise refuse(f"frechet.{name}", sample, "it must be a sample", "give (n, ...)")
    return frechet_of_moments(feature_moments(x, feature_fn), feature_moments(y, feature_fn))


def frechet_to(y: Moments) -> Callable[[Samples], float]:
    """Return ``distance(x)``, the squared Frechet distance of samples (n, ...) to the moments `y`.

    |m - m'|^2 + tr S + tr S' - 2 tr (S^{1/2} S' S^{1/2})^{1/2} of the mean m and covariance S of
    the flattened samples, and m' and S' of y. The root of S' is taken once, and that of S never:
    with X the centered samples over (n - 1)^{1/2}, the last trace is the sum of the singular values
    of X S'^{1/2}.

    Args:
        y: moments to compare with, of as many features as a sample has values.

    Raises:
        ValueError: (of the distance) fewer than two examples, or features of another number.

    Source: Dowson and Landau 1982.
    """
    root, variance = _square_root(y.covariance), np.trace(y.covariance)

    def distance(x: Samples) -> float:
        features = _features(x, None)
        _check_examples(len(features))
        _check_numbers(features.shape[1], y.mean.size)
        mean = features.mean(axis=0)
        centered = (features - mean) / np.sqrt(len(features) - 1)
        cross = np.linalg.svd(centered @ root, compute_uv=False).sum()
        traces = np.sum(centered**2) + variance
        return float(max(np.sum((mean - y.mean) ** 2) + traces - 2 * cross, 0.0))

    return distance


def frechet_of_moments(x: Moments, y: Moments) -> float:
    """Return the squared Frechet distance of two sets of moments.

    |m - m'|^2 + tr S + tr S' - 2 tr (S^{1/2} S' S^{1/2})^{1/2} of their means m, m' and covariances
    S, S': the squared W_2 distance of the Gaussians that have them.

    Args:
        x: moments of one sample.
        y: moments of the other, of as many features.

    Raises:
        ValueError: the features differ in number.

    Source: Dowson and Landau 1982; Heusel et al. 2017.
    """
    _check_numbers(x.mean.size, y.mean.size)
    root_x, root_y = _square_root(x.covariance), _square_root(y.covariance)
    cross = np.linalg.svd(root_x @ root_y, compute_uv=False).sum()
    traces = np.sum(root_x**2) + np.sum(root_y**2)
    return float(max(np.sum((x.mean - y.mean) ** 2) + traces - 2 * cross, 0.0))


def _check_examples(number: int) -> None:
    if number < 2:
        raise refuse("examples", number, "at least two are needed", "give more")


def _check_numbers(x: int, y: int) -> None:
    if x != y:
        rule = "both samples need as many features"
        raise refuse("frechet.features", (x, y), rule, "use one feature_fn for both")


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric root of a covariance, whose negative eigenvalues are rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _features(examples: Any, feature_fn: FeatureFn | None) -> np.ndarray:
    features = examples if feature_fn is None else feature_fn(examples)
    features = read_host("features" if feature_fn is None else "feature_fn", features)
    if feature_fn is None and features.ndim:
        features = features.reshape(features.shape[0], -1)
    if features.ndim != 2 or features.shape[0] != len(examples):
        rule = f"it must return (batch, features) = ({len(examples)}, ...)"
        raise refuse("feature_fn", features.shape, rule, "flatten its output")
    if not np.isfinite(features).all():
        rule = "all features must be finite"
        raise refuse("feature_fn", "NaN or infinity", rule, "leave those examples out")
    return features


def _moments(features: np.ndarray) -> Moments:
    mean = features.mean(axis=0)
    centered = features - mean
    return Moments(features.shape[0], mean, centered.T @ centered)
