"""Every study gives the same numbers on one device, on eight, on 4 x 2, and in two processes."""

import pytest

from tests.experiments.on_meshes import OPTIONS, check_equal, line, numbers
from tests.runtime.processes import run_in_two, run_python


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_meshes_agree_with_one_device(name, tmp_path):
    arguments = ("-m", "tests.experiments.on_meshes", name, str(tmp_path))
    status, out, err = run_python(*arguments, JAX_NUM_CPU_DEVICES="8")
    assert status == 0, err[-4000:]
    assert out.strip().endswith("agreed")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_of_two_devices_agree_with_one_device(name, tmp_path):
    given = ["-m", f"experiments.{name.split()[0]}", *line(name, tmp_path), "--out"]
    status, _, err = run_python(*given, str(tmp_path / "one"), "--mesh.data", "1")
    assert status == 0, err[-4000:]
    run_in_two(*given, str(tmp_path / "two"))
    one, two = (numbers(tmp_path / which) for which in ("one", "two"))
    assert len(one) > 2
    check_equal(one, two)
