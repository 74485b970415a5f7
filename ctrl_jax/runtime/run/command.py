"""From a frozen dataclass to a command: flags, help, checks, and errors of one line.

Docstrings below the fields become `--help`. A mistake of the user's is one line on stderr,
`error: …`, and exit status 2; `CTRL_JAX_TRACEBACK=1` shows the traceback instead. A run that
was stopped by a signal, in whatever stage, exits with status 128 + its number, and one that gets no
more rewards from outside with 75, which elsewhere too means: try again later. Want of memory, on a
device or while compiling for it, is status 2 as well, and the line names the options of the command
that need less.
"""

import contextlib
import dataclasses
import errno
import io
import itertools
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from ctrl_jax._errors import RewardUnavailable, RunError, RunInterrupted, RunWarning
from ctrl_jax.runtime.loop.signals import ending_at_signals
from ctrl_jax.runtime.run.folders import forget, left_behind, withdraw
from ctrl_jax.runtime.run.lock import release
from ctrl_jax.runtime.run.place import FULL

Config = TypeVar("Config")

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
GOODBYE = 20.0
"""Seconds that a process which an error has ended waits for other processes and its threads."""

_OURS = ("ctrl_jax", "experiments", "benchmarks", "__main__")
_NO_ROOM = ("RESOURCE_EXHAUSTED", "Out of memory", "OUT_OF_MEMORY", "Ran out of memory")
_NO_ROOM += ("bad_alloc", "size exceeding 2 ** 64")
_RULE = re.compile(r"[-─]{5,}")


def command(
    config_class: type[Config],
    run: Callable[[Config], Any],
    args: Sequence[str] | None = None,
    default: Config | None = None,
    *,
    program: str | None = None,
) -> Any:
    """Parse the command line into a config, check it and run it.

    Args:
        config_class: a dataclass; its `validate()`, and those of dataclasses within it, raise
            ValueError for what the types let pass.
        run: what to do with the config.
        args: the command line without the program; `sys.argv` by default.
        default: a config to take the defaults from, for a preset.
        program: what help calls the program; by default `python -m MODULE` where it was started
            so, else its file.

    Returns:
        What `run` returns.

    Raises:
        SystemExit: status 2 for a mistake of the user's or a run that cannot go on, 128 + n for
            one that signal n stopped, 75 for one that gets no more rewards from outside, 0 for
            `--help`.
    """
    forget()
    with warnings.catch_warnings(), ending_at_signals():
        warnings.showwarning = _show_warning(warnings.showwarning)
        try:
            config = _parse(config_class, args, default, program or _program())
            validate(config)
            return run(config)
        except KeyboardInterrupt as stopped:
            signum = getattr(stopped, "signum", signal.SIGINT)
            _exit(f"stopped by {signal.Signals(signum).name}{left_behind()}", 128 + signum)
        except (ValueError, RuntimeError, OSError, MemoryError, OverflowError) as error:
            said = _said_of(error, lambda: _less_memory(config_class, args, default))
            if not isinstance(error, RunError | OSError):
                withdraw()
            if said is None or os.environ.get("CTRL_JAX_TRACEBACK") == "1":
                _leave_soon(1)
                raise
            interrupted = isinstance(error, RunInterrupted)
            status = 128 + error.signum if isinstance(error, RunInterrupted) else 2
            status = TRY_AGAIN if isinstance(error, RewardUnavailable) else status
            text = one_line(said) + _hint(error)
            _exit(text if interrupted else f"error: {text}", status)
        except Exception:
            withdraw()
            _leave_soon(1)
            raise
        finally:
            release()


def validate(config: Any) -> None:
    """Call `validate()` on a dataclass and on every dataclass within it.

    Args:
        config: a dataclass instance.

    Raises:
        ValueError: what the first failing check says.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            validate(value)
    if hasattr(config, "validate"):
        config.validate()


def one_line(text: str) -> str:
    """Join the lines of a message with semicolons, words of hundreds of letters cut short.

    Args:
        text: a message of any number of lines.

    Returns:
        The same in one line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    joined = "; ".join(lines).replace(":; ", ": ")
    return re.sub(r"([^\s]{200})[^\s]{200,}", r"\1…", joined)


def _said_of(error: Exception, less_memory: Callable[[], str]) -> str | None:
    """Return what is said of an error that may be no bug; None of any other."""
    said = str(error) or type(error).__name__
    short = isinstance(error, MemoryError) or any(word in said for word in _NO_ROOM)
    if short and not isinstance(error, ValueError | OSError | RunError):
        return f"there is not enough memory ({one_line(said)[:300]}); what helps: {less_memory()}"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{said}; free some space there{left_behind()}"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return f"{said}; make that disk writable again{left_behind()}"
    if isinstance(error, OverflowError):
        return f"a number is too large for what it counts ({said}); give a smaller one"
    return said if isinstance(error, ValueError | RunError | OSError) else None


def _less_memory(config_class: type, args: Sequence[str] | None, default: Any) -> str:
    """Return the options that need less memory, of those that the command takes beside the rest."""
    from ctrl_jax.runtime.run.arguments import memory_savers

    typed = list(sys.argv[1:] if args is None else args)
    now = _parse(config_class, typed, default, None)
    helps = []
    for text, trial in memory_savers(config_class, typed):
        with contextlib.suppress(ValueError):
            tried = _parse(config_class, [*typed, *trial], default, None) if trial else None
            if tried is not None:
                validate(tried)
            if tried != now:
                helps.append(text)
    return ", ".join(helps) or "smaller sizes"


def _exit(text: str, status: int) -> None:
    print(text, file=sys.stderr, flush=True)
    _leave_soon(status)
    raise SystemExit(status)


def _leave_soon(status: int) -> None:
    """Let the process end though others go on, which wait for what it has no more to say.

    JAX waits at the end until all processes have come there, and shows signs of life meanwhile.
    Threads of Orbax wait many minutes for a folder that could not be made. A program that catches
    the end of the command goes on: the time runs from its own end.
    """
    main = threading.main_thread()
    held = any(thread is not main and not thread.daemon for thread in threading.enumerate())

    def leave() -> None:
        main.join()
        time.sleep(GOODBYE)
        os._exit(status)

    if held or jax.distributed.is_initialized():
        threading.Thread(target=leave, daemon=True).start()


def _program() -> str | None:
    """Return `python -m MODULE` of a program that was started so, None of another."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def _parse(
    config_class: type[Config],
    args: Sequence[str] | None,
    default: Config | None,
    program: str | None,
) -> Config:
    import tyro

    from ctrl_jax.runtime.run.arguments import with_flags

    printed = io.StringIO()
    typed = with_flags(config_class, sys.argv[1:] if args is None else args)
    try:
        with contextlib.redirect_stderr(printed):
            given: dict[str, Any] = {} if default is None else {"default": default}
            return tyro.cli(config_class, prog=program, args=typed, **given)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise ValueError(_without_box(printed.getvalue(), config_class, typed)) from error


def _without_box(text: str, config_class: type, typed: Sequence[str]) -> str:
    """Return the message of a parser's error box, with its suggestions, in one line.

    The box is drawn as title, rule, message, rule, further sections; on some terminals the title
    stands in the frame.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip("│| ") for line in text.splitlines()]
    framed = any(line.startswith("╭") for line in lines)
    inside = [line for line in lines if line and line[0] not in "╭╰"]
    sections: list[list[str]] = [[]]
    for line in inside:
        if _RULE.fullmatch(line):
            sections.append([])
        else:
            sections[-1].append(line)
    said = " ".join(sections[0 if framed or len(sections) == 1 else 1])
    said = re.sub(r"(\S{60,}\s+){3,}", lambda found: f"{found[0][:200]}… ", said)  # one long word
    from ctrl_jax.runtime.run.arguments import suggestions

    # Of what was typed: the box breaks long lines.
    flags = [word for word in typed if word.startswith("--")]
    unknown = _after(text, "Unrecognized options")
    meant = suggestions(config_class, [flag for flag in flags if flag.split("=")[0] in unknown])
    hints = re.findall(r"^(--[a-z][\w.-]*)", _after(text, "Perhaps you meant"), re.MULTILINE)
    if unknown and "Unrecognized options" not in said:
        said += f"; Unrecognized options: {' '.join(unknown.replace(':', ' ').split())}"
    if perhaps := meant or list(dict.fromkeys(hints)):
        said += f"; perhaps {' or '.join(perhaps)}"
    return f"{said}; --help lists the options"


def _after(text: str, title: str) -> str:
    """Return the lines of a box from every mention of a title on, up to the next rule."""
    found: list[str] = []
    for part in text.split(title)[1:]:
        lines = (line.strip("│| ") for line in part.splitlines())
        found += itertools.takewhile(lambda line: not _RULE.fullmatch(line), lines)
    return "\n".join(found)


def _show_warning(before: Callable[..., None]) -> Callable[..., None]:
    def show(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, RunWarning):
            print(f"warning: {one_line(str(message))}", file=sys.stderr, flush=True)
        else:
            before(message, category, filename, lineno, file, line)

    return show


def _hint(error: BaseException) -> str:
    """Return how to see more, for an error that was raised in somebody else's code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else "ctrl_jax"
    ours = module.split(".")[0] in _OURS
    return "" if ours else " (CTRL_JAX_TRACEBACK=1 shows where)"
