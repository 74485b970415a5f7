"""What a study decides: statistics over seeds, statements with verdicts, expectations."""

import dataclasses
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax._checks import refuse

Seeds = np.ndarray | Sequence[float]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper, or about it, and what was found.

    Args:
        name: a short one.
        statement: the sentence.
        holds: whether it does here: yes, level, no, or a word more.
        evidence: the numbers.
    """

    name: str
    statement: str
    holds: str
    evidence: str


def print_claims(claims: Sequence[Claim]) -> None:
    """Print whether each claim holds here."""
    from rich.table import Table

    from ctrl_jax.runtime.run.tables import console

    table = Table(title="claims", show_lines=True)
    for name in ("claim", "holds here", "numbers"):
        table.add_column(name, overflow="fold")
    for claim in claims:
        table.add_row(claim.statement, claim.holds, claim.evidence)
    console().print(table)


def mean_and_error(values: Seeds) -> tuple[float, float]:
    """Return the mean over seeds and its standard error, NaN of one seed."""
    seeds = np.asarray(values, np.float64)
    if seeds.size < 2:
        return float(seeds.mean()), float("nan")
    with np.errstate(invalid="ignore"):  # a seed may have run away to infinity
        return float(seeds.mean()), float(seeds.std(ddof=1) / np.sqrt(seeds.size))


def verdict(gains: Seeds) -> str:
    """Return whether paired differences are above zero by more than chance: yes, level or no.

    Student's t, 97.5 % on either side: of twenty comparisons without a difference one is expected
    to look decided. Without a finite mean "not comparable", of one seed "one seed".
    """
    from scipy import stats

    mean, error = mean_and_error(gains)
    if not np.isfinite(mean):
        return "not comparable"
    if np.size(gains) < 2:
        return "one seed"
    margin = float(stats.t.ppf(0.975, np.size(gains) - 1)) * error
    return "yes" if mean > margin else "level" if mean >= -margin else "no"


class Judged(NamedTuple):
    """One expectation beside what was measured.

    Fields:
        name: of the metric.
        value: as measured.
        expected: as declared.
        bound: what it amounts to in numbers.
        holds: whether it does; of None, a number that was not finite, it does not.
    """

    name: str
    value: Any
    expected: str
    bound: float
    holds: bool


_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_RULE = re.compile(r"(<=|>=|<|>|-?[\d.]+ ±) (?:([\d.]+) x )?(.+)")


def judge(expected: Mapping[str, str], metrics: Mapping[str, Any]) -> list[Judged]:
    """Return every expectation whose metrics there are, with its verdict.

    Args:
        expected: names to "<= BOUND", with < <= > or >=, or "CENTER ± BOUND". A bound is a number
            or another metric, after "FACTOR x " or without. A `*` in a name stands for any text
            without /, and in its bound for the same text.
        metrics: names to what was measured.

    Raises:
        ValueError: an expectation of another form.
    """
    found = []
    for pattern, rule in expected.items():
        names = re.compile(re.escape(pattern).replace(r"\*", "([^/]*)"))
        for name, match in ((name, names.fullmatch(name)) for name in metrics):
            said = rule
            for text in match.groups() if match else ():
                said = said.replace("*", text, 1)
            bound = _bound(said, metrics) if match else None
            if bound is not None:
                holds = _holds(metrics[name], said, bound)
                found.append(Judged(name, metrics[name], said, bound, holds))
    return found


def _bound(rule: str, metrics: Mapping[str, Any]) -> float | None:
    """Return the bound of a rule, None where it is of a metric that was not measured."""
    parts = _RULE.fullmatch(rule)
    if parts is None:
        raise refuse("expected", rule, "it is no expectation", 'write it as "<= 0.9"')
    _, factor, other = parts.groups()
    try:
        return float(factor or 1) * (metrics[other] if other in metrics else float(other))
    except (TypeError, ValueError):
        return None


def _holds(value: float | None, rule: str, bound: float) -> bool:
    sign = rule.split(" ")[0]
    if value is None:
        return False
    return _COMPARE[sign](value, bound) if sign in _COMPARE else abs(value - float(sign)) <= bound
