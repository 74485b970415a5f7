"""Imports run downwards only: the tree's laws, read from the source with `ast`.

`violations(root)` knows nothing of this repository but its names, so the last tests run it on
made-up trees that break one law each.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "ctrl_jax"
SCRIPTS = ("benchmarks", "experiments")
FLOORS = (  # top to bottom
    *SCRIPTS,
    "__main__",
    "commands",
    "runtime",
    "algorithms",
    "models",
    "rewards",
    "pretrained",
    "data",
    "networks",
    "losses",
    "metrics",
    "environments",
    "solvers",
    "processes",
    "_records",
    "_sums",
    "_whole",
    "_door",
    "_checks",
    "_numerics",
    "_errors",
    "_typing",
)
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}
# Packages that a floor may never name, not even inside a function.
FORBIDDEN = {"losses": {"flax", "orbax"}}


class Import(NamedTuple):
    """One import: `source` is the module it stands in, `target` the full name it asks for."""

    source: str
    target: str
    path: Path
    line: int

    def violates(self, rule: str) -> str:
        return f"{self.path}:{self.line}: {self.source} imports {self.target}: {rule}"


def modules(root: Path) -> dict[str, Path]:
    """Every Python file of the library and the scripts, by its dotted name."""
    found = {}
    for package in (LIBRARY, *SCRIPTS):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path) -> Iterator[Import]:
    """Every import statement, those inside functions too, with names resolved to modules."""
    known = modules(root)
    for source, path in known.items():
        package = source if path.name == "__init__.py" else source.rpartition(".")[0]
        where = path.relative_to(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(source, alias.name, where, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                ancestors = package.split(".")
                start = ancestors[: len(ancestors) - node.level + 1] if node.level else []
                base = ".".join([*start, *filter(None, [node.module])])
                # `from package import module` asks for the module, not for its package.
                names = {f"{base}.{alias.name}" for alias in node.names}
                for target in sorted({name if name in known else base for name in names}):
                    yield Import(source, target, where, node.lineno)


def floor_of(module: str) -> str | None:
    """The floor a module stands on; None for other packages and for `ctrl_jax` itself."""
    package, *rest = module.split(".")
    if package == LIBRARY:
        return rest[0] if rest else None
    return package if package in SCRIPTS else None


def upward(edges: list[Import]) -> Iterator[str]:
    for edge in edges:
        package, target = edge.source.split(".")[0], edge.target.split(".")[0]
        if target == "tests" or (package == LIBRARY and target in SCRIPTS):
            yield edge.violates(f"nothing in {package} may import {target}")
            continue
        source_floor, target_floor = floor_of(edge.source), floor_of(edge.target)
        if source_floor not in FLOORS or target_floor not in FLOORS:
            continue
        if FLOORS.index(target_floor) < FLOORS.index(source_floor):
            yield edge.violates(
                f"imports run downwards only, and {target_floor} is above {source_floor}"
            )


def forbidden(edges: list[Import]) -> Iterator[str]:
    for edge in edges:
        source_floor = floor_of(edge.source) or ""
        if edge.target.split(".")[0] in FORBIDDEN.get(source_floor, ()):
            yield edge.violates(
                f"{source_floor} takes no {' or '.join(sorted(FORBIDDEN[source_floor]))}"
            )


def unnamed(root: Path) -> Iterator[str]:
    """Files named after nothing, and modules of the library that stand on no floor."""
    for package in (LIBRARY, *SCRIPTS, "tests"):
        for path in sorted((root / package).rglob("*.py")):
            where = path.relative_to(root)
            if NAMELESS & {part.strip("_") for part in where.with_suffix("").parts}:
                yield f"{where}:1: no file is called {', '.join(sorted(NAMELESS))}: name its idea"
    for module, path in modules(root).items():
        floor = floor_of(module)
        if floor is not None and floor not in FLOORS:
            yield f"{path.relative_to(root)}:1: {floor} is no floor: add it to FLOORS in its place"


def cycles(edges: list[Import], known: dict[str, Path]) -> Iterator[str]:
    """One message for each import that closes a circle in a depth-first walk."""
    graph: dict[str, list[Import]] = {module: [] for module in known}
    for edge in edges:
        if edge.target in known and edge.target != edge.source:
            graph[edge.source].append(edge)
    trail: list[str] = []
    done: set[str] = set()

    def walk(module: str) -> Iterator[str]:
        trail.append(module)
        for edge in graph[module]:
            if edge.target in trail:
                circle = [*trail[trail.index(edge.target) :], edge.target]
                yield edge.violates(f"an import cycle: {' -> '.join(circle)}")
            elif edge.target not in done:
                yield from walk(edge.target)
        done.add(trail.pop())

    for module in graph:
        if module not in done:
            yield from walk(module)


def violations(root: Path) -> list[str]:
    edges = list(imports(root))
    return [*upward(edges), *forbidden(edges), *unnamed(root), *cycles(edges, modules(root))]


def loaded_by(statement: str) -> set[str]:
    """The top-level packages and `ctrl_jax` floors that a fresh interpreter holds after it."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"`{statement}` failed:\n{run.stderr}"
    names = [name.split(".") for name in run.stdout.split()]
    return {name[0] for name in names} | {
        ".".join(name[:2]) for name in names if name[0] == LIBRARY
    }


def test_the_tree_keeps_its_laws():
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_the_library_is_read():
    read = modules(ROOT)
    assert LIBRARY in read
    assert any(floor_of(edge.target) for edge in imports(ROOT)), "no import of our own was found"


def test_importing_the_library_stays_light():
    heavy = {"transformers", "orbax", "sklearn", "matplotlib"}
    loaded = loaded_by("import ctrl_jax") & heavy
    assert not loaded, f"`import ctrl_jax` loads {sorted(loaded)}: import them where they are used"


def test_losses_take_no_networks_and_no_checkpoints():
    losses = [module for module in modules(ROOT) if floor_of(module) == "losses"]
    assert losses, "ctrl_jax.losses has no module"
    loaded = loaded_by("import " + ", ".join(losses))
    unwanted = loaded & {"flax", "orbax", "ctrl_jax.networks"}
    assert not unwanted, f"importing {', '.join(losses)} loads {sorted(unwanted)}"


def grow(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


GOOD = {
    "ctrl_jax/__init__.py": "",
    "ctrl_jax/_typing.py": "from jaxtyping import Array\n",
    "ctrl_jax/processes/__init__.py": "from ctrl_jax.processes.linear import OU\n",
    "ctrl_jax/processes/linear.py": "from .._typing import Array\nOU = Array\n",
    "ctrl_jax/losses/policy.py": "import jax\nfrom ctrl_jax import processes\n",
    "ctrl_jax/networks/mlp.py": "from flax import nnx\n",
    "ctrl_jax/runtime/loop.py": "from ctrl_jax import __version__\nimport ctrl_jax.networks.mlp\n",
    "experiments/claim.py": "from ctrl_jax.runtime import loop\n",
    "benchmarks/harness.py": "import ctrl_jax\nimport experiments.claim\n",
}


def test_a_lawful_tree_passes(tmp_path):
    grow(tmp_path, GOOD)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "text", "line", "rule"),
    [
        ("ctrl_jax/losses/bad.py", "import jax\nimport ctrl_jax.networks.mlp\n", 2, "networks is"),
        ("ctrl_jax/losses/bad.py", "from ctrl_jax.networks import mlp\n", 1, "networks is above"),
        ("ctrl_jax/losses/bad.py", "from ..networks import mlp\n", 1, "networks is above losses"),
        ("ctrl_jax/losses/bad.py", "from .. import networks\n", 1, "networks is above losses"),
        (
            "ctrl_jax/processes/bad.py",
            "def f():\n    from ctrl_jax import losses\n",
            2,
            "losses is",
        ),
        ("ctrl_jax/losses/bad.py", "from flax import nnx\n", 1, "losses takes no flax or orbax"),
        ("ctrl_jax/runtime/bad.py", "import experiments.claim\n", 1, "may import experiments"),
        ("ctrl_jax/runtime/bad.py", "import benchmarks\n", 1, "may import benchmarks"),
        ("ctrl_jax/runtime/bad.py", "from tests.oracles import ou\n", 1, "may import tests"),
        ("experiments/bad.py", "import tests.oracles\n", 1, "nothing in experiments may import"),
        ("experiments/bad.py", "import benchmarks.harness\n", 1, "benchmarks is above experiments"),
        ("ctrl_jax/rewards/utils.py", "", 1, "no file is called"),
        ("ctrl_jax/common/shapes.py", "", 1, "no file is called"),
        ("tests/helpers.py", "", 1, "no file is called"),
        ("ctrl_jax/attic/old.py", "", 1, "attic is no floor"),
        ("ctrl_jax/processes/linear.py", "\nfrom ctrl_jax.processes import OU\n", 2, "cycle"),
    ],
)
def test_a_broken_law_is_named_with_file_and_line(tmp_path, path, text, line, rule):
    grow(tmp_path, GOOD | {"ctrl_jax/networks/__init__.py": "", "ctrl_jax/losses/__init__.py": ""})
    grow(tmp_path, {path: text})
    found = violations(tmp_path)
    assert any(message.startswith(f"{path}:{line}: ") and rule in message for message in found), (
        found
    )
