"""The code of the README and of the site runs, its commands parse, its links lead somewhere.

By convention a block may use what a reader brings, names that begin with `my_`; they are defined
here. Sizes are made small by the patterns of `SMALL`. Blocks of one page share their names.
"""

import importlib.util
import re
import shlex
from pathlib import Path

import jax.numpy as jnp
import pytest
import tyro

from ctrl_jax.commands import plan

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "studies"} & set(page.parts)]
NOTEBOOK = "file_format: mystnb"
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = (
    (r"\brange\(\d\d+\)", "range(1)"),
    (r"jnp\.ones\(\d\d+\)", "jnp.ones(4)"),
    (r"\((\w+), \d\d+\)(?=\n|, |\))", r"(\1, 5)"),  # steps of a grid
    (r"jax\.random\.key\(1\), \d\d+", "jax.random.key(1), 1"),
    (r"\(\d\d, \d\d, (\d)\)", r"(4, 4, \1)"),
    (r"\((\d\d+), (\d)\)", r"(4, \2)"),
    (r"(MLP\((?![^\n]*depth)[^\n]*), rngs=rngs\)", r"\1, depth=1, rngs=rngs)"),
)


def identifier(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name in languages]


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


def brought() -> dict:
    """What a reader brings."""
    shape = (4, 4, 3)
    return {
        "my_params": {"scale": jnp.ones(())},
        "my_score": lambda params, t, x, *conditions: -params["scale"] * x,
        "my_noise": lambda params, t, x, *conditions: params["scale"] * x,
        "my_reward": lambda x: -jnp.sum(x**2, axis=tuple(range(1, x.ndim))),
        "my_images": jnp.zeros((8, *shape)),
    }


CODE = [p for p in PAGES if NOTEBOOK not in p.read_text() and blocks(p, "python")]


@pytest.mark.parametrize("page", CODE, ids=identifier)
def test_python_blocks_run(page):
    names = brought()
    for code in blocks(page, "python"):
        for pattern, small in SMALL:
            code = re.sub(pattern, small, code)
        exec(compile(code, identifier(page), "exec"), names)


COMMAND = r"(?:ctrl-jax(?: \w[\w-]*)?|python -m (?:ctrl_jax|experiments|benchmarks)[\w.]*)"


def command_lines() -> list[str]:
    """Commands of code blocks with their options, and of sentences without."""
    found: set[str] = set()
    for page in PAGES:
        for code in blocks(page, "", "bash"):
            text = re.sub(r"\\\n\s*", "", code)
            found |= set(
                re.findall(rf"^(?:\w+=\w+ )*({COMMAND}(?: [^#\s]\S*)*)", text, re.MULTILINE)
            )
        found |= set(re.findall(rf"`({COMMAND})", prose(page)))
    return sorted(found)


@pytest.mark.parametrize("line", command_lines())
def test_commands_parse(line):
    words = shlex.split(line)
    module, args = (words[2], words[3:]) if words[0] == "python" else ("ctrl_jax", words[1:])
    if module == "ctrl_jax" and args and not args[0].startswith("-"):
        module, args = f"ctrl_jax.commands.{args[0].replace('-', '_')}", args[1:]
    package = importlib.util.find_spec(module)
    assert package is not None, f"{line}: there is no {module}"
    if package.submodule_search_locations is not None:
        module += ".__main__"
    loaded = importlib.import_module(module)
    if loaded is plan and args and args != ["COMMAND"]:  # its first word says whose options follow
        tyro.cli(plan.combined(plan.module_of(args[0]).Config), args=args[1:])
    elif hasattr(loaded, "Config") and loaded is not plan and args:
        tyro.cli(loaded.Config, args=args)


LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_links_lead_somewhere(page):
    missing = [link for link in LINK.findall(prose(page)) if not (page.parent / link).exists()]
    assert not missing


def test_readme_is_short():
    assert len(prose(README).split()) <= 900


def test_no_cell_is_long():
    rows = [line for line in prose(README).splitlines() if line.startswith("|")]
    cells = [cell.split() for row in rows for cell in row.strip("|").split("|")]
    assert max(len(cell) for cell in cells) <= 25


def test_quickstarts_are_short():
    for code in blocks(README, "python"):
        assert len([line for line in code.splitlines() if line.strip()]) <= 12


def test_every_metric_is_explained():
    sources = [*(ROOT / "ctrl_jax").rglob("algorithms/**/*.py")]
    names = {
        n for path in sources for n in re.findall(r'"([a-z_]+/[a-z_/]+)"[]:]', path.read_text())
    }
    explained = (ROOT / "docs" / "metrics.md").read_text()
    assert [name for name in sorted(names) if f"`{name}`" not in explained] == []
