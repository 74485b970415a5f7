"""One device of a CPU, whose operations use all its cores, beside a device for each core.

The same update, on arrays of the right shapes, with its batch on one device and divided over as
many as there are cores: what a command does by default, and with JAX_NUM_CPU_DEVICES. Of
linear-quadratic control a whole training of ten seeds is timed, which devices divide among them,
and the default is the other.
"""

import atexit
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks.harness import Case, Contender, Runner
from benchmarks.pipeline import Settings
from benchmarks.plans import ENCODERS
from benchmarks.preference_lm import RECORDS, TINY
from ctrl_jax.commands.plan import module_of
from ctrl_jax.networks.policies import quadratic_value
from ctrl_jax.pretrained.diffusers.small_records import write_records
from ctrl_jax.runtime import MeshOptions, jit_step, make_mesh
from ctrl_jax.runtime.checkpoints.digests import is_key
from ctrl_jax.runtime.devices.cores import cores
from experiments.continuous_control.methods import Task, make_training
from experiments.linear_quadratic import __main__ as linear_quadratic

CLAIM = "On a CPU the default is the faster: one device, and for seeds a device for each core."
BUDGET = 90.0
FINE_TUNE = ("--reward", "jax:benchmarks.plans:reddish", "--algorithm", "ddpo", "--group", "2")
FINE_TUNE += ("--solver-steps", "2", "--minibatches", "1", "--guidance", "4.5", "--chunks", "2")
PREFER = ("--data", "-", "--texts.max-length", "128")


def cases(quick: bool = False) -> Iterator[Case]:
    """Yield commands and studies whose updates can be planned, and the seeds of one that cannot."""
    count = cores()
    digits = ("--model.width", "8", "--model.depth", "1") if quick else ()
    batch = 2 * count if quick else -(-48 // count) * count
    yield _case("digits, PPO", "experiments.score_as_action", digits, batch)
    images = ("--data", "-", "--tiny")
    yield _case("NCSN++ --tiny, score matching", "experiments.cifar10", images, batch)
    tuning = FINE_TUNE if quick else (*FINE_TUNE, "--height", "128", "--width", "128")
    yield _case("SD 3.5-M, update by a reward", "fine-tune", tuning, math.lcm(2, count), quick)
    yield _case("Llama, DPO", "prefer", PREFER, 8 * count, quick)
    updates = 2 if quick else 20
    both = list(_contenders(seeds, {"updates": updates}))
    yield Case("linear-quadratic, CPPO, 10 seeds", both[::-1])


def _case(name: str, command: str, options: tuple[str, ...], batch: int, tiny: bool = False):
    arguments = {"command": command, "options": options, "batch": batch, "tiny": tiny}
    return Case(name, list(_contenders(update, arguments)))


def _contenders(build: Any, arguments: dict[str, Any]) -> Iterator[Contender]:
    yield Contender("one device", build, arguments | {"devices": 1})
    yield Contender("a device for each core", build, arguments | {"devices": cores()})


def update(command: str, options: tuple[str, ...], batch: int, tiny: bool, devices: int) -> Runner:
    """Build the update of a command on some devices, its state donated."""
    module, mesh = module_of(command), mesh_of(devices)
    study = command.startswith("experiments.")
    typed = [*options, *(() if study else ("--model", str(folder_of(command, tiny))))]
    own = getattr(module, "default_of", lambda args: None)(typed)
    given = {} if own is None else {"default": own}
    config = tyro.cli(module.Config, args=typed, **given)
    program = module.program(module.with_batch(config, batch), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.state)
    state, *others = (filled(tree) for tree in program.arguments)
    began = time.perf_counter()
    step = jit_step(program.step, mesh, shardings).lower(state, *others).compile()
    seconds = time.perf_counter() - began

    def run() -> None:
        nonlocal state
        state, metrics = step(state, *others)
        jax.block_until_ready((state, metrics))

    return Runner(run, seconds)


def seeds(updates: int, devices: int) -> Runner:
    """Build a training of ten seeds of linear-quadratic control."""
    options = {"time_steps": (0.03,), "methods": ("cppo_clipped",)}
    config = linear_quadratic.Config(**options)
    environment = linear_quadratic.make_environment()
    evaluate = partial(linear_quadratic.evaluate_policy, environment)
    first, value = linear_quadratic.first_policy(), quadratic_value(1)
    task = Task(environment, first, value, linear_quadratic.start_states, evaluate)
    train = make_training(config, task, "cppo_clipped", 0.03, mesh_of(devices), updates)
    return Runner(lambda: jax.block_until_ready(train()))


def mesh_of(devices: int) -> Any:
    """Return the mesh of the first devices, which all divide the batch."""
    return make_mesh(MeshOptions(data=devices), jax.devices()[:devices])


def filled(tree: Any) -> Any:
    """Return arrays of these shapes, placed: small numbers at least 0, zeros, and keys."""
    rng = np.random.default_rng(0)

    def leaf(of: Any) -> Any:
        if is_key(of):
            keys = jax.random.split(jax.random.key(0), of.shape)
            return jax.device_put(keys, of.sharding)
        if np.issubdtype(of.dtype, np.integer) or of.dtype == bool:
            return jax.device_put(np.zeros(of.shape, of.dtype), of.sharding)
        numbers = 0.02 * rng.random(of.shape, np.float32)
        return jax.device_put(numbers.astype(of.dtype), of.sharding)

    return jax.tree.map(leaf, tree)


def _encoders() -> dict[str, dict[str, Any]]:
    """Those of SD 3.5 medium at a quarter of their widths, whose weights take no part."""
    found = {}
    for name, own in ENCODERS["SD 3.5-M"].items():
        widths = (word for word in own if word in ("d_model", "hidden_size", "projection_dim"))
        found[name] = {**own, **{word: own[word] // 4 for word in widths}}
    return found


def folder_of(command: str, tiny: bool) -> Path:
    """Return a folder with the configs of a model, which is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ctrl_jax_core_devices_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if command == "fine-tune":
        records = {} if tiny else Settings("SD 3.5-M", 4, "update").records | _encoders()
        return write_records(folder / "model", "sd3", records)
    size = {k: v for k, v in TINY.items() if k in RECORDS["Llama"]} if tiny else {}
    record = {**RECORDS["Llama"], "vocab_size": 64 if tiny else 8192, **size}
    more = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}
    more["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(record | more))
    return folder
