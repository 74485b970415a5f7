"""300 command lines of every command and study, of odd values: one line and status 2, or a start.

A start is where a run would open its folder; nothing is on disk before that. The lines are parsed
and checked as a user's, in this process.
"""

import contextlib
import importlib
import io
import random
from pathlib import Path

import pytest

from ctrl_jax.commands import fine_tune, prefer, sample
from ctrl_jax.runtime.run.arguments import options_of
from ctrl_jax.runtime.run.command import command
from experiments.study import Study, studies

DRAWS, PARTS = 300, 10
QUICK_AND_SLOW = [pytest.param(n, marks=pytest.mark.slow if n % 2 else ()) for n in range(PARTS)]
ODD = [
    *("0", "-1", "1", "2", "3.5", "nan", "inf", "-inf", "1e-9", "1e300", "1e-300", f"{10**23}"),
    *(f"{2**40}", "None", "true", "ß", "-", "--", "[]", "{}", "'", "\\x00", "0x10", "1_000", "１"),
    *("+5", "/", "/dev/null", "/nonexistent/x", ".", "file", "folder", "float32", "a:b", ":", "a:"),
    *("os:system", "builtins:print", "", " ", " 7 ", "ß€\u2028", "a" * 5000),
]
OTHERS = [
    *("--", "--x=", "--lr", "--seed=", "--seed", "--resume", "-5", "positional", "--help-me"),
    *("--mesh.data=0", "@file", "-h=1", "--=", "---", "--progress=maybe", "--solver"),
    *("--learning-rate", "--texts.max-length=1"),
]


# What nothing else of the line is looked at without, most of the time.
NEEDED = {
    "prefer": ["--model", "folder", "--data", "file"],
    "fine-tune": ["--model", "folder", "--prompts", "file", "--reward", "jpeg_size"],
}


class Started(Exception):
    """A run would begin here."""


def begin(*arguments, **options):
    raise Started


@pytest.fixture(scope="module")
def commands():
    named = {name: importlib.import_module(f"experiments.{name}.__main__") for name in studies()}
    return named | {"prefer": prefer, "sample": sample, "fine-tune": fine_tune}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(Study, "begin", begin)
    monkeypatch.setattr(prefer, "prepare", begin)
    monkeypatch.setattr(fine_tune, "prepare", begin)
    monkeypatch.setattr(sample, "prepare", begin)


def drawn_line(draw: random.Random, name: str, options: list) -> list[str]:
    """Arguments of a command, most of them odd."""
    line = [draw.choice(("file", "folder", "/nonexistent", ""))] if name == "sample" else []
    line = list(NEEDED.get(name, line)) if draw.random() < 0.8 else line
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3))):
        flag, hint = draw.choice(options)
        value = draw.choice(ODD)
        words = [word for word in str(hint).replace("'", " ").split() if word.isidentifier()]
        if "Literal" in str(hint) and draw.random() < 0.4:
            value = draw.choice(words)
        if draw.random() < 0.12:
            line.append(draw.choice(OTHERS))
        elif hint is bool and draw.random() < 0.5:
            line.append(flag)
        else:
            line += draw.choice(([flag, value], [f"{flag}={value}"]))
    return line * draw.choice((1,) * 9 + (2,))


def fault(module, line: list[str], before: set[str]) -> str | None:
    """What is wrong with what a command says to a line; None if nothing is."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            command(module.Config, module.main, line, program="PROGRAM")
    except Started:
        pass
    except SystemExit as stop:
        lines = [x for x in said.getvalue().split("\n") if x and not x.startswith("warning: ")]
        one = len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 2000
        if stop.code not in (0, None) and (stop.code != 2 or not one):
            return f"ends with {stop.code}: {said.getvalue()!r:.300}"
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    else:
        return "returns"
    left = {path.name for path in Path().iterdir()} - before
    return f"leaves {left}" if left else None


@pytest.mark.parametrize("part", QUICK_AND_SLOW)
def test_an_odd_line_is_refused_in_one_line_or_starts(part, commands):
    draw, found = random.Random(part), []
    before = {path.name for path in Path().iterdir()}
    options = {name: list(options_of(module.Config)) for name, module in commands.items()}
    for _ in range(DRAWS // PARTS):
        name = draw.choice(sorted(commands))
        line = drawn_line(draw, name, options[name])
        if said := fault(commands[name], line, before):
            found.append(f"{name} {[word[:60] for word in line]} {said}")
    assert not found, "\n" + "\n".join(found)
