"""Every study gives the same numbers on one device, on eight, and on 4 x 2."""

import pytest

from tests.experiments.on_meshes import OPTIONS
from tests.runtime.processes import run_python


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_meshes_agree_with_one_device(name, tmp_path):
    arguments = ("-m", "tests.experiments.on_meshes", name, str(tmp_path))
    status, out, err = run_python(*arguments, JAX_NUM_CPU_DEVICES="8")
    assert status == 0, err[-4000:]
    assert out.strip().endswith("agreed")
