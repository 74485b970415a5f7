"""`ctrl-jax`: its list of commands, what it says to a mistake, and the wheel that installs it."""

import configparser
import importlib
import tomllib
import zipfile

import pytest

import ctrl_jax
from ctrl_jax.commands.__main__ import COMMANDS, main
from tests.runtime.processes import run_python
from tests.test_floors import ROOT, loaded_by


def test_help_lists_the_commands_without_jax(capsys):
    for args in (["--help"], ["-h"], []):
        assert main(args) == 0
        printed = capsys.readouterr().out
        assert all(f"  {name} " in printed and line in printed for name, line in COMMANDS.items())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ctrl-jax {ctrl_jax.__version__}\n"
    heavy = {"jax", "flax", "numpy", "tyro", "matplotlib"}
    assert not loaded_by("from ctrl_jax.commands.__main__ import main; main([])") & heavy


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_names_it_and_every_option(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and f"usage: ctrl-jax {name} " in printed
    module = importlib.import_module(f"ctrl_jax.commands.{name.replace('-', '_')}")
    assert module.Config.__doc__.splitlines()[0] in " ".join(printed.split())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("prefr", "'prefr'; it must be fine-tune or plan or prefer or sample; perhaps prefer; "),
        ("42", "'42'; it must be fine-tune or plan or prefer or sample; --help lists the commands"),
    ],
)
def test_an_unknown_command_is_one_line(typed, said, capsys):
    assert main([typed]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: COMMAND: received {said}") and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("0", "it must be a whole number of at least 1"),
        ("2000000000", "it must be at most 1000000"),
    ],
)
def test_a_mistake_in_an_option_is_one_line_of_its_command(number, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample", "run", "--number", number])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: number: received {number}; {said}")


def test_it_runs_beside_experiments_of_the_users_own(tmp_path):
    """A user's project has a folder `experiments` too, and a module `benchmarks`."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "benchmarks.py").write_text("raise SystemExit('not ours')")
    status, out, err = run_python(
        "-c",
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; "
        "from ctrl_jax.commands.__main__ import main; main(['prefer', '--help'])",
    )
    assert status == 0 and "usage: ctrl-jax prefer" in out, err


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as pip builds it, without its environment: nothing is downloaded."""
    pytest.importorskip("hatchling")
    code = (
        "import sys; from hatchling.builders.wheel import WheelBuilder; "
        "print(*WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], versions=['standard']))"
    )
    folder = tmp_path_factory.mktemp("wheel")
    status, out, err = run_python("-c", code, str(ROOT), str(folder))
    assert status == 0, err
    return zipfile.ZipFile(out.strip())


def test_the_wheel_holds_the_library_alone(wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packed = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "ctrl_jax").rglob("*.py")}
    assert {name.split("/")[0] for name in packed} == {"ctrl_jax"}
    assert sources <= packed
    facts = {name.rsplit("/")[-1]: name for name in wheel.namelist() if name not in packed}
    metadata = wheel.read(facts["METADATA"]).decode()
    assert f"\nVersion: {ctrl_jax.__version__}\n" in metadata
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(facts["entry_points.txt"]).decode())
    assert (
        dict(scripts["console_scripts"])
        == project["scripts"]
        == {"ctrl-jax": "ctrl_jax.commands.__main__:main"}
    )


def test_the_library_runs_from_the_wheel(wheel, tmp_path):
    """From what was packed, and nothing beside it."""
    wheel.extractall(tmp_path)
    status, _, err = run_python("-P", "-m", "ctrl_jax", "prefr", PYTHONPATH=str(tmp_path))
    assert status == 2 and "perhaps prefer" in err
