"""The table of a fine-tuning run on the console."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from ctrl_jax.runtime.run.tables import console, number


def print_results(metrics: Mapping[str, Any]) -> None:
    """Print what a fine-tuning run reached, beside the ideal and the expectations."""
    table = Table(title="fine-tuning: before, after, and the ideal")
    for name in ("", "before", "after", "reference"):
        table.add_column(name, justify="left" if not name else "right")
    real = metrics["diversity/real"]
    table.add_row(
        "gold success",
        number(metrics["gold_success/before"]),
        number(metrics["gold_success/after"]),
        "" if real is None else ">= 0.90 expected",
    )
    table.add_row(
        "proxy reward",
        number(metrics["proxy_reward/before"]),
        number(metrics["proxy_reward/after"]),
        "",
    )
    if real is not None:
        table.add_row(
            "diversity in class",
            number(metrics["diversity/before"]),
            number(metrics["diversity/after"]),
            f"{real:.3f} real digits",
        )
    table.add_row("path KL (nats)", "0", number(metrics["kl/path"]), _ideal(metrics))
    if "w2/tilted" in metrics:
        table.add_row("W2 to the optimum", "", number(metrics["w2/tilted"]), "0")
        table.add_row(
            "objective",
            "",
            number(metrics["objective"]),
            f"{metrics['objective/optimal']:.3f} optimal",
        )
    screen = console()
    screen.print(table)
    for name, value in metrics.items():
        if "/steps=" in name:
            screen.print(f"  {name}: {number(value)}")
    screen.print(f"reward queries: {metrics['reward_queries']}")


def _ideal(metrics: Mapping[str, Any]) -> str:
    if metrics["kl/ideal"] is None:
        reached = metrics["frontier/largest_success"]
        return f"the frontier ends at success {reached:.3f}"
    return f"{metrics['kl/ideal']:.3f} ideal ({metrics['kl/ratio']:.2f} x)"
