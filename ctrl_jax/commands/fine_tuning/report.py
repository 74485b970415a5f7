"""What a run leaves for the eye: a sheet before and after, curves, a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax.commands.fine_tuning.evaluation import Found
from ctrl_jax.data.prompts import Prompt
from ctrl_jax.runtime.run.figures import plt, save
from ctrl_jax.runtime.run.sheets import draw_sheet
from ctrl_jax.runtime.run.tables import print_table

LARGEST_SHEET = 16
"""Prompts on the sheet."""

STYLES = {"": {"alpha": 0.6, "color": "C0"}, "evaluation/": {"marker": "o", "color": "C1"}}
TITLES = {"reward/mean": "reward", "kl/path": "path KL (nats)"}


def draw_before_and_after(
    path: Path, prompts: Sequence[Prompt], before: Found, after: Found
) -> None:
    """Draw pictures of the same noise and prompts, before above after."""
    rows: list[tuple[str, Sequence[np.ndarray]]] = []
    for number in dict.fromkeys(before.prompts[: LARGEST_SHEET * _each(before)].tolist()):
        title = prompts[number].text or "samples"
        for when, found in (("before", before), ("after", after)):
            own = [*found.pictures[found.prompts == number]]
            rows.append((f"{title}, {when}", own))
    draw_sheet(path, rows)


def _each(found: Found) -> int:
    return int(np.sum(found.prompts == found.prompts[0]))


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw rewards, divergence and diversity against updates, evaluations with marks."""
    names = sorted({name.removeprefix("evaluation/") for row in rows for name in row})
    parts = [n for n in names if n.startswith(("reward/", "held_out/")) and n.count("/") == 2]
    shown = ["reward/mean", *(n for n in parts if n.endswith("/mean")), "kl/path", "diversity"]
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.2 * lines), squeeze=False)
    for axis, name in zip(axes.flat, shown, strict=False):
        for prefix, style in STYLES.items():
            points = [(row["step"], row[prefix + name]) for row in rows if prefix + name in row]
            if points:
                label = "evaluation" if prefix else "training"
                axis.plot(*zip(*points, strict=True), label=label, **style)
        axis.set(title=TITLES.get(name, name.removesuffix("/mean")), xlabel="update")
        axis.grid(True)
        if axis.has_data():
            axis.legend(fontsize=7)
    for axis in [*axes.flat][len(shown) :]:
        axis.axis("off")
    save(figure, path)


def print_results(title: str, metrics: Mapping[str, Any]) -> None:
    """Print what was measured before and after."""
    names = [name.removesuffix("/after") for name in metrics if name.endswith("/after")]
    cells = [[name, metrics[f"{name}/before"], metrics[f"{name}/after"]] for name in names]
    print_table(title, ("evaluation", "before", "after"), cells)
