r"""Error against cost of every sampler on every process, with an exact score.

Error: the data are N(1, .25) in each of two coordinates, so the score of every process is known;
samples start from the process's stated prior, and the error is W2 between the Gaussian with their
moments and the exact law at the last time. It contains what the sampler's steps leave, what the
prior leaves (which no sampler mends; contractive processes that never destroy the signal keep
much), and the noise of the moments, about 0.002.

Cost: time and memory of the same sampler on a perceptron score (2 x 128, 2-D), at equal numbers of
evaluations of the score.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks import perceptron
from benchmarks.harness import Case, Contender, Runner, jax_runner
from ctrl_jax.processes import (
    OU,
    VE,
    VP,
    ContractiveOU,
    ContractiveSubVP,
    ContractiveVP,
    LinearProcess,
    SubVP,
    grids,
)
from ctrl_jax.solvers import (
    Ancestral,
    DPMSolverPP2M,
    EulerMaruyama,
    ExponentialEuler,
    PredictorCorrector,
    StochasticHeun,
    sample,
    sample_adaptive,
)

MEAN, STD, END = 1.0, 0.5, 1e-3
NOISE = 0.002  # of the error: two moments of 2^17 numbers
TOLERANCE, STAGES = 1e-4, 6  # of the adaptive solver: Tsit5 evaluates six times per attempt

PROCESSES = {
    "OU": OU(1.0, 1.0, horizon=4.0),
    "VE": VE(0.01, 50.0),
    "VP": VP(0.1, 20.0),
    "SubVP": SubVP(0.1, 20.0),
    "ContractiveOU": ContractiveOU(1.0, 1.0, horizon=2.0),
    "ContractiveVP": ContractiveVP(0.01, 8.0),
    "ContractiveSubVP": ContractiveSubVP(0.01, 8.0),
}


class Sampler(NamedTuple):
    """A solver, its evaluations per step, and whether it wants steps even in time."""

    solver: diffrax.AbstractSolver
    evaluations: int = 1
    in_time: bool = False


SAMPLERS = {
    "Euler-Maruyama": Sampler(EulerMaruyama(), in_time=True),
    "ancestral": Sampler(Ancestral()),
    "DDIM": Sampler(ExponentialEuler(eta=0.0)),
    "DPM-Solver++(2M)": Sampler(DPMSolverPP2M()),
    "predictor-corrector": Sampler(PredictorCorrector(), 2),
    "EDM Heun": Sampler(StochasticHeun(), 2),
    "EDM Heun, churned": Sampler(StochasticHeun(s_churn=5.0), 2),
    "SEA": Sampler(diffrax.SEA(), in_time=True),
    "ShARK": Sampler(diffrax.ShARK(), 2, in_time=True),
    "SRA1": Sampler(diffrax.SRA1(), 2, in_time=True),
    "flow, Tsit5": Sampler(diffrax.Tsit5(), STAGES, in_time=True),
}
ADAPTIVE = f"flow, adaptive Tsit5, {TOLERANCE:g}"


def cases(quick: bool = False) -> Iterator[Case]:
    """Yield VP at many costs, and every other process at two."""
    if quick:
        yield _case("VP", 12, batch=4, draws=64)
        return
    for evaluations in (12, 24, 48, 96, 192):
        yield _case("VP", evaluations)
    for process in PROCESSES:
        if process != "VP":
            yield from (_case(process, evaluations) for evaluations in (24, 96))


def _case(process: str, evaluations: int, batch: int = 256, draws: int = 2**16) -> Case:
    shared = {"process": process, "evaluations": evaluations, "batch": batch, "draws": draws}
    named = [Contender(name, fixed, {"sampler": name, **shared}) for name in SAMPLERS]
    free = {"process": process, "budget": evaluations, "batch": batch, "draws": draws}
    named.append(Contender(ADAPTIVE, adaptive, free))
    return Case(f"error and cost, {process}, {evaluations} evaluations", named)


def fixed(process: str, sampler: str, evaluations: int, batch: int, draws: int) -> Runner:
    """Build a sampler of so many evaluations; its error is measured here, not timed."""
    chosen, which = SAMPLERS[sampler], PROCESSES[process]
    steps = max(evaluations // chosen.evaluations, 1)
    spacing = grids.quadratic if chosen.in_time else grids.log_snr
    grid = spacing(which, steps, end=END * which.horizon)

    def draw(key: Array, score_fn: Any, number: int) -> Array:
        return sample(key, which, score_fn, (number, 2), grid=grid, solver=chosen.solver)

    facts = {"process": process, "budget": evaluations, "evaluations": steps * chosen.evaluations}
    return _runner(which, draw, facts, batch, draws)


def adaptive(process: str, budget: int, batch: int, draws: int) -> Runner:
    """Build the adaptive flow, whose evaluations are what its tolerance asks for."""
    which = PROCESSES[process]
    end = END * which.horizon

    def solve(key, score_fn, number):
        return sample_adaptive(key, which, score_fn, (number, 2), end=end, tolerance=TOLERANCE)

    found = jax.jit(lambda key: solve(key, exact_score(which), 256))(jax.random.key(0))
    evaluations = round(float(found.steps.mean()) * STAGES)
    facts = {"process": process, "budget": budget, "evaluations": evaluations}
    return _runner(which, lambda *a: solve(*a).states, facts, batch, draws)


def exact_score(process: LinearProcess) -> Any:
    """Return the score of the data noised by a process."""

    def score(t, x):
        scale, std = process.marginal(t)
        return -(x - scale * MEAN) / ((scale * STD) ** 2 + std**2)

    return score


def error(process: LinearProcess, x: Array) -> float:
    """Return W2 between the Gaussian with the samples' moments and the law at the last time."""
    scale, std = process.marginal(jnp.asarray(END * process.horizon))
    spread = jnp.sqrt((scale * STD) ** 2 + std**2)
    return float(jnp.hypot(x.mean() - scale * MEAN, x.std() - spread))


def _runner(process, draw, facts, batch, draws) -> Runner:
    exact = jax.jit(lambda key: draw(key, exact_score(process), draws))(jax.random.key(1))
    facts = {**facts, "error": error(process, exact)}

    def run(key, params):
        def score_fn(t, x):  # a network sees inputs of unit size, whatever the process
            scale, std = process.marginal(t)
            size = jnp.sqrt(scale**2 + std**2)
            return perceptron.score(params, t / process.horizon, x / size) / size

        return draw(key, score_fn, batch)

    runner = jax_runner(run, jax.random.key(0), perceptron.make(jax.random.key(2)))
    return runner._replace(facts=facts)


def plot(folder: Path) -> None:
    """Draw ``sampling.json`` of a folder as ``work_precision.png`` beside it."""
    import matplotlib.pyplot as plt

    result = json.loads((folder / "sampling.json").read_text())
    rows = [row for case in result["cases"] for row in case["rows"] if "error" in row]
    if not rows:
        return
    figure, (by_count, by_time, by_process) = plt.subplots(1, 3, figsize=(17, 6))
    _lines(by_count, rows, lambda row: row["evaluations"], "evaluations of the score")
    _lines(by_time, rows, lambda row: 1e3 * row["seconds_min"], "time (ms), batch 256, perceptron")
    _table(by_process, rows)
    by_count.set_ylabel("W2 to the exact law")
    figure.legend(*by_count.get_legend_handles_labels(), loc="lower left", ncols=6, fontsize=9)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(folder / "work_precision.png", dpi=130)
    plt.close(figure)


def _lines(axes, rows, cost, label):
    from matplotlib.ticker import NullFormatter

    for number, name in enumerate((*SAMPLERS, ADAPTIVE)):
        own = [r for r in rows if r["process"] == "VP" and r["contender"] == name]
        points = sorted((cost(r), r["error"]) for r in own)
        if not points:
            continue
        style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else ":"}
        marker = "osv^D*"[number % 6]
        axes.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=4, **style)
    axes.axhspan(0, NOISE, color="0.9")
    axes.set(xscale="log", yscale="log", xlabel=label, title="VP (grey: noise of the estimate)")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _table(axes, rows):
    others = [row["budget"] for row in rows if row["process"] != "VP"]
    budget = max(others or [row["budget"] for row in rows])
    chosen = [row for row in rows if row["budget"] == budget]
    names = list(dict.fromkeys(row["contender"] for row in chosen))
    processes = list(dict.fromkeys(row["process"] for row in chosen))
    values = {(row["contender"], row["process"]): row["error"] for row in chosen}
    shown = [[max(values[n, p], NOISE) for p in processes] for n in names]
    logs = [[math.log10(value) for value in line] for line in shown]
    axes.imshow(logs, cmap="Blues", aspect="auto", vmin=-3, vmax=1)
    for i, line in enumerate(shown):
        for j, value in enumerate(line):
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(processes)), processes, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(f"W2 at {budget} evaluations")
