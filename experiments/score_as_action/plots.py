"""The pictures of a fine-tuning run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax.metrics.frontier import Frontier
from ctrl_jax.runtime.run.figures import plt, save, tile

INK = "#333333"
COLORS = {
    "ppo": "#0072B2",
    "value_gradient": "#009E73",
    "policy_gradient": "#E69F00",
    "ddpo": "#D55E00",
    "dpok": "#CC79A7",
}


def draw_samples(path: Path, before: np.ndarray, after: np.ndarray, target: str) -> None:
    """Draw two grids of images made with the same noise, before and after fine-tuning."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.9))
    titles = ("before", f"after fine-tuning towards {target}")
    for axis, images, title in zip(axes, (before, after), titles, strict=True):
        axis.imshow(tile(images), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(title, fontsize=11)
        axis.axis("off")
    figure.suptitle("samples from the same noise", fontsize=11, color=INK)
    save(figure, path)


def draw_curves(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    labels: tuple[str, str, str],
    real_diversity: float | None,
) -> None:
    """Draw reward, success, diversity (by these labels) and path KL against reward queries."""
    success, reward, diversity = labels
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True)
    panels = (
        ("evaluation/reward", f"{reward} (base std)"),
        ("evaluation/success", success),
        ("evaluation/diversity", diversity),
        ("evaluation/kl", "path KL (nats)"),
    )
    for axis, (name, label) in zip(axes.flat, panels, strict=True):
        points = [(r["reward_queries"], r[name]) for r in rows if r.get(name) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color=COLORS["ppo"])
        axis.set_ylabel(label)
        axis.grid(True)
    axes[0, 1].set_ylim(0, 1.02)
    if real_diversity is not None:
        axes[1, 0].axhline(real_diversity, color=INK, linestyle="--", linewidth=1)
        axes[1, 0].annotate(
            "real images", (0.02, real_diversity), xycoords=("axes fraction", "data")
        )
    for axis in axes[1]:
        axis.set_xlabel("reward queries")
    save(figure, path)


def draw_frontier(
    path: Path,
    frontier: Frontier,
    tracks: Mapping[str, Sequence[tuple[float, float]]],
    *,
    joined: bool = True,
    success: str = "success",
) -> None:
    """Draw success against path KL: the ideal frontier, and the track of each run beside it.

    Args:
        path: file to write.
        frontier: the ideal frontier; drawn where at least 100 samples are effective.
        tracks: label to (path KL, success) points.
        joined: whether a track is one run over time, its last point marked, or separate runs.
        success: what success is called.
    """
    assert frontier.success is not None
    trusted = frontier.effective_samples >= 100
    figure, axis = plt.subplots(figsize=(7.5, 5))
    axis.plot(
        frontier.kl[trusted], frontier.success[trusted], color="black", linewidth=2, label="ideal"
    )
    further = 1.5 * frontier.kl[trusted]
    axis.plot(further, frontier.success[trusted], "k:", label="1.5 x its path KL")
    tracks = {
        label: [p for p in points if np.isfinite(p).all()] for label, points in tracks.items()
    }
    for label, points in tracks.items():
        if not points:
            continue
        kls, successes = zip(*points, strict=True)
        color = COLORS.get(label, COLORS["ppo"])
        line = "-" if joined else "none"
        axis.plot(kls, successes, "o", markersize=4, linestyle=line, color=color, label=label)
        if joined:
            axis.plot(kls[-1], successes[-1], marker="*", markersize=14, color=color)
    if joined and any(tracks.values()):  # one for all of them, in no run's color
        axis.plot([], [], "*", markersize=14, color=INK, label="after the last update")
    largest = max((kl for points in tracks.values() for kl, _ in points), default=1.0)
    if largest > 20:
        axis.set_xscale("symlog", linthresh=1.0)
    axis.set_xlim(left=0)
    axis.set(
        xlabel="path KL from the pretrained model (nats)",
        ylabel=success,
    )
    axis.grid(True)
    axis.legend(loc="lower right")
    save(figure, path)


def draw_queries(path: Path, curves: Mapping[str, np.ndarray], batch: int, optimum: float) -> None:
    """Draw the penalized objective against reward queries, mean and spread over seeds.

    Args:
        path: file to write.
        curves: label to objective, shape (seeds, updates).
        batch: queries per update.
        optimum: the best objective there is.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.5))
    medians = [float(np.median(values)) for values in curves.values()]
    lowest = min((median for median in medians if np.isfinite(median)), default=optimum)
    for label, values in curves.items():
        queries = batch * np.arange(1, values.shape[1] + 1)
        mean, spread = values.mean(axis=0), values.std(axis=0)
        color = COLORS.get(label, INK)
        axis.plot(queries, mean, color=color, label=label)
        axis.fill_between(queries, mean - spread, mean + spread, color=color, alpha=0.15)
    axis.axhline(optimum, color="black", linestyle="--", linewidth=1, label="optimum")
    axis.set_ylim(max(lowest - 1.0, optimum - 5.0), optimum + 0.2)
    axis.set(xlabel="reward queries", ylabel="reward - penalty x path KL")
    axis.legend(loc="lower right")
    axis.grid(True)
    save(figure, path)
