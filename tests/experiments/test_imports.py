"""What studies import: themselves and what is shared; and JAX not before its processes joined."""

import pytest

from experiments.study import studies
from tests.runtime.processes import run_python
from tests.test_floors import ROOT, imports


@pytest.mark.parametrize("name", ["score_as_action", "cifar10", "mallows_lm"])
def test_importing_a_programme_does_not_start_jax(name):
    look = "from jax._src import xla_bridge; print(xla_bridge._backends)"
    code = f"import experiments.{name}.__main__; {look}"
    status, out, err = run_python("-c", code)
    assert status == 0, err
    assert out == "{}\n"


def test_no_study_imports_another():
    names = set(studies())
    assert names
    for edge in imports(ROOT):
        source, target = (name.split(".")[:2] for name in (edge.source, edge.target))
        if target[0] == "experiments" and target[1:] and target[1] in names:
            assert source == target, edge.violates("a study imports itself and what is shared")
