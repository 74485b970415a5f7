"""What the comparison leaves: the metrics of results.json, and tables on the console."""

from typing import Any

from rich.markup import escape

from ctrl_jax.runtime.run.tables import print_table
from experiments.mallows_lm import study

SHORT = {"held_out": "in", "elsewhere": "out"}


def summarize(found: study.Found) -> dict[str, Any]:
    """Return the metrics of results.json."""
    metrics: dict[str, Any] = dict(found.facts)
    for row in found.rows:
        for name in row.values:
            mean, error = row.mean_and_error(name)
            metrics[f"{name}/{row.key}"], metrics[f"{name}/{row.key}/stderr"] = mean, error
    for place, gold in found.base_gold.items():
        metrics[f"gold/{place}/base"] = float(gold.mean())
    return metrics


def print_results(found: study.Found) -> None:
    """Print what was measured."""
    bits = [
        [name.removeprefix("bits_per_byte/"), value]
        for name, value in found.facts.items()
        if name.startswith("bits_per_byte/")
    ]
    print_table("base model: bits per byte of unread text", ("text and reader", "bits"), bits)
    print_examples(found.examples)
    names = ("accuracy/agreed", "accuracy/divided", "gold", "kl")
    cells = [
        [
            f"{row.division}, {SHORT[row.place]}",
            row.method,
            f"{row.beta:g}",
            *("{:.3f} ± {:.3f}".format(*row.mean_and_error(name)) for name in names),
        ]
        for row in found.rows
    ]
    golds = ", ".join(f"{place} {gold.mean():.3f}" for place, gold in found.base_gold.items())
    title = f"mean over seeds ± standard error (gold of the base model: {golds})"
    columns = ("world", "method", "beta", "agreed", "divided", "gold", "KL")
    print_table(title, columns, cells)


def printable(text: str) -> str:
    """Return text of a model, which may be any bytes, as a terminal should see it."""
    return "".join(c if c.isprintable() else "·" for c in text.replace("\n", "↵"))


def print_examples(examples: dict[str, list[str]]) -> None:
    """Print what the base model and a policy of every method answer."""
    cells = []
    for n, question in enumerate(examples["question"]):
        cells.append([f"{question} ...", ""])
        cells += [[f"   {who}", texts[n]] for who, texts in examples.items() if who != "question"]
    shown = [[escape(printable(cell)) for cell in row] for row in cells]
    print_table("answers before and after", ("question", "... answer"), shown)
