"""The Markdown table of a benchmark's result, and the versions it depends on."""

import importlib.metadata
import platform
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "diffrax", "numpy", "torch", "torchsde", "trl")
PACKAGES += ("stable-baselines3", "gymnasium")


def versions() -> dict[str, str]:
    """Return the versions of Python and of every package that takes part; absent ones say so."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    lines = [
        f"# {result['benchmark']}",
        "",
        result["claim"],
        "",
        f"`{result['command']}` on {result['device']}; {versions}; {settings}.",
        "",
        "Ratio: the contender's time over ours in the same round, median [min, max]; above 1, "
        "ours is faster. Of fastest: the ratio of both sides' fastest rounds, which other work on "
        "the machine disturbs least. Memory: the compiler's account (JAX), the rise of the "
        "process's peak (PyTorch).",
    ]
    for case in result["cases"]:
        lines += ["", f"## {case['name']}", "", _HEAD, _RULE]
        lines += [_row(row) for row in case["rows"]]
    return "\n".join(lines) + "\n"


_HEAD = "| | time (ms) | ratio | of fastest | target | met | compile (s) | peak memory (MB) | |"
_RULE = "|---|---|---|---|---|---|---|---|---|"


def _row(row: dict[str, Any]) -> str:
    time = ratio = fastest = ""
    if "seconds" in row:
        time = f"{row['seconds'] * 1e3:.1f} [{row['seconds_min'] * 1e3:.1f}, "
        time += f"{row['seconds_max'] * 1e3:.1f}]"
    if "ratio" in row:
        ratio = f"{row['ratio']:.2f} [{row['ratio_min']:.2f}, {row['ratio_max']:.2f}]"
        fastest = f"{row['ratio_of_fastest']:.2f}"
    target = "" if row["target"] is None else f"≥ {row['target']:.2f}"
    met = {None: "", True: "yes", False: "**no**"}[row["met"]]
    seconds, memory = row["compile_seconds"], row["memory_bytes"]
    cells = [
        row["contender"],
        time,
        ratio,
        fastest,
        target,
        met,
        "" if seconds is None else f"{seconds:.1f}",
        "" if memory is None else f"{memory / 1e6:.1f}",
        _facts(row) or row["note"],
    ]
    return f"| {' | '.join(cells)} |"


def _facts(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['evaluations']} evaluations, error {row['error']:.4f}"
    if "environment_steps" in row and "seconds" in row:
        return f"{row['environment_steps'] / row['seconds'] / 1e6:.3g} M environment steps/s"
    if "tokens" in row and "seconds" in row:
        names = "".join(f", {name} {version}" for name, version in row.get("versions", {}).items())
        return f"{row['tokens'] / row['seconds']:.0f} tokens/s{names}"
    if "flops" in row and "seconds" in row:
        return _arithmetic(row)
    if "updates" in row:
        return f"{row['updates']:.0f} updates, environment time {row['environment_time']:.0f}"
    return ""


def _arithmetic(row: dict[str, Any]) -> str:
    rate = row["flops"] / row["seconds"]
    share = f", {rate / row['peak_flops']:.0%} of the device's" if row["peak_flops"] else ""
    pictures = row["pictures"] / row["seconds"]
    made = f"{pictures:.3g} images/s, " if row["pictures"] else ""
    names = "".join(f", {name} {version}" for name, version in row.get("versions", {}).items())
    return f"{made}{rate / 1e9:.0f} GFLOP/s{share}{names}"
