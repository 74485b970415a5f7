"""What a run was given is told by its content, wherever it lies."""

import sys

import pytest

from ctrl_jax.runtime import content_digest, digests_of
from ctrl_jax.runtime.run.contents import module_digest


def test_a_folder_is_its_names_and_bytes(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "class").mkdir(parents=True)
        (tmp_path / name / "class" / "a.png").write_bytes(b"1")
    one, other = tmp_path / "one", tmp_path / "other"
    first = content_digest(one)
    assert first == content_digest(other)
    (other / ".ipynb_checkpoints").mkdir()
    (other / ".ipynb_checkpoints" / "a.png").write_bytes(b"3")
    (other / ".DS_Store").write_bytes(b"4")
    (other / "class" / "back").symlink_to(other, target_is_directory=True)
    assert content_digest(other) == first
    changes = [
        lambda: (other / "class" / "a.png").write_bytes(b"2"),
        lambda: (other / "class" / "a.png").rename(other / "class" / "b.png"),
        lambda: (other / "c.png").write_bytes(b"1"),
    ]
    found = {first}
    for change in changes:
        change()
        found.add(content_digest(other))
    assert len(found) == 4
    assert content_digest(other / "c.png") == content_digest(one / "class" / "a.png")
    assert content_digest(other, lambda name: name == "class/b.png") != content_digest(other)
    assert digests_of({"data": None, "more": one}) == {"more": first}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A module of the user's that imports others in every way."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    (tmp_path / "own_reward.py").write_text(
        "import numpy\nfrom own_parts import scale\nfrom own_parts.inner import shift\n"
        "def f(x):\n    import own_late\n    return x\n"
    )
    (tmp_path / "own_parts").mkdir()
    (tmp_path / "own_parts" / "__init__.py").write_text("from . import deep\nscale = 2.0\n")
    (tmp_path / "own_parts" / "inner.py").write_text("from .deep import x\nshift = 1.0\n")
    (tmp_path / "own_parts" / "deep.py").write_text("x = 1\n")
    (tmp_path / "own_late.py").write_text("y = 1\n")
    (tmp_path / "own_other.py").write_text("z = 1\n")
    return tmp_path


def test_a_module_is_all_that_it_is_made_of(modules):
    first = module_digest("own_reward:f")
    assert module_digest("own_reward:g") != first
    (modules / "own_other.py").write_text("z = 2\n")
    assert module_digest("own_reward:f") == first
    found = {first}
    for name in (
        "own_reward",
        "own_late",
        *(f"own_parts/{n}" for n in ("__init__", "inner", "deep")),
    ):
        with (modules / f"{name}.py").open("a") as file:
            file.write("changed = True\n")
        found.add(module_digest("own_reward:f"))
    assert len(found) == 6


def test_the_library_and_what_is_installed_are_told_by_their_versions(modules):
    (modules / "own_reward.py").write_text(
        "import json, numpy, jax\nfrom ctrl_jax import rewards\n"
    )
    (modules / "own_copy.py").write_text("import json, numpy, jax\nfrom ctrl_jax import rewards\n")
    assert module_digest("own_reward:f") == module_digest("own_reward:f")
    assert module_digest("numpy:sum") != module_digest("numpy:prod")


def test_a_module_of_another_python_counts_and_is_not_read(modules):
    (modules / "own_late.py").write_text("print 'of another Python'\n")
    first = module_digest("own_reward:f")
    (modules / "own_late.py").write_text("print 'of another one'\n")
    assert module_digest("own_reward:f") != first
