"""The verdicts of the contraction experiment on measurements that are made up."""

import dataclasses

import pytest

from experiments.contraction import claims
from experiments.contraction.config import Config
from experiments.contraction.family import TWINS, family
from experiments.contraction.learned import Learned
from experiments.contraction.measurement import SAMPLERS, Measurement, margin, over_seeds
from experiments.contraction.one_dimension import POINT_STEPS, settings

CONFIG = Config()
FINE, COARSE = max(CONFIG.solver_steps), min(CONFIG.solver_steps)


def distance(process: str, better: str | None) -> float:
    """W2 of .5, or .3 for the processes that are meant to be better."""
    contracts = process.startswith("contractive")
    return 0.3 if {"contractive": contracts, "plain": not contracts}.get(str(better)) else 0.5


def one_dimension(better: str | None, *, stderr: float = 0.001, bound: float = 1.0):
    found = [
        Measurement("one_dimension", p, s, n, e, start, distance(p, better), stderr, 4, bound=bound)
        for p in family()
        for s in SAMPLERS
        for n in CONFIG.solver_steps
        for e in settings(1.0)
        for start in ("exact", "prior")
    ]
    return {claim.name: claim.holds for claim in claims.one_dimension(CONFIG, found)}


def test_a_margin_is_students():
    """Five seeds with values 0, .., 4: standard error sqrt(.5); t of 4 degrees is 2.776445."""
    row = Measurement("x", "ou", "euler", 4, "own", "prior", *over_seeds(range(5)))
    assert (row.mean, row.seeds) == (2.0, 5)
    assert margin(row, row) == pytest.approx(2.776445, rel=1e-6)
    few = dataclasses.replace(row, seeds=2)
    assert margin(row, few) == pytest.approx(12.7062047, rel=1e-6)


@pytest.mark.parametrize(
    ("better", "holds"), [("contractive", "yes"), ("plain", "no"), (None, "no")]
)
def test_forgiving_errors_may_hold_and_may_not(better, holds):
    told = one_dimension(better)
    assert told["forgets_score_errors/exact"] == told["forgets_score_errors/prior"] == holds
    assert told["discretization"] == holds
    assert told["prior_floor"] == told["signs"] == "no"


def test_a_difference_within_chance_is_none():
    told = one_dimension("contractive", stderr=0.1)
    assert told["forgets_score_errors/exact"] == told["discretization"] == "no"


def test_the_bound_may_be_broken():
    assert one_dimension(None, bound=0.01)["bound_holds"] == "yes"  # what an exact score misses too
    broken = [
        Measurement("x", "ou", "euler", FINE, e, "exact", w2, 0.001, 4, bound=0.1)
        for e, w2 in (("none", 0.01), ("noise+", 0.2))
    ]
    assert claims._bound_holds(broken, FINE).holds == "no"


@pytest.mark.parametrize(
    ("gaps", "holds"),
    [((0.2, 0.1, 0.01), "yes"), ((0.2, 0.2, 0.2), "in part (1 of 2)"), ((-0.2,) * 3, "no")],
)
def test_the_point_mass_may_hold_and_may_not(gaps, holds):
    found = [
        Measurement("point", p, "euler", n, mark, "prior", w2, 0.001, 4)
        for n, gap in zip(POINT_STEPS, gaps, strict=True)
        for p, w2 in (("ou", 0.5 + gap), ("contractive ou", 0.5))
        for mark in "+-"
    ]
    assert claims.point(found)[0].holds == holds


@pytest.mark.parametrize("better", ["contractive", "plain", None])
@pytest.mark.parametrize("gap", [1e-6, 0.5])
def test_trained_networks_may_be_closer_and_may_not(better, gap):
    rows = [
        Measurement("images", p, s, n, "own", "prior", distance(p, better), 0.001, 5)
        for p in family()
        for s in SAMPLERS
        for n in CONFIG.learned_solver_steps
    ]
    found = Learned(rows, {}, {"euler": 1.0, "ancestral": gap, "ddim": 1e-6}, {}, {})
    closer, coordinates = claims.learned(CONFIG, found, "images")
    assert closer.holds.startswith("yes" if better == "contractive" else "no")
    assert coordinates.holds == ("yes" if gap < 1e-2 else "no")


def test_trained_networks_within_chance_are_level():
    rows = [
        Measurement("images", p, s, n, "own", "prior", distance(p, "contractive"), 0.1, 5)
        for p in family()
        for s in SAMPLERS
        for n in CONFIG.learned_solver_steps
    ]
    found = Learned(rows, {}, {"ancestral": 1e-6, "ddim": 1e-6}, {}, {})
    assert claims.learned(CONFIG, found, "images")[0].holds.startswith("no")


@pytest.mark.parametrize("stderr", [0.001, 0.1])
def test_a_gap_of_the_point_mass_within_chance_is_none(stderr):
    """Margins of 3.18 sqrt(2) stderr: 0.0045, and 0.45 beside gaps of at most 0.2."""
    found = [
        Measurement("point", p, "euler", n, mark, "prior", w2, stderr, 4)
        for n, gap in zip(POINT_STEPS, (0.2, 0.1, 0.01), strict=True)
        for p, w2 in (("ou", 0.5 + gap), ("contractive ou", 0.5))
        for mark in "+-"
    ]
    assert claims.point(found)[0].holds == ("yes" if stderr < 0.01 else "no")


@pytest.mark.parametrize(("stderr", "holds"), [(0.001, "yes"), (0.1, "no")])
def test_a_sign_that_cancels_the_prior_is_told_unless_by_chance(stderr, holds):
    found = [
        Measurement("one_dimension", p, "euler", FINE, error, "prior", w2, stderr, 4)
        for p in claims.FLOORS
        for error, w2 in (("none", 0.3), ("noise+", 0.5), ("noise-", 0.2))
    ]
    assert claims._signs(found, FINE).holds == holds


def test_some_of_the_twins():
    assert claims.verdict(len(TWINS), len(TWINS)) == "yes"
    assert claims.verdict(1, 5) == "in part (1 of 5)"
    assert claims.verdict(0, 5) == "no"
