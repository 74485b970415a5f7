"""Pictures of policy optimization against environment time and against the step."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctrl_jax.runtime.run.figures import plt, save

COLORS = {
    "cpg": "#0072B2",
    "cpg_difference": "#56B4E9",
    "cppo_sqrt_kl": "#D55E00",
    "cppo_linear_kl": "#E69F00",
    "cppo_clipped": "#009E73",
    "cppo_clipped_difference": "#8FD1B5",
    "pg": "#666666",
    "ppo": "#000000",
    "difference": "#D55E00",
    "pathwise": "#0072B2",
    "generalized": "#666666",
}


def draw_curves(
    path: Path,
    curves: Mapping[float, Mapping[str, np.ndarray]],
    time_per_update: float,
    samples_per_time: float,
) -> None:
    """Draw suboptimality (seeds, updates) against time and samples, one panel per step."""
    shown = [max(curves), sorted(curves)[len(curves) // 2], min(curves)]
    shown = sorted(set(shown), reverse=True)
    figure, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 4), sharey=True)
    for axis, dt in zip(np.atleast_1d(axes), shown, strict=True):
        for name, values in curves[dt].items():
            time = time_per_update * np.arange(1, values.shape[1] + 1)
            style = "--" if name.endswith("_difference") else "-"
            axis.plot(time, values.mean(axis=0), style, label=name, color=COLORS[name])
        axis.set(yscale="log", xlabel="environment time", title=f"step {dt:g}")
        scales = (lambda t: t * samples_per_time, lambda n: n / samples_per_time)
        samples = axis.secondary_xaxis("top", functions=scales)
        samples.set_xlabel("transitions used")
    np.atleast_1d(axes)[0].set_ylabel("suboptimality / starting gap")
    _legend_below(figure, np.atleast_1d(axes)[0])
    save(figure, path)


def draw_steps(path: Path, ends: Mapping[str, Mapping[float, tuple[float, float]]]) -> None:
    """Draw the final suboptimality, mean and two standard errors, against the step."""
    figure, axis = plt.subplots(figsize=(7, 4.6))
    for name, rows in ends.items():
        steps = sorted(rows)
        means, errors = np.transpose([rows[dt] for dt in steps])
        low = np.minimum(2 * errors, 0.9 * means)
        style = "o--" if name.endswith("_difference") else "o-"
        axis.errorbar(
            steps,
            means,
            yerr=[low, 2 * errors],
            fmt=style,
            markersize=4,
            capsize=2,
            label=name,
            color=COLORS[name],
        )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="step of time, at equal environment time",
        ylabel="suboptimality / starting gap",
    )
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def draw_variances(
    path: Path, steps: Sequence[float], variances: Mapping[str, Sequence[float]]
) -> None:
    """Draw the variance of each estimator of q against the step."""
    figure, axis = plt.subplots(figsize=(6, 4.2))
    for name, values in variances.items():
        axis.plot(steps, values, "o-", label=name, color=COLORS[name])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="step of time",
        ylabel="E (estimate - q)²",
        title="estimators of q at the exact value",
    )
    axis.legend()
    save(figure, path)


def _legend_below(figure, axis) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
