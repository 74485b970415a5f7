"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME`` runs one.

Writes ``benchmarks/results/<device>/<name>.{json,md}``; ``--quick`` and
``--cases`` write only where ``--out`` says.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks.threads import cores

NAMES = ("sampling", "rollout_update", "continuous_rl", "preference_lm", "pipeline", "fine_tune")
NAMES += ("core_devices",)
CAMPAIGNS = ("faults", "full_disk", "flips")
"""What is no measurement of time: `python -m benchmarks NAME --help` shows its options."""
CORES = cores()

# Read by libraries as they load, so they must be there before this process starts. With glibc's
# defaults eager PyTorch returns every large tensor to the kernel and pays for its pages again, and
# so does XLA, whose threads allocate in arenas that keep no block above 64 MB; and PyTorch's
# threads spin while they wait, which on a core they share makes it ten times slower.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "JAX_NUM_CPU_DEVICES": str(CORES),  # a program uses one of them unless it is told otherwise
    "OMP_NUM_THREADS": str(CORES),
    "OMP_WAIT_POLICY": "PASSIVE",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # or a peer on the same GPU finds none of its memory
}


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    if arguments and arguments[0] in CAMPAIGNS:
        return importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", help=f"{', '.join(NAMES)}, or all; none lists them")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument(
        "--trl-python",
        metavar="PYTHON",
        help="interpreter of an environment with trl==0.23.1 diffusers==0.39.0 'transformers<5'",
    )
    parser.add_argument(
        "--trl-dpo-python",
        metavar="PYTHON",
        help="interpreter of an environment with today's trl",
    )
    parser.add_argument(
        "--sb3-python",
        metavar="PYTHON",
        help="interpreter of an environment with stable-baselines3",
    )
    parser.add_argument(
        "--diffusers-python",
        metavar="PYTHON",
        help="interpreter of an environment with torch, diffusers, transformers and peft",
    )
    options = parser.parse_args(arguments)
    if options.name is None:
        for name in NAMES + CAMPAIGNS:
            print(f"{name:16} {importlib.import_module(f'benchmarks.{name}').CLAIM}")
        return 0
    if options.name not in (*NAMES, "all"):
        print(
            f"benchmarks: no benchmark is called {options.name!r}; choose from "
            f"{', '.join(NAMES + CAMPAIGNS)}, all.",
            file=sys.stderr,
        )
        return 2
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    if missing:
        os.environ.update(missing)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *arguments])

    from benchmarks import harness

    if options.trl_python:
        os.environ["BENCHMARKS_TRL_PYTHON"] = options.trl_python
    if options.trl_dpo_python:
        os.environ["BENCHMARKS_TRL_DPO_PYTHON"] = options.trl_dpo_python
    if options.sb3_python:
        os.environ["BENCHMARKS_SB3_PYTHON"] = options.sb3_python
    if options.diffusers_python:
        os.environ["BENCHMARKS_DIFFUSERS_PYTHON"] = options.diffusers_python

    # What is not the whole measurement does not replace it.
    whole = not (options.quick or options.cases)
    results = Path("benchmarks") / "results" / harness.device() if whole else None
    for name in NAMES if options.name == "all" else (options.name,):
        module = importlib.import_module(f"benchmarks.{name}")
        cases = [c for c in module.cases(options.quick) if options.cases in c.name]
        out = options.out or results
        budget = getattr(module, "BUDGET", 6.0)
        harness.run(name, module.CLAIM, cases, quick=options.quick, out=out, budget=budget)
        if out is not None and hasattr(module, "plot"):
            module.plot(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
