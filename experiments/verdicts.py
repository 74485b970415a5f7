"""Statistics over the seeds of an experiment."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

Seeds = np.ndarray | Sequence[float]


def mean_and_error(values: Seeds) -> tuple[float, float]:
    """Return the mean over seeds and its standard error, NaN of one seed."""
    seeds = np.asarray(values, np.float64)
    if seeds.size < 2:
        return float(seeds.mean()), float("nan")
    with np.errstate(invalid="ignore"):  # a seed may have run away to infinity
        return float(seeds.mean()), float(seeds.std(ddof=1) / np.sqrt(seeds.size))


def verdict(gains: Seeds) -> str:
    """Return whether paired differences are above zero by more than chance: yes, level or no.

    Student's t, 97.5 % on either side: of twenty comparisons without a difference one is expected
    to look decided. Without a finite mean "not comparable", of one seed "one seed".
    """
    mean, error = mean_and_error(gains)
    if not np.isfinite(mean):
        return "not comparable"
    if np.size(gains) < 2:
        return "one seed"
    margin = float(stats.t.ppf(0.975, np.size(gains) - 1)) * error
    return "yes" if mean > margin else "level" if mean >= -margin else "no"
