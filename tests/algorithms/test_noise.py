"""The noise of an example depends on key, step and place in the batch: its bits, on every mesh."""

import pytest

from tests.runtime.processes import LIMIT, free_port, run_python, start_python

MODULE = ("-m", "tests.algorithms.noise_on_meshes")


@pytest.fixture(scope="module")
def in_one_process():
    """Digests by mesh, on one to four devices."""
    status, out, err = run_python(*MODULE, JAX_NUM_CPU_DEVICES="4")
    assert status == 0, err[-4000:]
    return digests(out)


def digests(out):
    """Those of each mesh; the library that joins processes says other things."""
    return dict(line.rsplit(" ", 1) for line in out.splitlines() if line.startswith("on "))


def test_noise_has_the_same_bits_on_every_mesh(in_one_process):
    assert {"on 1x1", "on 4x1", "on 2x2", "on 1x4, a larger batch"} <= in_one_process.keys()
    assert len({*in_one_process.values()}) == 1, in_one_process


@pytest.mark.slow
def test_noise_has_the_same_bits_in_two_processes(in_one_process):
    port = str(free_port())
    both = [start_python(*MODULE, port, str(n), JAX_NUM_CPU_DEVICES="2") for n in range(2)]
    for process in both:
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err[-4000:]
        found = digests(out)
        assert len(found) == 6 and {*found.values()} == {*in_one_process.values()}, found
