"""What Mallows-DPO is said to buy, and whether it does here, with numbers.

Methods are compared at one reward on the classes on which people agree, every seed interpolated
between its temperatures. A difference counts where Student's t over the seeds, paired, puts it
beyond chance (97.5 % on either side); "level" is within it. Of twenty level comparisons one is
expected to look decided.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.diffusion_preference.evaluation import Measured
from experiments.verdicts import Claim, mean_and_error, verdict

Curve = Mapping[str, np.ndarray]
"""Measure/group to values, (seeds, temperatures)."""


def curves_of(found: Sequence[Measured]) -> dict[str, Curve]:
    """Return the measures of every method as arrays (seeds, temperatures)."""
    methods = dict.fromkeys(row.name.method for row in found)
    curves = {}
    for method in methods:
        own = [row for row in found if row.name.method == method]
        seeds = len({row.name.seed for row in own})
        curves[method] = {
            f"{measure}/{group}": np.asarray(
                [row.values[measure][group] for row in own], np.float64
            )
            .reshape(-1, seeds)
            .T
            for measure, groups in own[0].values.items()
            for group in groups
        }
    return curves


def at_reward(curve: Curve, name: str, reward: float) -> np.ndarray:
    """Return a measure of every seed where its reward on the agreed classes is `reward`."""
    values = []
    for rewards, own in zip(curve["reward/agreed"], curve[name], strict=True):
        order = np.argsort(rewards)
        values.append(np.interp(reward, rewards[order], own[order]))
    return np.asarray(values)


def common_reward(curves: Sequence[Curve]) -> float | None:
    """Return the middle of the rewards that every seed of every curve spans, None for none."""
    rewards = [row for curve in curves for row in curve["reward/agreed"]]
    low, high = max(row.min() for row in rewards), min(row.max() for row in rewards)
    return None if low > high else float(low + high) / 2


def against(
    curves: Mapping[str, Curve], ours: str, theirs: str, name: str, sign: int, statement: str
) -> list[Claim]:
    """Return the claim that one method has less (sign 1) or more (-1) of a measure than another.

    Args:
        curves: of every method.
        ours: a method.
        theirs: another one.
        name: measure/group.
        sign: 1 where less is better.
        statement: what is claimed.
    """
    if ours not in curves or theirs not in curves:
        return []
    pair = [curves[ours], curves[theirs]]
    title, reward = f"{ours} against {theirs}: {name}", common_reward(pair)
    if reward is None:
        return [Claim(title, statement, "not comparable", "the rewards reached do not overlap")]
    mine, other = (at_reward(curve, name, reward) for curve in pair)
    evidence = (
        f"{told(mine)} against {told(other)} at reward {reward:.2f} on the agreed classes; "
        f"difference {told(mine - other)}"
    )
    return [Claim(title, statement, verdict(sign * (other - mine)), evidence)]


def of_dispersion(curves: Mapping[str, Curve], learns: str) -> list[Claim]:
    """Return what knowing the dispersion is said to buy, beside DPO, which does not know it."""
    found = []
    for method, ours in (
        ("theta", "told the dispersion, Mallows-theta"),
        ("phi", "told the dispersion, Mallows-phi"),
        ("phi_estimated", "with the estimated dispersion, Mallows-phi"),
    ):
        for name, sign, statement in (
            ("kl/agreed", 1, "reaches a reward where people agree with less path KL than DPO"),
            (
                "kl/divided",
                1,
                "leaves the classes on which people divide closer to where they were",
            ),
            ("reward/divided", -1, "has more of the consensus's reward where people divide"),
            ("annotators/divided", -1, "pleases more of the annotators where they divide"),
        ):
            found += against(curves, method, "dpo", name, sign, f"{learns}: {ours} {statement}")
    for name, sign, what in (("kl/divided", 1, "path KL"), ("reward/divided", -1, "reward")):
        statement = f"{learns}: the estimated dispersion is as good as the true one in {what}"
        found += against(curves, "phi_estimated", "phi", name, sign, statement)
    return [dataclasses.replace(claim, name=f"{learns}: {claim.name}") for claim in found]


def of_rewards(curves: Mapping[str, Curve]) -> list[Claim]:
    """Return how comparing own paths does beside PPO, each where it reaches the largest reward.

    At one temperature the two end at different rewards, so what is compared is path KL in units of
    the least there is at that reward.
    """
    found = []
    for method, what in (
        ("ppo", "a reward learned from as many comparisons"),
        ("ppo_gold", "the gold reward of every path"),
    ):
        if not {"dpo", method} <= {*curves}:
            continue
        mine, other = (excess(curves[name]) for name in ("dpo", method))
        found.append(
            Claim(
                f"online: dpo against {method}: kl / ideal_kl",
                f"DPO on own paths is as near the ideal frontier as PPO on {what}",
                verdict(other - mine),
                f"path KL {told(mine)} times the ideal, PPO's {told(other)}",
            )
        )
    return found


def excess(curve: Curve) -> np.ndarray:
    """Return path KL over the ideal where people agree, at the largest mean reward, (seeds,)."""
    best = int(np.argmax(curve["reward/agreed"].mean(axis=0)))
    return curve["kl/agreed"][:, best] / curve["ideal_kl/agreed"][:, best]


def of_exact(found: Mapping[str, Mapping[str, np.ndarray]], floor: float) -> list[Claim]:
    """Return whether every loss reaches the known optimum, each under annotators of its link.

    Args:
        found: by `exact.reach_optimum`, of every setting.
        floor: W2 of the optimal policy itself, which the sampler leaves.
    """
    return [
        Claim(
            f"{setting}: the known optimum",
            f"{setting} with annotators of its own link reaches the optimum of a Gaussian with a "
            "quadratic reward: W2 below 0.05",
            verdict(0.05 - row["w2/tilted"]),
            f"W2 {told(row['w2/tilted'])} (the optimal policy itself {floor:.3f}); objective "
            f"{told(row['objective'])}, the optimal {row['objective/optimal'][0]:.3f}",
        )
        for setting, row in found.items()
    ]


def told(values: np.ndarray) -> str:
    """Return mean and standard error in words."""
    mean, error = mean_and_error(values)
    return f"{mean:.3f} ± {error:.3f}"
