"""The picture of the bandit: reward against divergence, under the ideal frontier."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctrl_jax.metrics import frontier
from ctrl_jax.runtime.run.figures import plt, save
from experiments.mallows_bandit.problem import REWARDS

COLORS = {
    "dpo": "#D55E00",
    "mallows_phi": "#0072B2",
    "mallows_theta": "#009E73",
    "mallows_phi_sigmoid": "#56B4E9",
    "mallows_phi_cubic": "#CC79A7",
    "mallows_ipo": "#E69F00",
}
MARKERS = "osDv^<>PXph*d"


def draw_frontier(
    path: Path,
    losses: Sequence[str],
    betas: Sequence[float],
    uniform: tuple[np.ndarray, np.ndarray],
    every: tuple[np.ndarray, np.ndarray],
) -> None:
    """Draw where every run ended.

    Args:
        path: file to write.
        losses: their names.
        betas: their values, the small ones drawn large.
        uniform: reward and KL from the uniform start, (losses, betas).
        every: the same from all starts, (losses, betas, starts).
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    groups = ([n for n in losses if n in COLORS], [n for n in losses if n not in COLORS])
    titles = ("DPO and the Mallows family", "other losses")
    for axis, names, title in zip(axes, groups, titles, strict=True):
        _draw_ideal(axis)
        for k, name in enumerate(names):
            i = list(losses).index(name)
            color = COLORS.get(name, plt.get_cmap("tab20")(k % 20))
            axis.plot(every[1][i].ravel(), every[0][i].ravel(), ".", color=color, alpha=0.25)
            axis.plot(uniform[1][i], uniform[0][i], "-", color=color, linewidth=1)
            marker = MARKERS[k % len(MARKERS)]
            sizes = 30 + 70 * np.linspace(1, 0, len(betas))
            axis.scatter(
                uniform[1][i], uniform[0][i], sizes, color=color, marker=marker, label=name
            )
        axis.set(xlabel="KL from the uniform policy (nats)", title=title)
        axis.set_ylim(top=16.7)
        axis.legend(fontsize=7.5, loc="lower right", ncols=1 + (len(names) > 8))
    axes[0].set_ylabel("mean reward")
    note = f"large markers: beta = {betas[0]:g}, small: {betas[-1]:g}, from the uniform policy; "
    figure.suptitle(note + "dots: random starts", fontsize=10)
    save(figure, path)


def _draw_ideal(axis) -> None:
    best = frontier.ideal(REWARDS, np.geomspace(0.02, 100, 200))
    axis.plot(best.kl, best.reward, "k--", linewidth=1, label="best at this KL")
