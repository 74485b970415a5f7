"""What is measured on samples: Frechet distances, and the Inception score."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ctrl_jax.metrics.frechet import Moments, feature_moments, frechet_of_moments
from ctrl_jax.metrics.inception_score import inception_score
from ctrl_jax.pretrained import Inception
from ctrl_jax.runtime import progress
from experiments.cifar10.sampling import to_floats

BLOCKS = 4
FEATURE_BATCH = 256


def block_means(images: np.ndarray) -> np.ndarray:
    """Return the means over 4 x 4 blocks of images (n, h, w, c), as features (n, 16 c).

    Heights and widths that 4 does not divide lose their last rows and columns.
    """
    n, h, w, c = images.shape
    rows, columns = h // BLOCKS, w // BLOCKS
    kept = images[:, : BLOCKS * rows, : BLOCKS * columns]
    return kept.reshape(n, BLOCKS, rows, BLOCKS, columns, c).mean(axis=(2, 4)).reshape(n, -1)


def measure(
    samples: np.ndarray, real: np.ndarray, inception: Inception | None, *, show: bool
) -> dict[str, Any]:
    """Return the metrics of samples (uint8) against real images (float32 in [-1, 1]).

    `frechet/pixels` is of block means and compares with nothing published; `fid` and
    `inception_score` need the Inception network, and published values need 50000 samples.
    """
    fake = to_floats(samples)
    pixels = [feature_moments(block_means(images)) for images in (fake, real)]
    metrics: dict[str, Any] = {"frechet/pixels": frechet_of_moments(*pixels)}
    if inception is None:
        return metrics
    apply = jax.jit(inception.apply)
    moments, logits = _moments(
        lambda x: apply(inception.params, x), fake, "Inception, samples", show
    )
    reference, _ = _moments(lambda x: apply(inception.params, x), real, "Inception, data", show)
    mean, std = inception_score(logits, parts=min(10, len(logits)))
    metrics |= {"fid": frechet_of_moments(moments, reference)}
    return metrics | {"inception_score": mean, "inception_score/std": std}


def _moments(
    network: Callable, images: np.ndarray, description: str, show: bool
) -> tuple[Moments, np.ndarray]:
    """Return the moments of the features of images, and the logits."""
    logits = []

    def features() -> Iterator[np.ndarray]:
        rounds = -(-len(images) // FEATURE_BATCH)
        with progress(rounds, description, enabled=show) as bar:
            for i in range(rounds):
                rows = images[i * FEATURE_BATCH : (i + 1) * FEATURE_BATCH]
                # One shape, so one compilation: the last batch is filled up and cut again.
                filled = np.pad(rows, ((0, FEATURE_BATCH - len(rows)), (0, 0), (0, 0), (0, 0)))
                found = jax.device_get(network(filled))
                logits.append(found.logits[: len(rows)])
                bar(i + 1, {})
                yield found.features[: len(rows)]

    moments = feature_moments(features())
    return moments, np.concatenate(logits)
