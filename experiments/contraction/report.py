"""The tables on the console."""

from collections.abc import Sequence

from rich.table import Table

from ctrl_jax.runtime.run.tables import console
from experiments.contraction.claims import REPORTED_IMAGES, REPORTED_SWISS_ROLL
from experiments.contraction.data import Task
from experiments.contraction.family import PROCESSES
from experiments.contraction.learned import Learned
from experiments.contraction.measurement import LEARNED_SAMPLERS, Measurement, find

KINDS = ("absolute", "noise", "relative")


def print_one_dimension(found: Sequence[Measurement], steps: int, size: float) -> None:
    """Print W2 of the Euler sampler and the bound, the worse of both signs of each error."""
    table = Table(title=f"one dimension: W2 (bound), {steps} Euler steps, errors of size {size:g}")
    for i, name in enumerate(("process", "start", "no error", *KINDS)):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for process in PROCESSES:
        for start in ("exact", "prior"):
            where = {"process": process, "sampler": "euler", "steps": steps, "start": start}
            cells = [_cell(found, ("none",), where)]
            cells += [_cell(found, (kind + "+", kind + "-"), where) for kind in KINDS]
            table.add_row(process if start == "exact" else "", start, *cells)
    console().print(table)


def _cell(found, errors, where) -> str:
    worst = max((find(found, error=e, **where)[0] for e in errors), key=lambda m: m.mean)
    return f"{worst.mean:.3f} ({worst.bound:.3g})"


def print_learned(found: Learned, task: Task, steps: Sequence[int]) -> None:
    """Print the distances of every process beside those that were reported."""
    reported = {"swiss_roll": REPORTED_SWISS_ROLL, "images": REPORTED_IMAGES}[task.name]
    floor = f"{task.floor:.3f} for as many real ones"
    table = Table(title=f"{task.name}: {task.metric} to held-out data; {floor}")
    settings = [(sampler, number) for sampler in LEARNED_SAMPLERS for number in steps]
    for name in ("process", "network", *(f"{s}\n{n}" for s, n in settings), "reported"):
        table.add_column(name, justify="left" if name in ("process", "network") else "right")
    for process in PROCESSES:
        for network in ("own", "shared", "transported"):
            rows = find(found.measurements, process=process, error=network)
            cells = {(m.sampler, m.steps): f"{m.mean:.3f}" for m in rows}
            name, told = (process, reported.get(process, "")) if network == "own" else ("", "")
            if cells:
                table.add_row(name, network, *(cells.get(s, "") for s in settings), told)
    console().print(table)
    _print_score_errors(found)


def _print_score_errors(found: Learned) -> None:
    """Print what the same networks' errors are in each of the three units."""
    if not found.score_errors:
        return
    table = Table(title="root mean square error of the trained scores, in three units")
    for i, name in enumerate(("process", *KINDS)):
        table.add_column(name, justify="left" if i < 1 else "right")
    for process, errors in found.score_errors.items():
        table.add_row(process, *(f"{error:.3g}" for error in errors))
    console().print(table)
