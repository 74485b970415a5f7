"""Compiling an update once, and knowing that it was once.

A function is traced again when a shape, a dtype or a static argument changes. In a training
loop that is nearly always a mistake (a last batch that is smaller, a counter that begins as a
Python number) and costs a compilation, so traces are counted and a second one is reported.
"""

import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.runtime.devices.mesh import on_mesh


class CountTraces:
    """A pure function that counts how often JAX has traced it.

    Args:
        function: any function of arrays.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.traces = 0

    def __call__(self, *args: Any) -> Any:
        self.traces += 1
        if self.traces == 2:
            name = getattr(self.function, "__name__", "the step")
            warnings.warn(
                f"{name} was traced a second time: the shape or dtype of its state or batch has "
                "changed, and it is compiled again; keep them the same",
                RunWarning,
                stacklevel=2,
            )
        return self.function(*args)


def jit_step(
    step_fn: Callable[..., Any], mesh: Mesh | None = None, state_shardings: Any = None
) -> Callable[..., Any]:
    """Compile a pure step, the state donated, the metrics replicated.

    Args:
        step_fn: `step(state, batch) -> (state, metrics)`; one that is jitted is returned as it is.
        mesh: the mesh; None for the default device.
        state_shardings: a tree of shardings like the state, or one for all of it; replicated by
            default. Needs a mesh.

    Returns:
        The jitted step.
    """
    if hasattr(step_fn, "lower"):
        return step_fn
    counted = step_fn if isinstance(step_fn, CountTraces) else CountTraces(step_fn)
    if mesh is None:
        return jax.jit(counted, donate_argnums=0)
    counted, replicated = on_mesh(mesh, counted), NamedSharding(mesh, PartitionSpec())
    shardings = (replicated if state_shardings is None else state_shardings, replicated)
    return jax.jit(counted, donate_argnums=0, out_shardings=shardings)


def jit_collect(collect: Callable[..., Any], mesh: Mesh | None = None) -> Callable[..., Any]:
    """Compile the first half of a step, ``rollout, shown = collect(state, batch)``.

    Args:
        collect: a pure function; one that is jitted is returned as it is.
        mesh: the mesh, over whose data axis what is shown is cut; None for the default device.

    Returns:
        The jitted function; nothing is donated.
    """
    if hasattr(collect, "lower"):
        return collect
    counted = collect if isinstance(collect, CountTraces) else CountTraces(collect)
    if mesh is None:
        return jax.jit(counted)
    counted = on_mesh(mesh, counted)
    return jax.jit(counted, out_shardings=(None, NamedSharding(mesh, PartitionSpec("data"))))


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs on disk, so that the next run of the same program starts at once.

    JAX executes what the cache holds, so the folder must belong to this user alone.

    Args:
        folder: the cache; `$XDG_CACHE_HOME/ctrl_jax` or `~/.cache/ctrl_jax` by default.

    Returns:
        The folder in use.

    Raises:
        ValueError: the folder cannot be made, belongs to another user, or others may write to it.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(base, "ctrl_jax") if folder is None else Path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except (OSError, RuntimeError) as error:  # a container's home is read-only, or there is none
        repair = "set XDG_CACHE_HOME to a folder of yours, or give --no-compilation-cache"
        raise refuse("compilation cache", folder, f"it cannot be made ({error})", repair) from error
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        rule = "it must be a folder, not a link"
        raise refuse("compilation cache", str(path), rule, "remove it")
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        rule = "it belongs to another user, whose programs would be executed"
        raise refuse("compilation cache", str(path), rule, "give a folder of your own")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        rule = "others may write there, whose programs would be executed"
        raise refuse("compilation cache", str(path), rule, f"run chmod 700 {path}")
    jax.config.update("jax_compilation_cache_dir", str(path))
    return path
