"""Importing the floor loads nothing heavy."""

from tests.runtime.processes import run_python

HEAVY = ("orbax", "sklearn", "matplotlib", "tyro", "rich", "PIL", "transformers")


def test_heavy_packages_are_loaded_where_they_are_used():
    code = f"import sys, ctrl_jax.runtime; print([m for m in {HEAVY!r} if m in sys.modules])"
    status, out, err = run_python("-c", code)
    assert status == 0, err
    assert out == "[]\n"
