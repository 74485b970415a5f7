"""`ctrl-jax`: what users run on their own models and data, each command by its name."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from ctrl_jax import __version__

PROGRAM = "ctrl-jax"
COMMANDS = {
    "fine-tune": "fine-tune a text-to-image model towards rewards; a LoRA comes out",
    "plan": "compile another command's update for a TPU slice, and say what it needs and costs",
    "prefer": "tune a language model on preference pairs: DPO, Mallows-DPO and other losses",
    "sample": "draw samples from a run, as a picture and as arrays",
}
"""Each is a module of `ctrl_jax.commands` with `Config` and `main`, imported when it is called."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, and return the exit status.

    Args:
        args: the command line without the program; `sys.argv` by default.

    Raises:
        SystemExit: the command's own, for instance 2 for a mistake and 0 for its `--help`.
    """
    name, *rest = [*(sys.argv[1:] if args is None else args)] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(PROGRAM, __version__)
    elif name in COMMANDS:
        run_command(name, rest)
    else:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        return 2
    return 0


def run_command(name: str, args: Sequence[str]) -> Any:
    """Run one of `COMMANDS` and return what its `main` returns."""
    from ctrl_jax.runtime.run.command import command

    module = importlib.import_module(f"ctrl_jax.commands.{name.replace('-', '_')}")
    if hasattr(module, "run_command"):
        return module.run_command(args, program=f"{PROGRAM} {name}")
    return command(module.Config, module.main, args, program=f"{PROGRAM} {name}")


def usage() -> str:
    """Return what `ctrl-jax --help` prints."""
    lines = [f"  {name:10} {line}" for name, line in COMMANDS.items()]
    more = f"{PROGRAM} COMMAND --help explains every option; --version prints the version."
    return "\n".join([f"usage: {PROGRAM} COMMAND [OPTIONS]", "", *lines, "", more])


def _unknown(name: str) -> ValueError:
    from ctrl_jax._checks import refuse

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    repair = f"perhaps {near[0]}; " if near else ""
    rule = f"it must be {' or '.join(COMMANDS)}"
    return refuse("COMMAND", name, rule, f"{repair}--help lists the commands")


if __name__ == "__main__":
    sys.exit(main())
