"""The table of a fine-tuning run on the console."""

from collections.abc import Mapping
from typing import Any

from ctrl_jax.runtime.run.tables import console, number, print_table
from experiments.score_as_action.config import Config


def names(config: Config) -> tuple[str, str]:
    """Return what success and reward are called among the metrics.

    Beside a learned reward, the proxy, stands the annotator's own verdict, the gold success; a
    given reward is the thing itself, and success is a high one.
    """
    return ("gold_success", "proxy_reward") if config.learns_reward else ("success", "reward")


def titles(config: Config) -> tuple[str, str, str]:
    """Return what success, reward and diversity are called in pictures and tables."""
    if config.learns_reward:
        return "gold success", "proxy reward", "diversity within the class"
    high = "top tenth" if config.environment == "digits" else "upper half"
    return f"success (reward in the base's {high})", "reward", "diversity of successes"


def print_results(config: Config, metrics: Mapping[str, Any]) -> None:
    """Print what a fine-tuning run reached, beside the ideal and the expectations."""

    def row(title: str, name: str, reference: str) -> list[Any]:
        return [title, metrics[f"{name}/before"], metrics[f"{name}/after"], reference]

    real, (success, reward) = metrics["diversity/real"], names(config)
    of_success, of_reward, of_diversity = titles(config)
    rows = [
        row(of_success, success, ">= 0.90 expected" if config.learns_reward else ""),
        row(of_reward, reward, ""),
    ]
    if metrics["diversity/after"] is not None:
        reference = "" if real is None else f"{real:.3f} real digits"
        rows.append(row(of_diversity, "diversity", reference))
    rows.append(["path KL (nats)", "0", metrics["kl/path"], _ideal(metrics)])
    if "w2/tilted" in metrics:
        optimal = f"{metrics['objective/optimal']:.3f} optimal"
        apart = f"{metrics['w2/two_samples']:.3f} two samples of it"
        rows.append(["W2 to the optimum", "", metrics["w2/tilted"], apart])
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
