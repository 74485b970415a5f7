"""The tables on the console."""

from collections.abc import Sequence

from ctrl_jax.runtime.run.tables import print_table
from experiments.contraction.claims import REPORTED_IMAGES, REPORTED_SWISS_ROLL
from experiments.contraction.data import Task
from experiments.contraction.family import family
from experiments.contraction.learned import Learned
from experiments.contraction.measurement import KINDS, LEARNED_SAMPLERS, Measurement, find


def print_one_dimension(found: Sequence[Measurement], steps: int, size: float) -> None:
    """Print W2 of the Euler sampler and the bound, the worse of both signs of each error."""
    rows = []
    for process in family():
        for start in ("exact", "prior"):
            where = {"process": process, "sampler": "euler", "steps": steps, "start": start}
            cells = [_cell(found, ("none",), where)]
            cells += [_cell(found, (kind + "+", kind + "-"), where) for kind in KINDS]
            rows.append([process if start == "exact" else "", start, *cells])
    title = f"one dimension: W2 (bound), {steps} Euler steps, errors of size {size:g}"
    print_table(title, ("process", "start", "no error", *KINDS), rows, words=2)


def _cell(found, errors, where) -> str:
    worst = max((find(found, error=e, **where)[0] for e in errors), key=lambda m: m.mean)
    return f"{worst.mean:.3f} ({worst.bound:.3g})"


def print_learned(found: Learned, task: Task, steps: Sequence[int]) -> None:
    """Print the distances of every process beside those that were reported."""
    reported = {"swiss_roll": REPORTED_SWISS_ROLL, "images": REPORTED_IMAGES}[task.name]
    settings = [(sampler, number) for sampler in LEARNED_SAMPLERS for number in steps]
    lines = []
    for process in family():
        for network in ("own", "shared", "transported"):
            rows = find(found.measurements, process=process, error=network)
            cells = {(m.sampler, m.steps): f"{m.mean:.3f}" for m in rows}
            name, told = (process, reported.get(process, "")) if network == "own" else ("", "")
            if cells:
                lines.append([name, network, *(cells.get(s, "") for s in settings), told])
    title = f"{task.name}: {task.metric} to held-out data; {task.floor:.3f} for as many real ones"
    columns = ("process", "network", *(f"{s}\n{n}" for s, n in settings), "reported")
    print_table(title, columns, lines, words=2)
    if found.score_errors:
        title = "root mean square error of the trained scores, in three units"
        errors = [[name, *(f"{e:.3g}" for e in of)] for name, of in found.score_errors.items()]
        print_table(title, ("process", *KINDS), errors)
