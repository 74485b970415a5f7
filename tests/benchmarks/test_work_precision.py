"""The work that is counted is the work that is done, and the error is a distance."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import harness, work_precision
from ctrl_jax.processes import VP, grids
from ctrl_jax.solvers import sample


@pytest.mark.parametrize("name", work_precision.SAMPLERS)
def test_evaluations_per_step_are_counted_right(name):
    chosen, process, calls = work_precision.SAMPLERS[name], VP(), []
    exact = work_precision.exact_score(process)

    def counting(t, x):
        jax.debug.callback(lambda: calls.append(None))
        return exact(t, x)

    grid = grids.log_snr(process, 4, end=0.1)
    sample(jax.random.key(0), process, counting, (2, 2), grid=grid, solver=chosen.solver)
    jax.effects_barrier()
    # A first-same-as-last method evaluates once more at its start.
    once = name == "flow, Tsit5"
    assert len(calls) == 4 * chosen.evaluations + once


def test_the_error_is_the_distance_of_two_gaussians():
    process = VP()
    scale, std = process.marginal(jnp.asarray(work_precision.END))
    spread = jnp.sqrt((scale * work_precision.STD) ** 2 + std**2)
    signs = jnp.asarray([[1.0, -1.0]])
    exact = scale * work_precision.MEAN + spread * signs
    assert work_precision.error(process, exact) < 1e-6
    np.testing.assert_allclose(work_precision.error(process, exact + 0.3), 0.3, rtol=1e-5)
    wider = exact + 0.4 * signs
    np.testing.assert_allclose(work_precision.error(process, wider), 0.4, rtol=1e-5)


def test_a_run_has_facts_and_a_picture(tmp_path):
    case = work_precision._case("VP", 4, batch=2, draws=8)
    case = harness.Case(case.name, [case.contenders[2], case.contenders[3]])
    harness.run("sampling", "claim", [case], quick=True, out=tmp_path)
    rows = json.loads((tmp_path / "sampling.json").read_text())["cases"][0]["rows"]
    assert [row["process"] for row in rows] == ["VP", "VP"]
    assert rows[0]["evaluations"] == 4 and rows[0]["error"] > 0
    assert "4 evaluations, error" in (tmp_path / "sampling.md").read_text()
    work_precision.plot(tmp_path)
    assert (tmp_path / "work_precision.png").stat().st_size > 1000
