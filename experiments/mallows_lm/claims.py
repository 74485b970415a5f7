"""What is said of Mallows-DPO, and whether it holds in these worlds, by Student's t over the seeds.

Policies of one seed share comparisons, order and random numbers, so differences are taken seed by
seed. "level" is within chance (two-sided, one in twenty); of twenty level comparisons one is
expected to look decided.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from experiments.mallows_lm.comparison import METHODS
from experiments.mallows_lm.evaluation import Row
from experiments.verdicts import Claim, mean_and_error, verdict

WORLDS = {
    "text": "divided by the text",
    "uncertainty": "divided by the base model's uncertainty",
}
PLACES = {"held_out": "in distribution", "elsewhere": "out of distribution"}


def of_division(rows: Sequence[Row], base: Mapping[str, np.ndarray], division: str) -> list[Claim]:
    """Return the claims that one world decides.

    Args:
        rows: everything that was measured.
        base: gold of the base model's answers by place, (seeds,).
        division: the world.
    """
    own = [row for row in rows if row.division == division]
    found: list[Claim | None] = [
        _ranks(own, method, "dpo", part)
        for part in ("agreed", "divided")
        for method in ("theta_true", "phi_true")
    ]
    found += [
        _frontier(own, base, place, method, "dpo")
        for place in PLACES
        for method in METHODS
        if method != "dpo"
    ]
    for loss in ("theta", "phi"):
        two = f"{loss}_estimated", f"{loss}_true"
        found += [_ranks(own, *two, "divided"), _frontier(own, base, "held_out", *two)]
    return [claim for claim in found if claim is not None]


def index_knows(division: str, correlation: float, questions: int) -> Claim:
    """Does the entropy of the base model tell the dispersion of the training questions?

    The pairs of a question are not independent: there are as many cases as questions.
    """
    chance = float(stats.norm.ppf(0.975) / np.sqrt(questions - 1))
    return Claim(
        f"{division}: index",
        f"{WORLDS[division]}: the dispersion index of the base model ranks the questions as their "
        "dispersion does",
        "yes" if correlation > chance else "no",
        f"rank correlation {correlation:.3f} over pairs; chance stays below {chance:.3f}",
    )


def _ranks(rows: Sequence[Row], method: str, other: str, part: str) -> Claim | None:
    """Compare accuracies against the central ranking, each method at its best beta."""
    name = f"accuracy/{part}"
    best = [best_row(rows, which, name) for which in (method, other)]
    if best[0] is None or best[1] is None:
        return None
    ours, theirs = (np.asarray(row.values[name]) for row in best if row)
    betas = " and ".join(f"{row.beta:g}" for row in best if row)
    holds, told = _compare(ours, theirs, f"at beta {betas}")
    return Claim(
        f"{best[0].division}: {method} against {other}, {part} questions",
        f"{WORLDS[best[0].division]}: {METHODS[method].label} ranks held-out answers to {part} "
        f"questions by the central ranking better than {METHODS[other].label}, each at its best "
        "beta",
        holds,
        told,
    )


def _frontier(
    rows: Sequence[Row], base: Mapping[str, np.ndarray], place: str, method: str, other: str
) -> Claim | None:
    """Compare gold up to the greatest divergence that both reach, seed by seed."""
    found = _golds(rows, base, place, method, other)
    if found is None:
        return None
    ours, theirs, kl = found
    holds, told = _compare(ours, theirs, f"at KL {kl.mean() / 2:.2f} to {kl.mean():.2f}")
    division = rows[0].division
    return Claim(
        f"{division}: {method} against {other}, frontier {PLACES[place]}",
        f"{WORLDS[division]}: {PLACES[place]}, answers of {METHODS[method].label} have "
        f"plainer words than those of {METHODS[other].label} at the same divergence",
        holds,
        told,
    )


def overall(rows: Sequence[Row], base: Mapping[str, np.ndarray]) -> list[Claim]:
    """Return the verdict on every method against DPO, over all worlds and places together."""
    divisions = dict.fromkeys(row.division for row in rows)
    parts = [[row for row in rows if row.division == division] for division in divisions]
    found = []
    for method in METHODS:
        golds = [_golds(part, base, place, method, "dpo") for part in parts for place in PLACES]
        known = [gold[:2] for gold in golds if gold is not None]
        if method == "dpo" or not known:
            continue
        ours, theirs = np.mean(known, axis=0)
        holds, told = _compare(ours, theirs, "on average")
        statement = (
            f"over all worlds and places together, answers of {METHODS[method].label} have plainer "
            "words than those of DPO at the same divergence"
        )
        found.append(Claim(f"overall: {method} against dpo", statement, holds, told))
    return found


def _golds(
    rows: Sequence[Row], base: Mapping[str, np.ndarray], place: str, method: str, other: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return mean gold of both methods and the divergence it is compared up to, (seeds,) each."""
    curves = [
        [row for row in rows if (row.place, row.method) == (place, name)]
        for name in (method, other)
    ]
    if not all(curves):
        return None
    kl = common_divergence(curves)
    ours, theirs = (mean_gold(kl, curve, base[place]) for curve in curves)
    return ours, theirs, kl


def best_row(rows: Sequence[Row], method: str, name: str) -> Row | None:
    """Return a method's row of the beta with the best held-out mean."""
    own = [row for row in rows if (row.method, row.place) == (method, "held_out")]
    return max(own, key=lambda row: row.mean_and_error(name)[0], default=None)


def common_divergence(curves: Iterable[Sequence[Row]]) -> np.ndarray:
    """Return the divergence that the farthest policy of every curve reaches, (seeds,).

    Of the two methods compared and nobody else, or a verdict would depend on what else is run.
    """
    return np.min([np.max([row.values["kl"] for row in curve], axis=0) for curve in curves], axis=0)


def mean_gold(kl: np.ndarray, curve: Sequence[Row], base: np.ndarray) -> np.ndarray:
    """Return the mean of `gold_at` over divergences from half of each seed's `kl` on, (seeds,)."""
    shares = np.linspace(0.5, 1, 21)
    return np.mean([gold_at(share * kl, curve, base) for share in shares], axis=0)


def gold_at(kl: np.ndarray, curve: Sequence[Row], base: np.ndarray) -> np.ndarray:
    """Return gold at each seed's divergence, linear between betas and the base model, (seeds,)."""
    found = []
    for seed, start in enumerate(base):
        points = sorted((row.values["kl"][seed], row.values["gold"][seed]) for row in curve)
        kls, golds = zip((0.0, start), *points, strict=True)
        found.append(np.interp(kl[seed], kls, golds))
    return np.asarray(found)


def _compare(ours: np.ndarray, theirs: np.ndarray, where: str) -> tuple[str, str]:
    """Return verdict and evidence of ours being higher."""
    gains = np.asarray(ours, np.float64) - theirs
    gain, error = mean_and_error(gains)
    told = f"{ours.mean():.3f} against {theirs.mean():.3f} {where}"
    return verdict(gains), f"{told}; difference {gain:+.3f} ± {error:.3f}"
