"""What run-time checks of types leave out in tests: `leave_closures_alone` of conftest."""

import importlib
import sys

import jax.numpy as jnp
import jaxtyping
import pytest

SOURCE = """
from jaxtyping import Array, Float

def whole(number: int):
    return number

def maker():
    def without_shape(number: int):
        return number

    def with_shape(x: Float[Array, "3"] | None, number: int = 0):
        return x

    return without_shape, with_shape
"""


def test_only_closures_that_name_no_shape_are_not_checked(tmp_path, monkeypatch):
    (tmp_path / "some_closures.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    with jaxtyping.install_import_hook("some_closures", "beartype.beartype"):
        module = importlib.import_module("some_closures")
    del sys.modules["some_closures"]
    without_shape, with_shape = module.maker()

    assert without_shape("three") == "three"
    assert with_shape(None) is None
    for wrong in (
        lambda: module.whole("three"),
        lambda: with_shape(jnp.zeros(4)),
        lambda: with_shape(jnp.zeros(3), "three"),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            wrong()
