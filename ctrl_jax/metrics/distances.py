"""Distances between samples, by name.

| name | what it is | cost | where |
|---|---|---|---|
| `wasserstein_1d` | exact W_p on the line | n log n | `wasserstein` |
| `sliced_wasserstein` | mean of it over directions | n log n per direction | `wasserstein` |
| `wasserstein_assignment` | exact W_p in any dimension | n^3, on the host | `wasserstein` |
| `mmd` | squared kernel mean distance, unbiased | n^2 | `discrepancy` |
| `energy_distance` | the same with kernel -\\|x - y\\|, unbiased | n^2 | `discrepancy` |
| `frechet` | squared W_2 of Gaussians fitted to features | n d^2, on the host | `frechet` |
| `frechet_to` | the same to fixed moments | n d min(n, d), on the host | `frechet` |
| `mean_pairwise` | the diversity of one sample | n^2 | `discrepancy` |
"""

from ctrl_jax.metrics.discrepancy import energy_distance, mean_pairwise, mmd
from ctrl_jax.metrics.frechet import (
    Moments,
    feature_moments,
    frechet,
    frechet_of_moments,
    frechet_to,
)
from ctrl_jax.metrics.wasserstein import sliced_wasserstein, wasserstein_1d, wasserstein_assignment

__all__ = [
    "Moments",
    "energy_distance",
    "feature_moments",
    "frechet",
    "frechet_of_moments",
    "frechet_to",
    "mean_pairwise",
    "mmd",
    "sliced_wasserstein",
    "wasserstein_1d",
    "wasserstein_assignment",
]
