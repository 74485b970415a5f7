"""A sample does not depend on the number of devices that draw its batch."""

import pytest

from tests.runtime.processes import run_python


@pytest.mark.slow
def test_eight_devices_agree_with_one():
    status, out, err = run_python("-m", "tests.solvers.sharded_samplers", JAX_NUM_CPU_DEVICES="8")
    assert status == 0, err[-4000:]
    assert out.strip().endswith("agreed")
