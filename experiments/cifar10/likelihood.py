"""Likelihood of held-out images under the probability flow, in bits per dimension.

Bytes are made continuous by uniform noise as wide as a bin, so that the mean log-density is a lower
bound on the log-probability of the bytes (1511.01844); the divergence is Hutchinson's estimate.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model, Params
from ctrl_jax.processes import LinearProcess
from ctrl_jax.runtime import progress
from ctrl_jax.solvers import bits_per_dim, log_likelihood

BIN = 2 / 256
"""Width of a byte's bin: 256 of them cover [-1, 1]."""


def mean_bits_per_dim(
    key: jax.Array,
    process: LinearProcess,
    model: Model,
    params: Params,
    images: np.ndarray,
    *,
    batch: int,
    show: bool,
) -> dict[str, float]:
    """Return the mean over images and its standard error.

    Args:
        key: PRNG key of the noise and of Hutchinson's signs.
        process: the forward process.
        model: score model.
        params: its parameters.
        images: (n, h, w, c) in [-1, 1], the 256 values of bytes.
        batch: images at once.
        show: whether to show progress.
    """

    @jax.jit
    def bits(key, params, x):
        noise_key, sign_key = jax.random.split(key)
        # Bytes lie at 2 i / 255 - 1; their bins are [i, i + 1] * BIN - 1.
        corner = (x + 1) * (255 / 256) - 1
        continuous = corner + BIN * jax.random.uniform(noise_key, x.shape)

        def score_fn(t, x):
            return model.apply(params, t, x)

        found = log_likelihood(process, score_fn, continuous, divergence="hutchinson", key=sign_key)
        return bits_per_dim(found.log_prob, x[0].size, bin_width=BIN), found.ok

    rounds, values, solved = -(-len(images) // batch), [], []
    with progress(rounds, "likelihood", enabled=show) as bar:
        for i in range(rounds):
            rows = images[i * batch : (i + 1) * batch]
            filled = np.resize(rows, (batch, *rows.shape[1:]))  # one shape, one compilation
            value, ok = bits(jax.random.fold_in(key, i), params, jnp.asarray(filled))
            values.append(np.asarray(value)[: len(rows)])
            solved.append(np.asarray(ok)[: len(rows)])
            bar(i + 1, {})
    found, ok = np.concatenate(values), np.concatenate(solved)
    return {
        "bits_per_dim": float(found[ok].mean()) if ok.any() else float("nan"),
        "bits_per_dim/standard_error": float(found[ok].std() / np.sqrt(max(ok.sum(), 1))),
        "bits_per_dim/failed": float((~ok).mean()),
    }
