"""The tables on the console."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from experiments.contractive.claims import REPORTED_IMAGES, REPORTED_SWISS_ROLL, Claim
from experiments.contractive.data import Task
from experiments.contractive.family import PROCESSES
from experiments.contractive.learned import Learned
from experiments.contractive.measurement import SAMPLERS, Measurement, find
from experiments.contractive.one_dimension import settings


def print_one_dimension(found: Sequence[Measurement], steps: int, size: float) -> None:
    """Print W2 of the Euler sampler and the bound, a row per process and start."""
    table = Table(title=f"one dimension: W2 (bound), {steps} Euler steps, errors of size {size:g}")
    table.add_column("process")
    table.add_column("start")
    for error in settings(size):
        table.add_column(error, justify="right")
    for process in PROCESSES:
        for start in ("exact", "prior"):
            where = {"process": process, "sampler": "euler", "steps": steps, "start": start}
            row = [find(found, error=error, **where)[0] for error in settings(size)]
            cells = [f"{m.mean:.3f} ({m.bound:.3g})" for m in row]
            table.add_row(process if start == "exact" else "", start, *cells)
    Console().print(table)


def print_learned(found: Learned, task: Task, steps: Sequence[int]) -> None:
    """Print the distances of every process beside those that were reported."""
    reported = {"swiss_roll": REPORTED_SWISS_ROLL, "images": REPORTED_IMAGES}[task.name]
    floor = f"{task.floor:.3f} for as many real ones"
    table = Table(title=f"{task.name}: {task.metric} to held-out data; {floor}")
    table.add_column("process")
    table.add_column("network")
    for sampler in SAMPLERS:
        for number in steps:
            table.add_column(f"{sampler} {number}", justify="right")
    table.add_column("reported")
    table.add_column("score error: abs, noise, rel")
    for process in PROCESSES:
        for network in ("own", "shared", "transported"):
            rows = find(found.measurements, process=process, error=network)
            cells = {(m.sampler, m.steps): f"{m.mean:.3f} ± {m.stderr:.3f}" for m in rows}
            if not cells:
                continue
            own = network == "own"
            errors = ", ".join(f"{e:.2g}" for e in found.score_errors[process]) if own else ""
            table.add_row(
                process if own else "",
                network,
                *(cells.get((s, n), "") for s in SAMPLERS for n in steps),
                reported.get(process, "") if own else "",
                errors,
            )
    Console().print(table)


def print_claims(claims: Sequence[Claim]) -> None:
    """Print whether each claim holds here."""
    table = Table(title="claims", show_lines=True)
    for name in ("claim", "holds here", "numbers"):
        table.add_column(name, overflow="fold")
    for claim in claims:
        table.add_row(claim.statement, claim.holds, claim.evidence)
    Console().print(table)
