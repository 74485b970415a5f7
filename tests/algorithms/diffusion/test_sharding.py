"""One step on eight devices is the step on one, and every device works on its own rows."""

from tests.runtime.processes import run_python


def test_eight_devices_agree_with_one():
    status, out, err = run_python(
        "-m", "tests.algorithms.diffusion.sharded_step", JAX_NUM_CPU_DEVICES="8"
    )
    assert status == 0, err[-4000:]
    assert out.strip().endswith("agreed")
