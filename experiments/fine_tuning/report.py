"""Tables of results on the console."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(metrics: Mapping[str, Any], folder: Path) -> None:
    """Print what a fine-tuning run reached, beside the ideal and the expectations."""
    table = Table(title="fine-tuning: before, after, and the ideal")
    for name in ("", "before", "after", "reference"):
        table.add_column(name, justify="left" if not name else "right")
    real = metrics["diversity/real"]
    table.add_row(
        "gold success",
        _number(metrics["gold_success/before"]),
        _number(metrics["gold_success/after"]),
        "" if real is None else ">= 0.90 expected",
    )
    table.add_row(
        "proxy reward",
        _number(metrics["proxy_reward/before"]),
        _number(metrics["proxy_reward/after"]),
        "",
    )
    if real is not None:
        table.add_row(
            "diversity in class",
            _number(metrics["diversity/before"]),
            _number(metrics["diversity/after"]),
            f"{real:.3f} real digits",
        )
    table.add_row("path KL (nats)", "0", _number(metrics["kl/path"]), _ideal(metrics))
    if "w2/tilted" in metrics:
        table.add_row("W2 to the optimum", "", _number(metrics["w2/tilted"]), "0")
        table.add_row(
            "objective",
            "",
            _number(metrics["objective"]),
            f"{metrics['objective/optimal']:.3f} optimal",
        )
    console = Console()
    console.print(table)
    for name, value in metrics.items():
        if "/steps=" in name:
            console.print(f"  {name}: {_number(value)}")
    console.print(f"reward queries: {metrics['reward_queries']}   results: {folder}")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table of numbers and words."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, str) else _number(cell) for cell in row))
    Console().print(table)


def _ideal(metrics: Mapping[str, Any]) -> str:
    if metrics["kl/ideal"] is None:
        reached = metrics["frontier/largest_success"]
        return f"the frontier ends at success {reached:.3f}"
    return f"{metrics['kl/ideal']:.3f} ideal ({metrics['kl/ratio']:.2f} x)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
