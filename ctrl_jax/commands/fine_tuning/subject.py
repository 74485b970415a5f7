"""What is fine-tuned, seen by the rest of the command: a pipeline or a run, as pure functions.

What no gradient moves (the pretrained denoiser, the decoder of latents) is held once: it is an
argument of the compiled programs, `frozen`, and part of no state, so that checkpoints and optimizer
hold what is trained alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from ctrl_jax._typing import Params
from ctrl_jax.networks.sharding import Rules
from ctrl_jax.processes import LinearProcess, Prediction

Tables = tuple[np.ndarray, ...]
"""Conditions of texts, on the host, each with leading axis texts."""


class Subject(NamedTuple):
    """A diffusion model to be fine-tuned.

    Fields:
        process: the forward process.
        prediction: what the network predicts.
        shape: of one example.
        grid: ``grid(steps)``, reverse times.
        start_std: standard deviation of the start; None for the process's prior.
        frozen: what no gradient moves.
        params: what is trained, as it begins.
        predict: ``predict(frozen, params, t, x, *conditions)``, the network that is trained.
        refer: ``refer(frozen, t, x, *conditions)``, the network as it was.
        decode: ``decode(frozen, x)``, pictures (batch, h, w, 3) in [0, 1].
        widths: last axis of each array of conditions that the network takes.
        learning_rate: the usual one of what is trained.
        rules: how its parameters are divided over a mesh.
        save: ``save(folder, params)`` writes what was trained, and returns the names of its files.
    """

    process: LinearProcess
    prediction: Prediction
    shape: tuple[int, ...]
    grid: Callable[[int], Array]
    start_std: float | None
    frozen: dict[str, Params]
    params: Params
    predict: Callable[..., Array]
    refer: Callable[..., Array]
    decode: Callable[[Any, Array], Array]
    widths: tuple[int, ...]
    learning_rate: float
    rules: Rules
    save: Callable[[Path, Params], Sequence[str]]
