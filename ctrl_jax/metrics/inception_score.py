r"""The Inception score of a sample of images, from a classifier's logits (1606.03498).

    IS = exp E_x KL(p(y | x) || p(y)),   p(y) = E_x p(y | x),

is 1 where every image gets the same probabilities, and the number of classes where each gets one
class for certain and all come equally often. Published numbers are the mean over ten parts of 50000
samples, each with its own p(y); the estimate grows with the size of a part.
"""

import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, refuse


def inception_score(
    logits: Float[Array, "n classes"] | Float[np.ndarray, "n classes"], *, parts: int = 10
) -> tuple[float, float]:
    """Return mean and standard deviation of the Inception score over equal parts of the sample.

    That of a part is exp E_x KL(p(y | x) || p(y)) with p(y) = E_x p(y | x), between 1 and the
    number of classes; in float64.

    Args:
        logits: unnormalized log-probabilities log p(y | x), shape (n, classes).
        parts: number of parts, at most n; a remainder is left out of none (parts differ by one).

    Raises:
        ValueError: there are fewer images than parts, or a logit is not finite.

    Source: arXiv 1606.03498.
    """
    values = np.asarray(logits, np.float64)
    check_count("inception_score.parts", parts)
    if not 1 <= parts <= len(values):
        rule = f"it must lie in [1, {len(values)}], the number of images"
        raise refuse("inception_score.parts", parts, rule, "give fewer parts or more images")
    if not np.isfinite(values).all():
        rule = "all must be finite"
        raise refuse("inception_score.logits", "NaN or infinity", rule, "leave those images out")
    scores = [_score(part) for part in np.array_split(values, parts)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    probs = np.exp(log_probs)
    # Where p(y) underflows, so does every p(y | x), and contributes nothing.
    log_marginal = np.log(np.maximum(probs.mean(axis=0), np.finfo(np.float64).tiny))
    return float(np.exp(np.mean(np.sum(probs * (log_probs - log_marginal[None]), axis=1))))
