"""The pictures of a run: samples, and the course of the loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax.runtime.run.figures import plt, save


def draw_loss(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss of every update and its running mean over a fiftieth of the run."""
    points = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
    figure, axis = plt.subplots(figsize=(7, 4))
    if points:
        steps, losses = np.array(points, np.float64).T
        axis.plot(steps, losses, color="#9ecae1", linewidth=0.7, label="each update")
        window = max(len(losses) // 50, 1)
        mean = np.convolve(losses, np.ones(window) / window, mode="valid")
        axis.plot(steps[window - 1 :], mean, color="#08519c", label=f"mean of {window}")
        axis.set_yscale("log")
        axis.legend()
    axis.set(xlabel="updates", ylabel="denoising score matching loss")
    axis.grid(True)
    save(figure, path)
