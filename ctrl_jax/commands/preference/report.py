"""What a run on a user's model leaves: a table, pictures of its course and of the dispersion."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax._records import write_atomic
from ctrl_jax.runtime.run.figures import plt, save
from ctrl_jax.runtime.run.tables import print_table

PANELS = (
    ("loss", ("loss",)),
    ("accuracy", ("rewards/accuracies",)),
    ("rewards", ("rewards/chosen", "rewards/rejected", "rewards/margins")),
    ("KL of answers (nats)", ("kl",)),
)
MEASURED = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "kl")


def draw_curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draw training metrics, and those of held-out pairs with marks."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4.2 * len(PANELS), 3.2))
    for axis, (title, names) in zip(axes, PANELS, strict=True):
        for color, name in enumerate(names):
            for prefix, style in (("", {"alpha": 0.6}), ("evaluation/", {"marker": "o"})):
                points = [(row["step"], row[prefix + name]) for row in rows if prefix + name in row]
                if points:
                    word = "held out" if prefix else "training"
                    label = f"{name.split('/')[-1]}, {word}"
                    axis.plot(*zip(*points, strict=True), color=f"C{color}", label=label, **style)
        axis.set(title=title, xlabel="update")
        if axis.has_data():
            axis.legend(fontsize=7)
    save(figure, path)


def draw_dispersion(path: Path, index: np.ndarray, scale: float | None) -> None:
    """Draw the dispersion index of the training pairs, and phi where it is made of it."""
    figure, axis = plt.subplots(figsize=(5, 3.2))
    axis.hist(index, bins=40, range=(0, 1), alpha=0.7, label="index H / log V")
    if scale is not None:
        label = f"phi = index ^ {scale:.3g}"
        axis.hist(index**scale, bins=40, range=(0, 1), alpha=0.7, label=label)
    axis.set(xlabel="dispersion", ylabel="training pairs", title="dispersion of the prompts")
    axis.legend(fontsize=8)
    save(figure, path)


SHOWN, WIDTH = 3, 300
"""Samples that are printed, and most characters of each text; all are in samples.jsonl."""


def write_samples(path: Path, samples: Sequence[Mapping[str, str]]) -> None:
    """Write prompts with their answers before and after, a JSON object on each line."""
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
    write_atomic(path, "".join(lines))


def print_samples(samples: Sequence[Mapping[str, str]]) -> None:
    """Print the first prompts with their answers before and after."""
    encoding = sys.stdout.encoding or "utf-8"
    # Plain: what a model writes is no markup.
    for sample in samples[:SHOWN]:
        for name, text in sample.items():
            shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
            text = f"{name + ':':8}{shown[:WIDTH]}{' ...' if len(shown) > WIDTH else ''}"
            print(text.encode(encoding, "replace").decode(encoding))
        print()


def print_results(metrics: dict[str, Any], title: str) -> None:
    """Print held-out metrics before and after."""
    cells = [
        [name, metrics[f"{name}/before"], metrics[f"{name}/after"]]
        for name in MEASURED
        if f"{name}/after" in metrics
    ]
    print_table(title, ("held-out pairs", "before", "after"), cells)
