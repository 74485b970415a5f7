"""Pictures of consistency models beside DDIM."""

from collections.abc import Mapping
from pathlib import Path

from ctrl_jax.runtime.run.figures import plt, save, tile
from experiments.consistency.evaluation import LIMIT, Outcome
from experiments.consistency.tasks import Task

COLORS = {"ddim": "#D55E00", "distillation": "#0072B2", "training": "#009E73"}
TITLES = {"ddim": "DDIM", "distillation": "distilled", "training": "from data alone"}


def draw_quality(path: Path, results: list[tuple[Task, Mapping[str, Outcome]]]) -> None:
    """Draw every distance against evaluations, one panel each."""
    panels = [(task, outcomes, name) for task, outcomes in results for name in task.floor]
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10.4, 3.8 * rows), squeeze=False)
    for axis, (task, outcomes, measure) in zip(axes.flat, panels, strict=True):
        draw_panel(axis, task, outcomes, measure)
    axes[0][-1].legend(fontsize=9)
    save(figure, path)


def draw_panel(axis, task: Task, outcomes: Mapping[str, Outcome], measure: str) -> None:
    """Draw one distance of the samples of each model."""
    for name, outcome in outcomes.items():
        steps = [n for n in outcome.quality if n != LIMIT]
        values = [outcome.quality[n][measure] for n in steps]
        axis.plot(steps, values, marker="o", color=COLORS[name], label=TITLES[name])
    limit = outcomes["ddim"].quality[LIMIT][measure]
    axis.axhline(limit, color=COLORS["ddim"], linestyle=":", label=f"DDIM, {LIMIT}")
    axis.axhline(task.floor[measure], color="#999999", linestyle="--", label="true data")
    axis.set(xscale="log", yscale="log", xlabel="network evaluations per sample")
    axis.set_xticks(steps, [str(n) for n in steps])
    axis.set(ylabel=measure, title=task.name.replace("_", " "))
    axis.minorticks_off()


def draw_samples(path: Path, task: Task, outcomes: Mapping[str, Outcome]) -> None:
    """Draw samples: a row per model, a column per number of evaluations."""
    steps = [n for n in next(iter(outcomes.values())).quality if n != LIMIT]
    figure, axes = plt.subplots(
        len(outcomes), len(steps), figsize=(2.6 * len(steps), 2.7 * len(outcomes)), squeeze=False
    )
    measure = next(iter(task.floor))
    for row, (name, outcome) in zip(axes, outcomes.items(), strict=True):
        for axis, n in zip(row, steps, strict=True):
            if len(task.shape) == 1:
                axis.plot(*outcome.samples[n].T, ".", markersize=2, color=COLORS[name])
                axis.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect="equal")
            else:
                axis.imshow(tile(outcome.samples[n][:36], columns=6), cmap="gray", vmin=-1, vmax=1)
            axis.set_title(f"{TITLES[name]}, {n}: {outcome.quality[n][measure]:.3g}", fontsize=9)
            axis.set(xticks=[], yticks=[])
    save(figure, path)
