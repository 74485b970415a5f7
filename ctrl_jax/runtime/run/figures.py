"""What the experiments' pictures share: a backend without a screen, saving, grids of images."""

from collections.abc import Mapping
from pathlib import Path

import jax
import matplotlib
import numpy as np

from ctrl_jax._whole import whole_file

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"legend.frameon": False, "grid.alpha": 0.25})

__all__ = ["draw_histograms", "draw_images", "plt", "save", "tile"]


def save(figure, path: Path) -> None:
    """Write a figure to a file, by the first of several processes, and let go of it."""
    if jax.process_index() == 0:
        figure.tight_layout()
        with whole_file(path) as part:
            figure.savefig(part, dpi=130, bbox_inches="tight")
    plt.close(figure)


def draw_images(path: Path, images: np.ndarray) -> None:
    """Draw images (n, h, w, c) in [-1, 1] in rows of eight."""
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    blank = np.full((rows * columns - len(images), *images.shape[1:]), -1.0)
    figure, axis = plt.subplots(figsize=(0.7 * columns, 0.7 * rows))
    axis.imshow(tile(np.concatenate([images, blank]), columns), cmap="gray", vmin=-1, vmax=1)
    axis.axis("off")
    save(figure, path)


def tile(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """Return images (n, h, w, c) in [-1, 1] as one picture with thin borders."""
    rows = len(images) // columns
    padded = np.pad(images, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=0.0)
    _, h, w, c = padded.shape
    grid = padded[: rows * columns].reshape(rows, columns, h, w, c).swapaxes(1, 2)
    picture = grid.reshape(rows * h, columns * w, c)
    return (picture[..., :3] + 1) / 2 if c >= 3 else picture[..., 0]


def draw_histograms(path: Path, laws: Mapping[str, np.ndarray]) -> None:
    """Draw one-dimensional laws, label to samples."""
    figure, axis = plt.subplots(figsize=(7, 4))
    low, high = np.quantile(np.concatenate(list(laws.values())), [0.001, 0.999])
    bins = np.linspace(float(low), float(high), 80).tolist()
    colors = ("#0072B2", "#999999", "black")[: len(laws)]
    for (label, values), color in zip(laws.items(), colors, strict=True):
        axis.hist(
            values, bins, density=True, histtype="step", label=label, color=color, linewidth=1.6
        )
    axis.set(xlabel="end state", ylabel="density")
    axis.legend()
    save(figure, path)
