"""The five-armed bandit of Mallows-DPO: which loss collapses on one arm, and what it costs.

Sixteen preferences between five arms; the policy is a softmax over five logits, the reference
uniform. Every loss, beta and start is trained by gradient descent on all pairs, in one program.
Each run writes config.json, results.json and frontier.png to its folder.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctrl_jax._checks import (
    check_choice,
    check_count,
    check_distinct,
    check_fields,
    check_positive,
    refuse,
)
from ctrl_jax.runtime import check_small_run, command
from ctrl_jax.runtime.run.tables import print_table
from experiments.mallows_bandit import KNOWN, STUDY, plots
from experiments.mallows_bandit.problem import (
    LOSSES,
    Descent,
    evaluate,
    make_descent,
    make_losses,
    start,
)
from experiments.options import COMMON, Common
from experiments.study import Conduct


@dataclasses.dataclass(frozen=True)
class Config:
    """Train every preference loss on the five-armed bandit of Mallows-DPO.

    Source: arXiv 2405.14953. The default is 500 000 steps.
    Expected from the uniform policy: at beta .05 reward 15.53 and KL 1.46 under DPO, 16.04 and .44
    under Mallows-phi, and all other known values to .01.

    Args:
        losses: losses to train.
        betas: inverse temperatures.
        dispersion: phi of the Mallows losses, in (0, 1].
        random_starts: starts with standard normal logits, beside the uniform policy.
        learning_rate: length of a step of gradient descent, on the mean over the pairs.
        run: the common options.
    """

    losses: tuple[str, ...] = LOSSES
    betas: tuple[float, ...] = (0.05, 0.1, 0.5, 1.0)
    dispersion: float = 0.05
    random_starts: int = 7
    learning_rate: float = 5e-3
    run: Common = COMMON

    def updates(self) -> int:
        """Return the steps of gradient descent."""
        return self.run.steps or 500_000

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_distinct("losses", self.losses)
        check_fields(self, check_choice, "losses", choices=LOSSES)
        check_distinct("betas", self.betas)
        check_fields(self, check_positive, "betas", "dispersion", "learning_rate")
        if self.dispersion > 1:
            raise refuse("dispersion", self.dispersion, "it must be at most 1", "give 0.05 or so")
        check_count("random_starts", self.random_starts, least=0)
        check_small_run(self.run)


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    run = STUDY.begin(config)
    state = train(config, run)
    metrics = summarize(config, state)
    expected = {name: STUDY.expected[name] for name in known(config)}
    run.write(metrics, state.logits, expected=expected)
    _, reward, kl = evaluate(state.logits)
    plots.draw_frontier(
        run.folder / "frontier.png",
        config.losses,
        config.betas,
        (reward[..., 0], kl[..., 0]),
        (reward, kl),
    )
    print_results(config, metrics)
    return run.close()


def train(config: Config, study: Conduct) -> Descent:
    """Return every run after its last step; an update of the loop is a fiftieth of them."""
    table = make_losses(config.dispersion)
    losses = [table[name] for name in config.losses]
    descend = make_descent(losses, config.betas, config.learning_rate)
    key = jax.random.key(config.run.seed)
    state = start(key, len(losses), len(config.betas), config.random_starts)
    blocks = np.diff(np.linspace(0, config.updates(), 51, dtype=np.int32))
    return study.train(
        lambda state, steps: (descend(state, steps), {}),
        state,
        lambda k: blocks[k],
        len(blocks),
        stage=f"checkpoints/{study.named('descent')}",
        log=None,
        fetch_every=1,
        checkpoint_every=5,
        description="gradient descent",
    )


def summarize(config: Config, state: Descent) -> dict[str, Any]:
    """Return rewards and divergences by the keys of the results."""
    policy, reward, kl = evaluate(state.logits)
    metrics: dict[str, Any] = {}
    for i, name in enumerate(config.losses):
        for j, beta in enumerate(config.betas):
            key = f"{name}/beta={beta:g}"
            metrics[f"reward/{key}"] = float(reward[i, j, 0])
            metrics[f"kl/{key}"] = float(kl[i, j, 0])
            metrics[f"probability_of_A1/{key}"] = float(policy[i, j, 0, 0])
            metrics |= over_starts(f"reward/{key}", reward[i, j])
            metrics |= over_starts(f"kl/{key}", kl[i, j])
    return metrics


def known(config: Config) -> dict[str, float]:
    """Return the known values of what is run; there are none at other settings."""
    default = Config()
    settings = [(c.dispersion, c.learning_rate, c.updates()) for c in (config, default)]
    if settings[0] != settings[1]:
        return {}
    cells = {f"{name}/beta={beta:g}" for name in config.losses for beta in config.betas}
    return {name: value for name, value in KNOWN.items() if name.partition("/")[2] in cells}


def over_starts(key: str, values: np.ndarray) -> dict[str, float]:
    """Return mean and standard error over the random starts, where there are two or more."""
    random = values[1:]
    if random.size < 2:
        return {}
    error = random.std(ddof=1) / np.sqrt(random.size)
    return {f"{key}/starts_mean": float(random.mean()), f"{key}/starts_stderr": float(error)}


def print_results(config: Config, metrics: dict[str, Any]) -> None:
    """Print every cell beside what is known of it."""
    columns = ("loss", "beta", "reward", "known", "KL", "known", "starts", "± se")
    values = known(config)
    rows = []
    for name in config.losses:
        for beta in config.betas:
            key = f"{name}/beta={beta:g}"
            reward, kl = f"reward/{key}", f"kl/{key}"
            starts = [metrics.get(f"{reward}/starts_{what}") for what in ("mean", "stderr")]
            beside = [f"{values[x]:g}" if x in values else "" for x in (reward, kl)]
            rows.append(
                [name, f"{beta:g}", metrics[reward], beside[0], metrics[kl], beside[1], *starts]
            )
    title = f"bandit after {config.updates()} steps, from the uniform policy and random starts"
    print_table(title, columns, rows)


if __name__ == "__main__":
    command(Config, main)
