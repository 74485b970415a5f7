"""The pictures of `experiments.contraction`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctrl_jax.runtime.run.figures import plt, save
from experiments.contraction.data import Task
from experiments.contraction.family import COLORS, family
from experiments.contraction.learned import Learned
from experiments.contraction.measurement import KINDS, LEARNED_SAMPLERS, SAMPLERS, Measurement, find


def draw_errors(path: Path, found: Sequence[Measurement], steps: int) -> None:
    """Draw W2 under every kind of error beside the bound of theorem 1."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), sharex=True, sharey=True)
    for row, start in zip(axes, ("exact", "prior"), strict=True):
        for axis, kind in zip(row, KINDS, strict=True):
            _errors_of_kind(axis, found, steps, start, kind)
            axis.set_title(f"{kind} error, started from the {start} law", fontsize=10)
        row[0].set_ylabel("W2 to the data")
    for axis in axes[1]:
        axis.set_xticks(range(len(family())), list(family()), rotation=60, ha="right")
    axes[0, 0].legend(fontsize=8, loc="upper left")
    axes[0, 0].set_ylim(8e-3, 30)
    figure.suptitle(f"exact scores with errors put in, {steps} Euler steps", fontsize=11)
    save(figure, path)


def _errors_of_kind(axis, found, steps: int, start: str, kind: str) -> None:
    for i, process in enumerate(family()):
        where = {"process": process, "sampler": "euler", "steps": steps, "start": start}
        color, first = COLORS[process], i == 0
        for mark, shift, fill in (("+", -0.15, color), ("-", 0.15, "white")):
            m = find(found, error=kind + mark, **where)[0]
            axis.errorbar(
                i + shift,
                m.mean,
                2 * m.stderr,
                fmt="o",
                color=color,
                markerfacecolor=fill,
                capsize=2,
                label=f"error {mark}" if first else None,
            )
            assert m.bound is not None
            label = "bound of theorem 1 (exact SDE)" if first and mark == "+" else None
            ends = [i + shift - 0.13, i + shift + 0.13]
            axis.plot(ends, [min(m.bound, 29.0)] * 2, "k-", lw=2, label=label)
        exact = find(found, error="none", **where)[0].mean
        label = "no error" if first else None
        axis.plot([i - 0.35, i + 0.35], [exact] * 2, ":", color="#777777", label=label)
    axis.set_yscale("log")
    axis.grid(True, axis="y")


def draw_steps(path: Path, found: Sequence[Measurement]) -> None:
    """Draw W2 against the number of steps: without an error, and with one in the noise."""
    shared = {"sharex": True, "sharey": "row", "squeeze": False}
    figure, axes = plt.subplots(2, len(SAMPLERS), figsize=(13, 7.5), **shared)
    for row, error in zip(axes, ("none", "noise+"), strict=True):
        for axis, sampler in zip(row, SAMPLERS, strict=True):
            for process, color in COLORS.items():
                where = {"process": process, "sampler": sampler, "error": error, "start": "exact"}
                rows = find(found, **where)
                axis.errorbar(
                    [m.steps for m in rows],
                    [m.mean for m in rows],
                    [2 * m.stderr for m in rows],
                    color=color,
                    linestyle="-" if process.startswith("contractive") else "--",
                    marker="o",
                    markersize=3,
                    label=process,
                )
            title = "exact score" if error == "none" else "error in the noise prediction (+)"
            axis.set(title=f"{sampler}: {title}", xscale="log", yscale="log")
            steps = sorted({m.steps for m in find(found, sampler=sampler)})
            axis.set_xticks(steps, [str(number) for number in steps])
            axis.set_xticks([], minor=True)
            axis.grid(True)
        row[0].set_ylabel("W2 to the data, exact start")
    for axis in axes[1]:
        axis.set_xlabel("steps")
    axes[0, -1].legend(fontsize=8, ncols=2)
    save(figure, path)


def draw_distances(path: Path, found: Learned, task: Task, steps: Sequence[int]) -> None:
    """Draw the distance of every process's samples, a bar per sampler and number of steps."""
    figure, axis = plt.subplots(figsize=(11, 4.8))
    settings = [(sampler, number) for sampler in LEARNED_SAMPLERS for number in steps]
    width, colors = 0.8 / len(settings), plt.get_cmap("tab20")
    for j, (sampler, number) in enumerate(settings):
        rows = [
            find(found.measurements, process=p, sampler=sampler, steps=number, error="own")[0]
            for p in family()
        ]
        axis.bar(
            np.arange(len(rows)) + (j - (len(settings) - 1) / 2) * width,
            [m.mean for m in rows],
            width,
            yerr=[2 * m.stderr for m in rows],
            color=colors(j),
            label=f"{sampler}, {number} steps",
            error_kw={"elinewidth": 0.8},
        )
    axis.axhline(task.floor, color="#333333", ls="--", lw=1, label="as many real examples")
    axis.set_xticks(range(len(family())), list(family()), rotation=30, ha="right")
    axis.set(ylabel=f"{task.metric} to held-out data", yscale="log")
    axis.grid(True, axis="y")
    axis.legend(fontsize=8, ncols=2)
    save(figure, path)


def draw_points(path: Path, found: Learned, task: Task) -> None:
    """Draw samples in the plane, the data first."""
    panels = {"data": np.asarray(task.train), **found.pictures}
    figure, axes = plt.subplots(2, 5, figsize=(13, 6.2), sharex=True, sharey=True)
    for axis, (name, points) in zip(axes.flat, panels.items(), strict=True):
        color = COLORS.get(name, "#333333")
        axis.scatter(*points[:1000].T, s=2, color=color, alpha=0.7)
        axis.set_title(name, fontsize=10)
        axis.set(xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), xticks=(-1, 0, 1), aspect="equal")
    figure.suptitle("ancestral samples at the largest number of steps", fontsize=11)
    save(figure, path)


def draw_images(path: Path, found: Learned, task: Task) -> None:
    """Draw a row of images for the data and for every process."""
    panels = {"data": np.asarray(task.train), **found.pictures}
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 0.75 * len(panels)))
    for axis, (name, images) in zip(axes, panels.items(), strict=True):
        strip = np.concatenate(list(np.nan_to_num(images[:16]) + task.center), axis=1)
        strip = np.clip((strip + 1) / 2, 0, 1)
        axis.imshow(strip if strip.shape[-1] == 3 else strip[..., 0], cmap="gray")
        axis.set_ylabel(name, rotation=0, ha="right", fontsize=8)
        axis.set(xticks=[], yticks=[])
    save(figure, path)
