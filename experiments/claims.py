"""Statements that an experiment decides, each with its verdict."""

import dataclasses
from collections.abc import Sequence

from rich.table import Table

from ctrl_jax.runtime.run.tables import console


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper, or about it, and what was found."""

    name: str
    statement: str
    holds: str
    evidence: str


def print_claims(claims: Sequence[Claim]) -> None:
    """Print whether each claim holds here."""
    table = Table(title="claims", show_lines=True)
    for name in ("claim", "holds here", "numbers"):
        table.add_column(name, overflow="fold")
    for claim in claims:
        table.add_row(claim.statement, claim.holds, claim.evidence)
    console().print(table)
