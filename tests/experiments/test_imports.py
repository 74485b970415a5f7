"""Programmes of several processes must join them before JAX has looked for devices."""

import pytest

from tests.runtime.processes import run_python


@pytest.mark.parametrize("name", ["score_as_action", "cifar10", "mallows_lm"])
def test_importing_a_programme_does_not_start_jax(name):
    look = "from jax._src import xla_bridge; print(xla_bridge._backends)"
    code = f"import experiments.{name}.__main__; {look}"
    status, out, err = run_python("-c", code)
    assert status == 0, err
    assert out == "{}\n"
