"""A CPU's cores as devices: as many as give each few runs, and none where the user has said."""

import types

import jax
import pytest

from ctrl_jax.runtime import MeshOptions, RunOptions, prepare
from ctrl_jax.runtime.devices import cores
from tests.runtime.processes import run_python


@pytest.fixture
def asked(monkeypatch):
    """What JAX is asked for by so many cores and runs, with these variables of the environment."""

    def of(number, runs, told=-1, **variables):
        found = []
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(cores, "cores", lambda: number)
        config = types.SimpleNamespace(jax_num_cpu_devices=told)
        config.update = lambda name, value: found.append((name, value))
        monkeypatch.setattr(cores.jax, "config", config)
        cores.use_cores(runs)
        return found

    return of


@pytest.mark.parametrize(
    ("number", "runs", "devices"), [(2, 10, 2), (4, 10, 4), (6, 10, 5), (64, 10, 10), (1, 10, 1)]
)
def test_no_device_is_idle_while_another_has_two_more(asked, number, runs, devices):
    """Of 10 runs on 6 cores some core has 2, and 5 devices of 2 do as well."""
    assert asked(number, runs) == [("jax_num_cpu_devices", devices)]


def test_what_the_user_says_of_devices_holds(asked):
    assert asked(4, 10, told=1) == []
    assert asked(4, 10, XLA_FLAGS="--xla_force_host_platform_device_count=8") == []


def test_a_run_has_them_only_where_it_says_that_its_parts_are_alike():
    code = """
import jax
from ctrl_jax.runtime import MeshOptions, RunOptions, prepare
from ctrl_jax.runtime.devices import cores
cores.cores = lambda: 3
mesh = prepare(RunOptions(compilation_cache=False), side_by_side=6)
print(dict(mesh.shape), len(jax.devices()))
"""
    status, out, err = run_python("-c", code, JAX_NUM_CPU_DEVICES="-1")
    assert status == 0 and out.splitlines()[-1] == "{'data': 3, 'model': 1} 3", err


@pytest.mark.parametrize("mesh", [MeshOptions(data=1), MeshOptions()])
def test_a_mesh_that_is_asked_for_is_not_enlarged(mesh, monkeypatch):
    found = []
    monkeypatch.setattr("ctrl_jax.runtime.run.options.use_cores", found.append)
    prepare(RunOptions(mesh=mesh, compilation_cache=False), side_by_side=6)
    prepare(RunOptions(mesh=mesh, compilation_cache=False))
    assert found == ([6] if mesh.fills else [])
    assert jax.devices()[0].platform == "cpu"
