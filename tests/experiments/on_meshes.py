"""Run by a test on eight simulated devices: a study at its smallest, on one device and on meshes.

    python -m tests.experiments.on_meshes NAME FOLDER

Noise is the same on any mesh, bit for bit; sums over examples are taken in another order. Each sum
differs by a few roundings of float32, 6e-8 of itself, and the updates that follow (four to a dozen
here) add up what they differ by. Measured on 8 x 1 and 4 x 2, the numbers of the studies differ by
up to 4e-6 of themselves, and by 1.4e-7 where they are near zero (a small divergence). Allowed are
1e-5 and 1e-6, for other processors sum in yet other orders. Weights may differ by more: where a
gradient is a rounding error, Adam's first steps have its sign.
"""

import importlib
import json
import math
import sys
from pathlib import Path

import jax

from ctrl_jax.runtime import command
from tests.experiments.test_consistency import TINY as CONSISTENCY
from tests.experiments.test_contraction import LEARNED
from tests.experiments.test_contraction import TINY as CONTRACTION
from tests.experiments.test_diffusion_preference import TINY as DIFFUSION_PREFERENCE
from tests.experiments.test_linear_quadratic import TINY as LINEAR_QUADRATIC
from tests.experiments.test_mallows_bandit import TINY as MALLOWS_BANDIT
from tests.experiments.test_mallows_lm import TINY as MALLOWS_LM
from tests.experiments.test_reward_directed import TINY as REWARD_DIRECTED
from tests.experiments.test_score_matching import TINY as SCORE_MATCHING
from tests.experiments.test_text_to_image import TINY as TEXT_TO_IMAGE
from tests.experiments.test_text_to_image import tuning
from tests.experiments.tiny import TINY, TINY_ANALYTIC, TINY_CIFAR10

OPTIONS = {
    "score_as_action": TINY,
    "score_as_action gaussian": ["--environment", "gaussian", *TINY_ANALYTIC],
    "cifar10": TINY_CIFAR10,
    "consistency": [*CONSISTENCY, "--data", "swiss_roll"],
    "contraction": [*CONTRACTION, *LEARNED],
    "diffusion_preference": [*DIFFUSION_PREFERENCE, "--parts", "online"],
    "linear_quadratic": LINEAR_QUADRATIC,
    "pair_trading": [*LINEAR_QUADRATIC, "--time-steps", "0.25", "--methods", "cpg_difference"],
    "mallows_bandit": MALLOWS_BANDIT,
    "mallows_lm": MALLOWS_LM,
    "reward_directed": [*REWARD_DIRECTED, "--few", "--seeds", "4"],
    "score_matching": SCORE_MATCHING,
    "text_to_image": [
        *TEXT_TO_IMAGE,
        *("--autoencoder.training.batch", "8", "--cache", "{folder}/cache"),
        *tuning("fine-tuning", updates=3),  # in the first two only the value network learns
    ],
}
MESHES = ((1, 1), (8, 1), (4, 2))
RELATIVE, ABSOLUTE = 1e-5, 1e-6
ON_ONE = {"contraction", "diffusion_preference", "mallows_bandit", "mallows_lm", "score_matching"}
"""Studies that one device of a mesh computes: within one process their numbers are the same."""

TIMES = ("seconds", "minutes", "cost", "claims", "memory", "time_ratio")
"""What metrics are named that say how long something took, or are sentences."""


def line(name: str, folder: Path) -> list[str]:
    """The options of a study; what runs share lies in a folder."""
    return [option.format(folder=folder) for option in OPTIONS[name]]


def run(name: str, folder: Path, data: int, model: int) -> dict[str, float]:
    """The numbers of results.json."""
    module = importlib.import_module(f"experiments.{name.split()[0]}.__main__")
    mesh = ["--mesh.data", str(data), "--mesh.model", str(model)]
    run_command = getattr(module, "run_command", None)
    options = [*line(name, folder), *mesh, "--out", str(folder / f"{data}x{model}")]
    found = run_command(options) if run_command else command(module.Config, module.main, options)
    return numbers(found)


def numbers(folder: Path) -> dict[str, float]:
    """Those of results.json that do not depend on the clock."""
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    return {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float) and not any(word in key for word in TIMES)
    }


def check_equal(
    one: dict[str, float], many: dict[str, float], *where: object, exactly: bool = False
) -> None:
    """Assert that numbers of several devices are those of one, up to the order of sums."""
    assert many.keys() == one.keys()
    relative, absolute = (0.0, 0.0) if exactly else (RELATIVE, ABSOLUTE)
    apart = {
        key: (value, many[key])
        for key, value in one.items()
        if not math.isclose(value, many[key], rel_tol=relative, abs_tol=absolute)
    }
    assert not apart, (*where, apart)


def main(name: str, folder: str) -> None:
    assert jax.device_count() == 8
    one, *others = (run(name, Path(folder), *sizes) for sizes in MESHES)
    assert len(one) > 2
    for sizes, many in zip(MESHES[1:], others, strict=True):
        check_equal(one, many, name, sizes, exactly=name in ON_ONE)
    print("agreed")


if __name__ == "__main__":
    main(*sys.argv[1:])
