"""The pictures of the experiment."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctrl_jax.runtime.run.figures import plt, save
from experiments.directed_tasks import Task
from experiments.reward_directed.claims import Row
from experiments.reward_directed.few_points import Law, world
from experiments.reward_directed.methods import METHODS, Trained

COLORS: dict[str, str] = dict(
    zip(METHODS, ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7"), strict=True)
)
LABELS = {
    "q_ratio": "q-learning, ratio estimate",
    "q_network": "q-learning, network alone",
    "q_pretrained": "q-learning, pretrained score",
    "ddpo": "DDPO, pretrained score",
    "dpok": "DPOK, pretrained score",
}


def draw_samples(path: Path, task: Task, shown: Mapping[str, Trained]) -> None:
    """Draw the first seed of every method beside the data and the ideal law."""
    laws = {"data": task.points, "ideal": task.ideal}
    if task.labels is not None and task.ideal_labels is not None:
        laws = {
            "data": _rows(task.points, task.labels),
            "ideal": _rows(task.ideal, task.ideal_labels),
        }
    for name, found in shown.items():
        samples = found.samples[0]
        laws[name] = samples if found.labels is None else _rows(samples, found.labels)
    if task.points[0].size == 1:
        return _draw_lines(path, task, laws)
    panel = _draw_digits if task.points[0].ndim == 3 else _draw_cloud
    figure, axes = plt.subplots(1, len(laws), figsize=(2.6 * len(laws), 3.4), squeeze=False)
    for axis, (name, samples) in zip(axes[0], laws.items(), strict=True):
        panel(axis, samples, task)
        axis.set_title(LABELS.get(name, name).replace(", ", ",\n"), fontsize=9)
    save(figure, path)


def _draw_lines(path, task, laws):
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    bins = np.linspace(-3, 3, 70).tolist()
    axis.hist(laws["data"][:, 0], bins, density=True, color="#dddddd", label="data")
    axis.hist(
        laws["ideal"][:, 0], bins, density=True, histtype="step", color="black", label="ideal"
    )
    for name, samples in laws.items():
        if name in COLORS:
            axis.hist(
                samples[:, 0],
                bins,
                density=True,
                histtype="step",
                color=COLORS[name],
                label=LABELS[name],
                linewidth=1.4,
            )
    # A method without a penalty collapses onto one point, whose density would flatten the others.
    highest = np.histogram(laws["ideal"][:, 0], bins, density=True)[0].max()
    axis.set(xlabel="end state", ylabel="density", ylim=(0, 2 * highest))
    axis.legend(fontsize=8)
    save(figure, path)


def _draw_cloud(axis, samples, task):
    axis.plot(*samples[:1500].T, ".", markersize=1.5, color="#333333", alpha=0.5)
    reach = 1.15 * np.abs(task.points).max()
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    outside = np.mean(np.abs(samples).max(axis=1) > reach)
    if outside > 0.01:
        axis.text(0, 0, f"{outside:.0%} outside", ha="center", fontsize=9)


def _draw_digits(axis, samples, task):
    tiles = np.pad(samples[..., 0], ((0, 0), (1, 0), (1, 0)))
    rows = tiles.reshape(10, 6, 9, 9).swapaxes(1, 2).reshape(90, 54)
    axis.imshow(rows, cmap="gray", vmin=-1, vmax=1)
    axis.axis("off")


def _rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return six images of each of ten labels, label by label."""
    return np.concatenate([images[labels == c][:6] for c in range(10)])


def draw_steps(path: Path, rows: Sequence[Row], task: str) -> None:
    """Draw distance and reward against the steps, of every method and sampler."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, name in zip(axes, ("distance", "reward"), strict=True):
        for method in METHODS:
            for sampler, line in (("sde", "-"), ("flow", "--")):
                own = [r for r in rows if (r.task, r.method, r.sampler) == (task, method, sampler)]
                if not own:
                    continue
                means, errors = zip(*(r.mean_and_error(name) for r in own), strict=True)
                label = LABELS[method] + (" (flow)" if sampler == "flow" else "")
                axis.errorbar(
                    [r.steps for r in own],
                    means,
                    errors,
                    fmt="o" + line,
                    color=COLORS[method],
                    label=label,
                    markersize=4,
                    capsize=2,
                )
        axis.set(xscale="log", xlabel="steps of the sampler", ylabel=f"{name} ({task})")
        shown = sorted({r.steps for r in rows if r.task == task})
        axis.set_xticks(shown, [str(k) for k in shown])
        axis.minorticks_off()
        axis.grid(True)
    axes[0].set_ylim(bottom=0)
    axes[1].legend(fontsize=8)
    save(figure, path)


def draw_curves(path: Path, curves: Mapping[str, Mapping[str, np.ndarray]], batch: int) -> None:
    """Draw the mean reward of the batches against reward queries, mean and range over seeds."""
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.6), squeeze=False)
    for axis, (task, methods) in zip(axes[0], curves.items(), strict=True):
        for name, rewards in methods.items():
            queries = batch * np.arange(1, rewards.shape[1] + 1)
            axis.plot(queries, rewards.mean(axis=0), color=COLORS[name], label=LABELS[name])
            axis.fill_between(
                queries, rewards.min(axis=0), rewards.max(axis=0), color=COLORS[name], alpha=0.15
            )
        # Without a penalty the reward runs away; the frame is that of the others.
        kept = [r for name, r in methods.items() if name != "ddpo"]
        if kept:
            low, high = min(r.min() for r in kept), max(r.max() for r in kept)
            axis.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
        axis.set(title=task, xlabel="reward queries")
        axis.grid(True)
    axes[0, 0].set_ylabel("reward of the batch")
    axes[0, 0].legend(fontsize=7)
    save(figure, path)


def draw_few_points(
    path: Path, plain: Mapping[str, Law], paired: Mapping[str, Law], exact: Law, limit: Law
) -> None:
    """Draw mean and variance of the end law against m, with both exact limits."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4))
    tilt = world().tilted_law()
    ideals = {"mean": float(tilt.means[0, 0]), "variance": float(tilt.variances[0, 0])}
    for axis, name in zip(axes, ("mean", "variance"), strict=True):
        for laws, label, color in (
            (plain, "one estimate in the penalty", "#D55E00"),
            (paired, "product of two", "#0072B2"),
        ):
            numbers = sorted(int(m) for m in laws)
            values = [getattr(laws[str(m)], name) for m in numbers]
            axis.errorbar(
                numbers,
                [v.mean() for v in values],
                [v.std(ddof=1) / np.sqrt(v.size) for v in values],
                fmt="o-",
                color=color,
                label=label,
                capsize=2,
                markersize=4,
            )
        axis.axhline(ideals[name], color="black", linestyle=":", label="ideal")
        axis.axhline(
            getattr(exact, name).mean(), color="#009E73", label="learned from the exact score"
        )
        axis.axhline(
            float(getattr(limit, name)), color="black", linestyle="--", label="exact limit of m = 1"
        )
        axis.set(
            xscale="log", xlabel="data points per estimate, m", ylabel=f"{name} of the end law"
        )
        axis.grid(True)
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(0.02, 0.65))
    save(figure, path)
