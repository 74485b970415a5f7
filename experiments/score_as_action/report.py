"""The table of a fine-tuning run on the console."""

from collections.abc import Mapping
from typing import Any

from ctrl_jax.runtime.run.tables import console, number, print_table


def print_results(metrics: Mapping[str, Any]) -> None:
    """Print what a fine-tuning run reached, beside the ideal and the expectations."""

    def row(title: str, name: str, reference: str) -> list[Any]:
        return [title, metrics[f"{name}/before"], metrics[f"{name}/after"], reference]

    real = metrics["diversity/real"]
    rows = [
        row("gold success", "gold_success", "" if real is None else ">= 0.90 expected"),
        row("proxy reward", "proxy_reward", ""),
    ]
    if real is not None:
        rows.append(row("diversity in class", "diversity", f"{real:.3f} real digits"))
    rows.append(["path KL (nats)", "0", metrics["kl/path"], _ideal(metrics)])
    if "w2/tilted" in metrics:
        optimal = f"{metrics['objective/optimal']:.3f} optimal"
        rows.append(["W2 to the optimum", "", metrics["w2/tilted"], "0"])
        rows.append(["objective", "", metrics["objective"], optimal])
    title = "fine-tuning: before, after, and the ideal"
    print_table(title, ("", "before", "after", "reference"), rows)
    screen = console()
    for name, value in metrics.items():
        if "/steps=" in name:
            screen.print(f"  {name}: {number(value)}")
    screen.print(f"reward queries: {metrics['reward_queries']}")


def _ideal(metrics: Mapping[str, Any]) -> str:
    if metrics["kl/ideal"] is None:
        reached = metrics["frontier/largest_success"]
        return f"the frontier ends at success {reached:.3f}"
    return f"{metrics['kl/ideal']:.3f} ideal ({metrics['kl/ratio']:.2f} x)"
