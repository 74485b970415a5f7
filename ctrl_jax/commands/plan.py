"""`ctrl-jax plan`: the update of another command, compiled for devices that need not be there.

Nothing is computed and no weights are read: a folder with configs alone will do. What is said is
what the compiler says of the program that the command would run, and what its text holds.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from ctrl_jax._checks import check_path, check_positive, refuse
from ctrl_jax._records import write_json_atomic
from ctrl_jax.commands.planning import report
from ctrl_jax.commands.planning.largest import largest, slope_of
from ctrl_jax.commands.planning.program import Compiled, Program, TooLarge, compiled
from ctrl_jax.runtime import command, device_memory, make_mesh, versions
from ctrl_jax.runtime.devices.chips import chip_of
from ctrl_jax.runtime.devices.topology import MOST_CPU, choose_cpu, described_devices

PLANNED = {
    "fine-tune": "ctrl_jax.commands.planning.fine_tune",
    "prefer": "ctrl_jax.commands.planning.prefer",
}
"""Modules with `Config`, `program`, `batch_of`, `with_batch` and `unit_of`."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile the update of a command for a TPU slice, and say what it needs and costs.

    ctrl-jax plan COMMAND --topology v5e:4x4 [OPTIONS OF THE COMMAND]. COMMAND is fine-tune, prefer,
    or a study that has a plan, such as experiments.cifar10. Example:
      ctrl-jax plan fine-tune --topology v5e:4x4 --model stable-diffusion-v1-5 --reward jpeg_size:-1

    Args:
        topology: the devices: a TPU slice, v5e:4x4, v6e:16x16 or v5p:2x2x1, for which the package
            libtpu is needed and no TPU; or a number of CPU devices, cpu:8.
        largest_batch: find the largest batch that fits by compiling others.
        activations: compile half of the batch too, or two of the least, and tell what grows with
            the batch from the other temporaries; `largest_batch` tells it as well.
        memory: gigabytes of a device, in the place of what is known of it.
        json: file to which all numbers are written too.
    """

    topology: str
    largest_batch: bool = False
    activations: bool = False
    memory: float | None = None
    json: str | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        if self.memory is not None:
            check_positive("memory", self.memory)
        if self.json is not None:
            check_path("json", self.json)
            path = Path(self.json)
            if path.is_dir() or not path.absolute().parent.is_dir():
                rule = "it must be a file in a folder that is there"
                raise refuse("json", self.json, rule, "make the folder, or give another name")


class Planned(NamedTuple):
    """What is known of an update on a slice.

    Fields:
        batch: that was asked for, or the largest one where that is refused.
        program: on shapes.
        found: of it.
        largest: the largest batch that fits, and whether the next is known not to; None if unasked.
        totals: what batches need of a device; None of one that the compiler refuses.
    """

    batch: int
    program: Program
    found: Compiled
    largest: tuple[int, bool] | None
    totals: dict[int, int | None]


def main(options: Config, settings: Any, name: str, module: Any) -> dict[str, Any]:
    """Compile what the options say, print it, and return what `--json` writes.

    Args:
        options: of the plan.
        settings: of the command.
        name: of the command.
        module: what knows how its update is made.
    """
    devices = described_devices(options.topology)
    jax.config.update("jax_enable_x64", settings.run.arithmetic == "float64")
    mesh = make_mesh(settings.run.mesh, devices)
    kind = devices[0].device_kind
    chip = chip_of(kind)
    limit = limit_of(options, chip, len(devices))
    planned = plan(
        module,
        settings,
        mesh,
        limit,
        search=options.largest_batch,
        halve=options.activations,
    )
    told = report.record(
        planned,
        chip,
        limit,
        command=name,
        topology=options.topology,
        device=kind,
        mesh=dict(mesh.shape),
        batch=planned.batch,
    )
    told["versions"] = {name: versions()[name] for name in ("jax", "flax")}
    if devices[0].platform == "tpu":
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # its compiler
            told["versions"]["libtpu"] = importlib.metadata.version("libtpu")
    report.show(told)
    if options.json is not None:
        write_json_atomic(options.json, told)
    return told


def limit_of(options: Config, chip: Any, devices: int) -> int:
    """Return the bytes that a program may use of a device."""
    if options.memory is not None:
        return int(options.memory * 1e9)
    if chip is not None:
        return chip.memory
    return device_memory(jax.devices("cpu")[0]) // devices


def plan(
    module: Any, settings: Any, mesh: Any, limit: int, *, search: bool = False, halve: bool = False
) -> Planned:
    """Return what is known of an update.

    Args:
        module: of `PLANNED`.
        settings: the options of the command.
        mesh: the devices.
        limit: bytes of a device.
        search: whether the largest batch is looked for.
        halve: whether another batch is compiled to know the activations: half of the batch, or two
            where nothing is less than one unit.

    Raises:
        TooLarge: the compiler refuses the batch, and no other is asked for.
    """
    programs: dict[int, Program] = {}
    founds: dict[int, Compiled] = {}

    @functools.cache
    def total_of(batch: int) -> int | None:
        own = batch == module.batch_of(settings)
        changed = settings if own else module.with_batch(settings, batch)
        programs[batch] = module.program(changed, mesh)
        try:
            founds[batch] = compiled(programs[batch], mesh)
        except TooLarge:
            if own and not search:
                raise
            return None
        return founds[batch].memory.total

    batch, best = module.batch_of(settings), None
    total_of(batch)
    if search:
        unit = module.unit_of(settings, mesh)
        best = largest(total_of, first=batch, unit=unit, limit=limit)
        batch = batch if batch in founds else best[0]
    elif halve:
        unit = module.unit_of(settings, mesh)
        total_of(batch // 2 // unit * unit or 2 * unit)
    found = founds[batch]
    slope = slope_of({b: one.memory.temporaries for b, one in founds.items()})
    if slope is not None:
        activations = min(int(slope * batch), found.memory.temporaries)
        memory = dataclasses.replace(found.memory, activations=activations)
        found = dataclasses.replace(found, memory=memory)
    totals = {b: total_of(b) for b in programs}
    return Planned(batch, programs[batch], found, best, totals)


def run_command(args: Sequence[str] | None = None, *, program: str = "ctrl-jax plan") -> Any:
    """Parse the command line, whose first word is the command that is planned.

    Args:
        args: without the program; `sys.argv` by default.
        program: what help calls it.

    Raises:
        SystemExit: as of `command`.
    """
    name, *rest = [*(sys.argv[1:] if args is None else args)] or ["--help"]
    if name in ("-h", "--help"):
        return command(Config, lambda config: None, ["--help"], program=f"{program} COMMAND")
    # Reading the options of a command may use JAX already.
    asked = re.search(r"--topology[= ]cpu:(\d{1,9})\b", " ".join(rest))
    number = int(asked[1]) if asked else 0
    choose_cpu(number if number <= MOST_CPU else None)
    try:
        module = module_of(name)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    both = combined(module.Config)
    own = getattr(module, "default_of", lambda args: None)(rest)
    default = None if own is None else both(Config(tyro.MISSING), own)

    def run(config: Any) -> dict[str, Any]:
        return main(config.plan, config.command, name, module)

    return command(both, run, rest, default, program=f"{program} {name}")


def module_of(name: str) -> Any:
    """Return what knows how the update of a command is made.

    Args:
        name: of a command, or the module of a study that has a module `plan`.

    Raises:
        ValueError: there is none.
    """
    if name in PLANNED:
        return importlib.import_module(PLANNED[name])
    found = f"{name}.plan"
    try:
        return importlib.import_module(found)
    except ModuleNotFoundError as error:
        if error.name is None or not found.startswith(error.name):
            raise
        rule = f"it must be {' or '.join(PLANNED)}, or the module of a study with a plan"
        repair = "give one of them, such as experiments.cifar10 in the project's folder"
        raise refuse("COMMAND", name, rule, repair) from None


def combined(config_class: type) -> Any:
    """Return a dataclass with the options of `plan` and those of the command, all without prefix.

    Args:
        config_class: the options of the command.
    """
    flat = tyro.conf.arg(name="")
    fields = [("plan", Annotated[Config, flat]), ("command", Annotated[config_class, flat])]
    made = dataclasses.make_dataclass("Both", fields, frozen=True)
    made.__doc__ = Config.__doc__
    return made
