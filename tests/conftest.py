"""Strict numerics for every test.

Implicit broadcasts between ranks raise everywhere. Implicit mixing of dtypes raises in the tests
of the pure floors only: optax mixes them itself (``decay ** count`` with an integer count), and
whatever trains calls optax.

The compilation cache is JAX's own: ``make test`` names its folder in the environment.
"""

import contextlib
import ctypes
import gc
import inspect
import os
import threading
import typing
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when jax is imported
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1" and version("jaxlib")[:5] == "0.10.":
    # Small programs compile in half the time. Only where it is known: XLA ends at an unknown flag.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"

import jax
import jaxtyping
import pytest

if "JAX_NUM_CPU_DEVICES" not in os.environ and "device_count" not in os.environ.get(
    "XLA_FLAGS", ""
):
    jax.config.update("jax_num_cpu_devices", 1)  # or a study that comes first would take each core

TESTS = Path(__file__).parent
MOST_RESIDENT = 2.5  # gigabytes of a worker between two files, on a machine that has them
PURE_FLOORS = {"processes", "solvers", "losses", "rewards", "metrics", "environments"}


def pytest_collection_finish() -> None:
    """What is imported by now stays, and every trace makes much garbage that lives briefly.

    Python's collector looks through the first in vain, and too often at the second.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def reuse_contexts() -> None:
    """One MLIR context for a hundred programs of a thread, as JAX 0.12 does for ten.

    JAX 0.10 makes one for each: a sixth of the time of a small program, which most are. Each keeps
    every type and place in the source that its programs name, and so is not kept for good. A
    program that is compiled while another is lowered has its own: it would become a part of it.
    """
    from jax._src.interpreters import mlir

    make, held = mlir.make_ir_context, threading.local()

    def again():
        if mlir.ir.Context.current is not None:
            return make()
        context, left = getattr(held, "context", (None, 0))
        held.context = (context, left - 1) if left else (make(), 99)
        return held.context[0]

    mlir.make_ir_context = again


if version("jax")[:5] == "0.10.":
    reuse_contexts()


def leave_closures_alone() -> None:
    """Closures are checked by jaxtyping's import hook only where an annotation names a shape.

    The hook wraps a closure again each time that it is made, which was half of what all the checks
    cost. Other types (an integer, a class of ours) are then not checked in closures.
    """
    jaxtyped = jaxtyping.jaxtyped

    def chosen(*arguments, **named):
        made = jaxtyped(*arguments, **named)
        if arguments:  # given a function or "context", so not by the hook
            return made
        return lambda one: one if is_closure(one) and not names_a_shape(one) else made(one)

    jaxtyping.jaxtyped = chosen


def is_closure(one: object) -> bool:
    """Return whether this is a function that another one makes."""
    return inspect.isfunction(one) and "<locals>" in one.__qualname__


def names_a_shape(function: Callable) -> bool:
    """Return whether an annotation of a function holds an array of jaxtyping's, or may hold one."""
    found = list(inspect.get_annotations(function).values())
    while found:
        one = found.pop()
        if isinstance(one, str | typing.ForwardRef | typing.TypeVar) or "jaxtyping" in repr(one):
            return True
        if isinstance(one, type) and issubclass(one, jaxtyping.AbstractArray):
            return True
        found += typing.get_args(one)
    return False


leave_closures_alone()


@pytest.fixture(autouse=True, scope="session")
def rank_promotion_raises() -> Iterator[None]:
    # One scope for all: the setting is part of jit's cache key, so a state made in a wider fixture
    # and stepped in a test would otherwise be traced twice.
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def resident() -> Callable[[], float]:
    """Gigabytes of this process in memory; nothing where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return lambda: float("nan")
    page = os.sysconf("SC_PAGE_SIZE") / 1e9
    return lambda: int(statm.read_text().split()[1]) * page


@pytest.fixture(scope="session")
def most_resident() -> float:
    """Gigabytes that a worker may keep: of half the machine's memory its share."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, OSError, ValueError):  # the system does not say
        return 1.0
    return min(MOST_RESIDENT, memory / 2 / workers)


@pytest.fixture(autouse=True, scope="module")
def programs_go_when_they_pile_up(resident, most_resident) -> Iterator[None]:
    """Compiled programs grow to gigabytes otherwise; the cache on disk brings back the same.

    Cleared after each file, the small programs that all files share would be fetched again by each.
    """
    yield
    if not resident() < most_resident:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # the C library keeps freed memory
            ctypes.CDLL("libc.so.6").malloc_trim(0)


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


@pytest.fixture
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
