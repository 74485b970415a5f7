"""What the paper says of its method, and whether it holds here, with numbers.

Differences between methods are judged by Student's t over the seeds: "level" is within chance.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.reward_directed.few_points import Law, world
from experiments.verdicts import Claim, mean_and_error


class Row(NamedTuple):
    """One method on one task: what was measured, per seed.

    Fields:
        task: its name.
        method: its name.
        sampler: sde or flow.
        steps: of the sampler.
        values: reward, distance and whatever else the task measures, (seeds,).
    """

    task: str
    method: str
    sampler: str
    steps: int
    values: Mapping[str, np.ndarray]

    def mean_and_error(self, name: str) -> tuple[float, float]:
        """Return the mean over seeds and its standard error."""
        return mean_and_error(self.values[name])

    def chance(self) -> float:
        """Return how many standard errors chance exceeds on one side once in 40 times."""
        seeds = next(iter(self.values.values()))
        return float(stats.t.ppf(0.975, len(seeds) - 1)) if len(seeds) > 1 else np.nan


def find(rows: Sequence[Row], **where) -> Row | None:
    """Return the row with these fields, if it was run."""
    for row in rows:
        if all(getattr(row, name) == value for name, value in where.items()):
            return row
    return None


def directed(rows: Sequence[Row], task: str, steps: int, untouched: float) -> Claim | None:
    """Is q-learning without a pretrained score closer to the ideal law than the data are?"""
    row = find(rows, task=task, method="q_ratio", sampler="sde", steps=steps)
    if row is None:
        return None
    mean, error = row.mean_and_error("distance")
    return Claim(
        f"{task}: directed",
        "q-learning without a pretrained score goes from the data towards the ideal law",
        _yes(mean + row.chance() * error < untouched),
        f"distance {mean:.3f} ± {error:.3f}; the data's is {untouched:.3f}",
    )


def against_fine_tuning(rows: Sequence[Row], task: str, steps: int, method: str) -> list[Claim]:
    """Is q-learning at least as close, and its objective as high, as the better of DDPO and DPOK?

    The objective is E h - (2 / w) KL of the chain, on the last batches; DDPO does not know of it.
    """
    where = {"task": task, "sampler": "sde", "steps": steps}
    ours = find(rows, method=method, **where)
    theirs = [r for r in (find(rows, method=m, **where) for m in ("ddpo", "dpok")) if r]
    found = []
    for name, sign in (("distance", 1), ("objective", -1)) if ours and theirs else ():
        assert ours is not None
        best = min(theirs, key=lambda row: sign * row.mean_and_error(name)[0])
        (mean, error), (other, other_error) = (r.mean_and_error(name) for r in (ours, best))
        margin = ours.chance() * np.hypot(error, other_error)
        told = f"{mean:.3f} ± {error:.3f} against {other:.3f} ± {other_error:.3f} ({best.method})"
        statement = (
            f"the {name} of {method} is at least as good as that of DDPO and DPOK with a "
            "pretrained score, at as many reward queries and network evaluations"
        )
        title = f"{task}: {method}, {name} against fine-tuning"
        found.append(Claim(title, statement, _level(sign * (mean - other), margin), told))
    return found


def few_steps(rows: Sequence[Row], task: str, steps: Sequence[int]) -> list[Claim]:
    """Do a few steps do, and does the flow need fewer?"""
    ends, chance = {}, np.nan
    for sampler in ("sde", "flow"):
        found = [find(rows, task=task, method="q_ratio", sampler=sampler, steps=k) for k in steps]
        if len(steps) < 2 or None in found:
            return []
        chance = next(row.chance() for row in found if row)
        ends[sampler] = [row.mean_and_error("reward") for row in (found[0], found[-1]) if row]
    change = {s: abs(a[0] - b[0]) for s, (a, b) in ends.items()}
    errors = {s: float(np.hypot(a[1], b[1])) for s, (a, b) in ends.items()}
    few, many = steps[0], steps[-1]
    told = ", ".join(f"{s} {change[s]:.3f} ± {errors[s]:.3f}" for s in change)
    return [
        Claim(
            f"{task}: few steps",
            f"{few} steps of the SDE end with the reward of {many}",
            "level" if change["sde"] < chance * errors["sde"] else "no",
            f"change of the reward: {told}",
        ),
        Claim(
            f"{task}: steps of the flow",
            f"from {few} to {many} steps the reward of the flow changes less than that of the SDE",
            _yes(change["flow"] + chance * np.hypot(errors["sde"], errors["flow"]) < change["sde"]),
            f"change of the reward: {told}",
        ),
    ]


def one_point(laws: Mapping[str, Law], limit: Law) -> list[Claim]:
    """Is one data point per estimate enough, and does the exact limit say what it does?"""
    if "1" not in laws:
        return []
    law, tilt = laws["1"], world().tilted_law()
    mean, spread = float(np.mean(law.mean)), float(np.std(law.mean))
    best, variance = float(tilt.means[0, 0]), float(np.mean(law.variance))
    wanted = float(tilt.variances[0, 0])
    claims = [
        Claim(
            "one point",
            "one data point per estimate of the score is enough",
            _yes(abs(mean - best) < 0.1 and abs(variance / wanted - 1) < 0.2),
            f"end law mean {mean:.3f}, variance {variance:.3f}; the ideal's {best:.3f}, "
            f"{wanted:.3f}; the exact limit of m = 1 {float(limit.mean):.3f}, "
            f"{float(limit.variance):.4f}",
        )
    ]
    numbers = sorted(int(m) for m in laws if m.isdigit())
    gaps = [abs(float(np.mean(laws[str(m)].variance)) - wanted) for m in numbers]
    claims.append(
        Claim(
            "more points",
            "the error of the end law's variance falls with every larger m",
            _yes(bool(np.all(np.diff(gaps) < 0))),
            ", ".join(f"m = {m}: {gap:.3f}" for m, gap in zip(numbers, gaps, strict=True))
            + f"; spread of the mean at m = 1 over seeds {spread:.3f}",
        )
    )
    return claims


def images(rows: Sequence[Row], steps: int) -> list[Claim]:
    """Do the digits show their label, and are they new?"""
    row = find(rows, task="digits", method="q_ratio", sampler="sde", steps=steps)
    if row is None:
        return []
    right, copied = (row.mean_and_error(n)[0] for n in ("label accuracy", "copied"))
    return [
        Claim(
            "digits: labels",
            "samples given a label are recognized as it in at least 0.9 of the cases",
            _yes(right >= 0.9),
            f"label accuracy {right:.3f}",
        ),
        Claim(
            "digits: new images",
            "samples are no closer to a training image than other real images are",
            _yes(copied < 0.05),
            f"{copied:.3f} of them are closer than 0.99 of the held-out images",
        ),
    ]


def _level(worse: float, margin: float) -> str:
    """Say yes if better by more than chance, level if within it, else no."""
    return "yes" if worse < -margin else "level" if worse <= margin else "no"


def _yes(holds: bool | np.bool_) -> str:
    return "yes" if holds else "no"
