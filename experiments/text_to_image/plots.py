"""The pictures of the study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax.metrics.frontier import Frontier
from ctrl_jax.runtime.run.figures import plt, save
from ctrl_jax.runtime.run.sheets import draw_sheet
from experiments.text_to_image.evaluation import Drawn
from experiments.text_to_image.scenes import CATEGORIES, Request
from experiments.text_to_image.things import CREDIT

COLORS = {"ppo": "#0072B2", "grpo": "#009E73", "ddpo": "#D55E00"}
SHOWN = 5
"""Pictures of each caption on the sheet."""


def draw_samples(
    path: Path, asked: Sequence[Request], before: Drawn, after: Drawn, *, things: str
) -> None:
    """Draw a caption of every category, seen and set apart, before and after on the same noise."""
    rows: list[tuple[str, Sequence[np.ndarray]]] = []
    for category in CATEGORIES:
        for seen in (True, False):
            fits = [i for i, r in enumerate(asked) if r.category == category and r.seen == seen]
            for i in fits[:1]:
                said = asked[i].caption + ("" if seen else " (never seen in pre-training)")
                both = [*map(framed, (*before.pictures[i][:SHOWN], *after.pictures[i][:SHOWN]))]
                right = f"{before.right[i].mean():.0%} and {after.right[i].mean():.0%}"
                rows.append((f"{said}: {SHOWN} before, {SHOWN} after; right {right}", both))
    if things == "emoji":
        rows[-1] = (f"{rows[-1][0]}. {CREDIT}", rows[-1][1])
    draw_sheet(path, rows)


def framed(picture: np.ndarray) -> np.ndarray:
    """Return a picture in a gray frame, for white on white shows no border."""
    return np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=200)


def draw_frontier(
    path: Path, ideal: Frontier, tracks: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Draw success against path KL: the ideal, and runs over time beside it.

    Args:
        path: file to write.
        ideal: the frontier of the base model.
        tracks: label to (path KL, success) points.
    """
    assert ideal.success is not None
    figure, axis = plt.subplots(figsize=(7.5, 5))
    axis.plot(ideal.kl, ideal.success, color="black", linewidth=2, label="ideal")
    for label, points in tracks.items():
        color = COLORS.get(label.split(" ")[0], COLORS["ppo"])
        axis.plot(*zip(*points, strict=True), "o-", markersize=4, color=color, label=label)
    axis.set_xscale("symlog", linthresh=1.0)
    axis.set_xlim(left=0)
    axis.set(xlabel="path KL from the base model (nats)", ylabel="right by the detector")
    axis.grid(True)
    axis.legend()
    save(figure, path)


def draw_over_optimization(path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw the proxy that is trained on, and the detector beside it, against path KL.

    Args:
        path: file to write.
        runs: label to the rows of evaluations.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    panels = (("proxy", "CLIP score, trained on"), ("gold", "right by the detector, held out"))
    for axis, (name, title) in zip(axes, panels, strict=True):
        for label, rows in runs.items():
            points = [(row["queries"], row[name]) for row in rows]
            axis.plot(*zip(*points, strict=True), "o-", markersize=4, label=label)
        axis.set(title=title, xlabel="reward queries")
        axis.grid(True)
        axis.legend()
    save(figure, path)
