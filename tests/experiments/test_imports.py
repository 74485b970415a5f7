"""What studies import: themselves and what is shared; and JAX not before its processes joined."""

from experiments.study import studies
from tests.runtime.processes import run_python
from tests.test_floors import ROOT, imports

LOOK = """
import importlib
from jax._src import xla_bridge
from ctrl_jax.runtime import validate
for name in {names!r}:
    module = importlib.import_module(f"experiments.{{name}}.__main__")
    validate(getattr(module, "TINY", None) or module.Config())
    print(name, xla_bridge._backends)
"""


def test_importing_a_programme_and_checking_its_options_does_not_start_jax():
    """One process for all: it has started where the first of them starts it."""
    names = sorted(studies())
    assert len(names) > 10
    status, out, err = run_python("-c", LOOK.format(names=names))
    assert status == 0, err
    assert out.splitlines() == [f"{name} {{}}" for name in names]


def test_no_study_imports_another():
    names = set(studies())
    assert names
    for edge in imports(ROOT):
        source, target = (name.split(".")[:2] for name in (edge.source, edge.target))
        # Benchmarks stand above the studies, and run them.
        of_a_study = target[0] == "experiments" and target[1:] and target[1] in names
        if of_a_study and source[0] != "benchmarks":
            assert source == target, edge.violates("a study imports itself and what is shared")
