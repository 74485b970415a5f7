"""Pictures of the score-matching objectives."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctrl_jax.runtime.run.figures import plt, save

COLORS = {
    "explicit": "#000000",
    "implicit": "#0072B2",
    "sliced": "#009E73",
    "sliced, plain": "#E69F00",
    "denoising": "#D55E00",
}


def draw_variance(
    path: Path, times: Sequence[float], variances: Mapping[str, Sequence[float]], dimension: int
) -> None:
    """Draw the variance of each gradient against the time it is taken at."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for name, values in variances.items():
        axis.plot(times, values, marker="o", markersize=4, label=name, color=COLORS[name])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="forward time t",
        ylabel="variance / squared mean explicit gradient",
        title=f"one batch's gradient at one time, {dimension} dimensions",
    )
    axis.legend()
    save(figure, path)


def draw_training(path: Path, curves: Mapping[str, np.ndarray], every: int, dimension: int) -> None:
    """Draw the error of the score in training by each objective: the median, thin the seeds."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for name, values in curves.items():
        steps = every * np.arange(1, values.shape[1] + 1)
        axis.plot(steps, values.T, color=COLORS[name], linewidth=0.5, alpha=0.6)
        median = np.median(values, axis=0)
        axis.plot(steps, median, label=name, color=COLORS[name], linewidth=1.8)
    axis.set(
        yscale="log",
        xlabel="updates",
        ylabel="v |s - true score|² per dimension",
        title=f"the same network trained by each objective, {dimension} dimensions",
    )
    axis.legend()
    save(figure, path)


def draw_efficiency(path: Path, rows: Mapping[int, Mapping[str, tuple[float, float]]]) -> None:
    """Draw variance and time of a gradient, both over those of denoising, for each dimension."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True)
    labels = ("variance / denoising's", "time / denoising's")
    for i, (axis, label) in enumerate(zip(axes, labels, strict=True)):
        for name, color in COLORS.items():
            values = [row[name][i] for row in rows.values()]
            axis.plot(list(rows), values, marker="o", label=name, color=color)
        axis.axhline(1.0, color="#999999", linewidth=0.8)
        axis.set(xscale="log", yscale=("log", "linear")[i], xlabel="dimension", ylabel=label)
        axis.set_xticks(list(rows), [str(d) for d in rows])
        axis.minorticks_off()
    axes[1].set_ylim(bottom=0)
    axes[1].legend()
    save(figure, path)
