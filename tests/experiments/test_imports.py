"""What studies import: themselves and what is shared; and JAX not before its processes joined."""

from experiments.study import studies
from tests.runtime.processes import run_python
from tests.test_floors import ROOT, imports


def test_importing_a_programme_does_not_start_jax():
    """One process for all: it has started where the first of them starts it."""
    names = ("score_as_action", "cifar10", "mallows_lm")
    look = "from jax._src import xla_bridge"
    imports = [
        f"import experiments.{n}.__main__; print({n!r}, xla_bridge._backends)" for n in names
    ]
    status, out, err = run_python("-c", "\n".join([look, *imports]))
    assert status == 0, err
    assert out.splitlines() == [f"{name} {{}}" for name in names]


def test_no_study_imports_another():
    names = set(studies())
    assert names
    for edge in imports(ROOT):
        source, target = (name.split(".")[:2] for name in (edge.source, edge.target))
        if target[0] == "experiments" and target[1:] and target[1] in names:
            assert source == target, edge.violates("a study imports itself and what is shared")
