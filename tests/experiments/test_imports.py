"""Importing a study starts nothing: processes are joined, and devices chosen, after that."""

from tests.runtime.processes import run_python

CODE = """
import importlib
from jax._src import xla_bridge  # no public name says it
from experiments.study import studies
names = [*studies()]
assert len(names) > 10
for name in names:
    importlib.import_module(f"experiments.{name}.__main__")
    assert not xla_bridge.backends_are_initialized(), name
print("idle")
"""


def test_importing_a_study_does_not_start_jax():
    status, out, err = run_python("-c", CODE)
    assert status == 0, err[-2000:]
    assert out.strip() == "idle"
