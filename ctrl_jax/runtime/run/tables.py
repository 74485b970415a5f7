"""Tables of results on the console."""

from collections.abc import Sequence
from typing import Any, SupportsFloat

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Return a console, wide enough for tables where the output is a file."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, words: int = 1
) -> None:
    """Print a table of numbers, beside as many columns of words."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < words else "right")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, str) else number(cell) for cell in row))
    console().print(table)


def number(value: SupportsFloat | None) -> str:
    """Return a number with three decimals, a dash for None."""
    return "-" if value is None else f"{value:.3f}"
