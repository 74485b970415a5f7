"""The pictures: frontiers, accuracies, and the estimated dispersion against the true one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctrl_jax.runtime.run.figures import plt, save
from experiments.mallows_lm.claims import PLACES, best_row
from experiments.mallows_lm.comparison import METHODS
from experiments.mallows_lm.evaluation import Row
from experiments.mallows_lm.study import Dispersions

COLORS = {
    "dpo": "#000000",
    "theta_true": "#0072B2",
    "theta_estimated": "#56B4E9",
    "phi_true": "#D55E00",
    "phi_estimated": "#E69F00",
    "theta_ranked": "#009E73",
    "phi_ranked": "#CC79A7",
}
WORLDS = {
    "text": "divided: questions that open a sentence",
    "uncertainty": "divided: questions that the base model is unsure of",
}


def draw_frontiers(path: Path, rows: Sequence[Row], base: Mapping[str, np.ndarray]) -> None:
    """Draw gold against divergence, a line per method through its betas."""
    divisions = list(dict.fromkeys(row.division for row in rows))
    size = (10, 3.9 * len(divisions))
    figure, axes = plt.subplots(len(divisions), 2, figsize=size, squeeze=False, sharey="col")
    for line, division in zip(axes, divisions, strict=True):
        for axis, (place, words) in zip(line, PLACES.items(), strict=True):
            own = [row for row in rows if (row.division, row.place) == (division, place)]
            _draw_frontier(axis, own, base[place].mean())
            axis.set_title(f"{words}\n{WORLDS[division]}", fontsize=10)
    axes[0, 0].legend(fontsize=8)
    save(figure, path)


def _draw_frontier(axis, rows: Sequence[Row], start: float):
    for name, method in METHODS.items():
        own = [row for row in rows if row.method == name]
        if not own:
            continue
        own = sorted(own, key=lambda row: row.mean_and_error("kl")[0])
        (kl, kl_error), (gold, gold_error) = (
            np.transpose([row.mean_and_error(what) for row in own]) for what in ("kl", "gold")
        )
        axis.plot([0, kl[0]], [start, gold[0]], color=COLORS[name], linestyle=":", linewidth=1)
        axis.errorbar(
            kl,
            gold,
            gold_error,
            kl_error,
            fmt="o-",
            color=COLORS[name],
            label=method.label,
            markersize=4,
            capsize=2,
        )
    axis.plot(0, start, "k*", markersize=10, label="base model")
    axis.plot([], [], "k:", linewidth=1, label="from it to the largest beta")
    axis.set(xlabel="KL from the base model (nats per answer)", ylabel="gold: minus word length")
    axis.grid(True)


def draw_accuracies(path: Path, rows: Sequence[Row]) -> None:
    """Draw accuracies on agreed and divided questions, every method at its best beta."""
    divisions = list(dict.fromkeys(row.division for row in rows))
    figure, axes = plt.subplots(1, len(divisions), figsize=(6 * len(divisions), 4), squeeze=False)
    for axis, division in zip(axes[0], divisions, strict=True):
        own = [row for row in rows if row.division == division]
        methods = [name for name in METHODS if any(row.method == name for row in own)]
        for i, name in enumerate(methods):
            for part, place, full in (("agreed", 0, 1.0), ("divided", 1, 0.55)):
                row = best_row(own, name, f"accuracy/{part}")
                assert row is not None
                mean, error = row.mean_and_error(f"accuracy/{part}")
                x = place * (len(methods) + 1) + i
                label = METHODS[name].label if place == 0 else None
                axis.bar(x, mean, yerr=error, color=COLORS[name], alpha=full, label=label)
                axis.text(
                    x,
                    mean + np.nan_to_num(error) + 0.005,
                    f"β {row.beta:g}",
                    ha="center",
                    fontsize=7,
                )
        middle = (len(methods) - 1) / 2
        axis.set_xticks([middle, middle + len(methods) + 1], ["agreed", "divided"])
        axis.set(ylim=(0.45, 1), ylabel="accuracy against the central ranking")
        axis.axhline(0.5, color="black", linewidth=0.8, linestyle=":", label="chance")
        axis.set_title(WORLDS[division], fontsize=10)
    axes[0, 0].legend(fontsize=8, loc="upper right")
    save(figure, path)


def draw_dispersions(path: Path, found: Mapping[str, Dispersions]) -> None:
    """Draw estimated against true phi of the training pairs, by division."""
    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False)
    for axis, (division, own) in zip(axes[0], found.items(), strict=True):
        axis.plot(own.true, own.estimated, ".", markersize=2.5, alpha=0.3, color="#0072B2")
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="equal")
        axis.legend(fontsize=8, loc="lower right")
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="true φ", ylabel="estimated φ")
        axis.set_title(f"{WORLDS[division]}\nrank correlation {own.correlation:.2f}", fontsize=10)
    save(figure, path)
