"""What a plan says, as a record and as tables."""

from collections.abc import Mapping
from typing import Any

from ctrl_jax._records import plain
from ctrl_jax.commands.planning.program import floors
from ctrl_jax.runtime.devices.chips import Chip
from ctrl_jax.runtime.run.tables import console, print_table

MOST_OF_SHARE = 1.1
"""Above this many times its share of the operations a device computes what others do too."""

_PARTS = {
    "parameters": "parameters",
    "optimizer": "optimizer",
    "rest": "other arguments",
    "results": "results",
    "temporaries": "temporaries, activations among them",
    "activations": "  of these activations: what grows with the batch",
    "beside": "held beside the update: the reference model",
}
_FLOORS = {
    "arithmetic": ("flops", "TFLOP", "products and convolutions, at the chip's peak"),
    "memory": ("bytes", "TB", "to and from the chip's memory"),
    "interconnect": ("sent", "TB", "sent to other chips, over all links"),
}
"""By what sets a floor: its amount in a record, unit, and what it is."""


def record(planned: Any, chip: Chip | None, limit: int, **told: Any) -> dict[str, Any]:
    """Return all numbers of a plan, as JSON can hold them.

    Args:
        planned: by `plan`.
        chip: the peaks of a device; None where they are not known.
        limit: bytes that a program may use of a device.
        **told: what was planned.
    """
    found, program = planned.found, planned.program
    costs, memory = found.costs, found.memory
    spent = None if chip is None else dict(floors(costs, chip))
    floor = None if spent is None else max(spent.values())
    best = planned.largest

    def per_second(amount: float | None) -> float | None:
        return amount / floor if amount and floor else None

    return plain(
        {
            **told,
            "chip": chip,
            "examples": program.examples,
            "unit": program.unit,
            "tokens": program.tokens,
            "memory": {**plain(memory), "total": memory.total, "limit": limit},
            "fits": memory.total <= limit,
            "flops": costs.flops,
            "flops_share": found.share,
            "bytes": costs.bytes,
            "sent": costs.sent,
            "collectives": costs.by_kind(),
            "in_loops": sum(one.times for one in costs.collectives if one.looped),
            "loops_without_trips": costs.unknown,
            "floors": spent,
            "floor": floor,
            "per_second": per_second(program.examples),
            "tokens_per_second": per_second(program.tokens),
            "largest_batch": None if best is None else {"batch": best[0], "next_fits_not": best[1]},
            "totals": {str(batch): total for batch, total in sorted(planned.totals.items())},
            "seconds": {"lower": found.lowering, "compile": found.compiling},
        }
    )


def show(told: Mapping[str, Any]) -> None:
    """Print the tables of a plan.

    Args:
        told: by `record`.
    """
    sizes = " x ".join(f"{name} {size}" for name, size in told["mesh"].items())
    console().print(f"{told['command']} on {told['topology']} ({told['device']}), {sizes}")
    memory, limit = told["memory"], told["memory"]["limit"]
    rows = [[text, *_shares(memory[name], limit)] for name, text in _PARTS.items() if memory[name]]
    rows.append(["all", *_shares(memory["total"], limit)])
    print_table(f"memory of each, of {limit / 1e9:.1f} GB", ("", "GB", "share"), rows)
    spent = told["floors"] or {}
    rows = [
        [text, f"{told[key] / 1e12:.3g} {unit}", _time(spent.get(name))]
        for name, (key, unit, text) in _FLOORS.items()
    ]
    print_table("one update, each device", ("", "", "at least"), rows)
    chip = told["chip"]
    if told["collectives"]:
        rows = [
            [
                kind,
                f"{row['places']:.0f}",
                f"{row['times']:.0f}",
                f"{row['sent'] / 1e9:.3g}",
                _time(chip and row["sent"] / chip["interconnect"]),
            ]
            for kind, row in told["collectives"].items()
        ]
        columns = ("", "places", "times", "GB sent", "at least")
        print_table("what devices send each other in one update", columns, rows)
    for line in lines(told):
        console().print(line, highlight=False)


def _shares(size: int, limit: int) -> list[str]:
    return [f"{size / 1e9:.3g}", f"{size / limit:.1%}"]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def lines(told: Mapping[str, Any]) -> list[str]:
    """Return what is said below the tables.

    Args:
        told: by `record`.
    """
    found = []
    amounts = [(told["examples"], told["unit"], told["per_second"])]
    if told["tokens"] is not None:
        amounts.append((told["tokens"], "tokens", told["tokens_per_second"]))
    update = " with ".join(f"{number:.0f} {unit}" for number, unit, _ in amounts)
    if told["floor"]:
        most = " or ".join(f"{rate:.4g} {unit}" for _, unit, rate in amounts)
        found.append(
            f"{update} an update: at least {_time(told['floor'])}, at most {most} per second"
        )
    else:
        found.append(f"{update} an update; the peaks of {told['device']} are not known")
    if told["flops"] > MOST_OF_SHARE * told["flops_share"] > 0:
        times = told["flops"] / told["flops_share"]
        found.append(f"each device computes {times:.2f} times its share: something is not divided")
    if told["memory"]["activations"] is None and len(told["totals"]) == 1:
        found.append("--activations tells activations from other temporaries by another batch")
    if not told["fits"]:
        found.append("it does not fit: lower the batch, or take more chips, remat or bfloat16")
    if (best := told["largest_batch"]) is not None:
        tried = len(told["totals"])
        known = "" if best["next_fits_not"] else " at least"
        found.append(f"largest batch that fits:{known} {best['batch']} ({tried} compiled)")
    if told["loops_without_trips"]:
        loops = told["loops_without_trips"]
        found.append(f"{loops} loops do not say how often they run, and count once")
    seconds = told["seconds"]
    found.append(f"lowered in {seconds['lower']:.1f} s, compiled in {seconds['compile']:.1f} s")
    return found
