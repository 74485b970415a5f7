"""The pictures of the experiment."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctrl_jax.runtime.run.figures import plt, save, tile
from experiments.diffusion_preference.claims import Curve
from experiments.diffusion_preference.evaluation import GROUPS
from experiments.diffusion_preference.world import CLASSES, TEMPERATURES, World

LABELS = {
    "dpo": "DPO",
    "theta": "Mallows-θ, true φ",
    "phi": "Mallows-φ, true φ",
    "phi_estimated": "Mallows-φ, estimated φ",
    "ppo": "PPO, learned reward",
    "ppo_gold": "PPO, gold reward",
}
COLORS = dict(
    zip(LABELS, ("#D55E00", "#0072B2", "#009E73", "#56B4E9", "#CC79A7", "#777777"), strict=True)
)
MARKS = dict(zip(LABELS, "os^v*X", strict=True))


def draw_frontier(path: Path, world: World, curves: Mapping[str, Curve]) -> None:
    """Draw reward against path KL in both groups of classes, one point per temperature."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6))
    ideal_kl, ideal_reward = _ideal(world)
    for axis, group in zip(axes, GROUPS, strict=True):
        axis.plot(ideal_kl, ideal_reward, color="black", linewidth=2, label="ideal")
        for name, curve in curves.items():
            kl, reward = curve[f"kl/{group}"], curve[f"reward/{group}"]
            axis.errorbar(
                kl.mean(axis=0),
                reward.mean(axis=0),
                xerr=_error(kl),
                yerr=_error(reward),
                fmt=f"{MARKS[name]}-",
                markersize=6,
                linewidth=1,
                capsize=2,
                color=COLORS[name],
                label=LABELS[name],
            )
        axis.set_xscale("log")
        largest = max(1e-3, *(c[f"kl/{group}"].max() for c in curves.values()))
        axis.set_xlim(min(0.01, largest / 10), 2 * largest)
        inside = ideal_reward[ideal_kl < 2 * largest]
        top = max(c[f"reward/{group}"].max() for c in curves.values())
        axis.set_ylim(-0.15, 1.1 * max(top, 0.3 * inside.max(initial=0.1)))
        axis.set(
            title=f"classes on which people {'agree' if group == 'agreed' else 'divide'}",
            xlabel="path KL from the pretrained model (nats)",
        )
        axis.grid(True)
    axes[0].set_ylabel("gold reward (standard deviations)")
    axes[0].legend(fontsize=8, loc="upper left")
    save(figure, path)


def draw_progress(path: Path, snapshots: Sequence[tuple[float, Mapping[str, Curve]]]) -> None:
    """Draw reward and path KL in both groups against comparisons, at the middle temperature."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    queries = [at for at, _ in snapshots]
    middle = next(iter(snapshots[0][1].values()))["reward/agreed"].shape[1] // 2
    for axis, measure in zip(axes, ("reward", "kl"), strict=True):
        for name in snapshots[0][1]:
            for group, line in zip(GROUPS, ("-", "--"), strict=True):
                values = np.stack([c[name][f"{measure}/{group}"][:, middle] for _, c in snapshots])
                label = LABELS[name] if group == "agreed" else None
                axis.plot(queries, values.mean(axis=1), line, color=COLORS[name], label=label)
        axis.grid(True)
        axis.set_xlabel("comparisons")
    axes[0].set_ylabel("gold reward (standard deviations)")
    axes[1].set_ylabel("path KL (nats)")
    axes[1].plot([], [], "--", color="black", label="where people divide")
    axes[1].legend(fontsize=8)
    save(figure, path)


def draw_samples(path: Path, samples: Mapping[str, np.ndarray], agreed: np.ndarray) -> None:
    """Draw samples (classes, number, 8, 8, 1) of models side by side, agreed classes first."""
    order = np.concatenate([np.flatnonzero(agreed), np.flatnonzero(~agreed)])
    figure, axes = plt.subplots(1, len(samples), figsize=(2.3 * len(samples), 4.6), squeeze=False)
    for axis, (name, images) in zip(axes[0], samples.items(), strict=True):
        rows = images[order, :5].reshape(-1, *images.shape[2:])
        axis.imshow(tile(rows, 5), cmap="gray", vmin=-1, vmax=1)
        axis.axhline(9 * agreed.sum() - 0.5, color="#D55E00", linewidth=1.5)
        axis.set_title(LABELS.get(name, name).replace(", ", ",\n"), fontsize=9)
        axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("divide        agree", fontsize=9)
    save(figure, path)


def _ideal(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Return mean KL and reward over the classes, where every class has enough samples."""
    found = [world.frontier(c) for c in range(CLASSES)]
    trusted = np.min([f.effective_samples for f in found], axis=0) >= 30
    assert trusted.size == TEMPERATURES.size
    kl, reward = (
        np.mean([getattr(f, n) for f in found], axis=0)[trusted] for n in ("kl", "reward")
    )
    return kl, reward


def _error(values: np.ndarray) -> np.ndarray:
    if len(values) < 2:
        return np.zeros(values.shape[1])
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))
