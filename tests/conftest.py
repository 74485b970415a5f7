"""Strict numerics for every test.

Implicit broadcasts between ranks raise everywhere. Implicit mixing of dtypes raises in the tests
of the pure floors only: optax mixes them itself (``decay ** count`` with an integer count), and
whatever trains calls optax.

The compilation cache is JAX's own: ``make test`` names its folder in the environment.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when jax is imported

import jax
import jaxtyping
import pytest

TESTS = Path(__file__).parent
PURE_FLOORS = {"processes", "solvers", "losses", "rewards", "metrics", "environments"}


@pytest.fixture(autouse=True, scope="session")
def rank_promotion_raises() -> Iterator[None]:
    # One scope for all: the setting is part of jit's cache key, so a state made in a wider fixture
    # and stepped in a test would otherwise be traced twice.
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True, scope="module")
def programs_go_with_their_file() -> Iterator[None]:
    """Compiled programs pile up otherwise, to gigabytes; the cache on disk brings back the same."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def dtype_promotion_is_strict(request: pytest.FixtureRequest) -> Iterator[None]:
    floor = request.path.relative_to(TESTS).parts[0]
    strict = floor in PURE_FLOORS and request.node.get_closest_marker("mixed_dtypes") is None
    with jax.numpy_dtype_promotion("strict") if strict else contextlib.nullcontext():
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision throughout a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def optimized() -> Iterator[None]:
    """Compiled as for users also by ``make test``, where bits are promised."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No run-time check of types: what a user meets who has not asked for it."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
