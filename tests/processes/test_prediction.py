"""What a network predicts: every reading against the definition, also where nothing is left."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import VP, Prediction, RectifiedFlow, TabulatedSchedule
from ctrl_jax.processes.prediction import (
    BLIND,
    log_growth,
    read_data,
    read_drift,
    read_flow,
    read_noise,
    read_score,
)
from tests.processes.family import KINDS

NAMES = get_args(Prediction)
TABLE = TabulatedSchedule.linear(1e-2, 0.3, 20, horizon=2.0)
ENDING = {
    "rectified flow": RectifiedFlow(horizon=3.0),
    "vp, zero snr": VP(schedule=TABLE.of_zero_terminal_snr()),
}


FEW = {"edm, contractive": KINDS["edm, contractive"]}


def read(process, names, t):
    """Errors of each reading at data, noise and times t, relative to the size of what is read."""
    data, noise = jax.random.normal(jax.random.key(0), (2, t.size, 3))
    (a, s), (a_rate, s_rate) = jax.tree.map(lambda c: c[:, None], process.rates(t))
    x, flow = a * data + s * noise, a_rate * data + s_rate * noise
    made = {"noise": noise, "data": data, "v": a * noise - s * data, "flow": flow}
    made["score"] = -noise / s
    readings = {"data": read_data, "noise": read_noise, "score": read_score, "flow": read_flow}
    return {
        (name, of): jnp.abs(reading(process, t, name).of(x, made[name]) - made[of])
        / (jnp.abs(made[of]) + jnp.abs(made[name]) + jnp.abs(x))
        for name in names
        for of, reading in readings.items()
    }


@pytest.mark.mixed_dtypes
def test_every_reading_is_the_definition():
    with jax.enable_x64(True):
        errors = jax.jit(
            lambda: {
                name: read(process, NAMES, jnp.asarray([0.05, 0.31, 0.87]) * process.latest)
                for name, process in {**FEW, **ENDING}.items()
            }
        )()
    for process, found in errors.items():
        for names, error in found.items():
            assert (np.asarray(error) < 1e-9).all(), (process, names, error)


@pytest.mark.parametrize("process", ENDING.values(), ids=[*ENDING])
def test_where_nothing_is_left_all_but_score_and_noise_tell_of_the_data(process):
    t = jnp.asarray([process.horizon])
    assert float(process.marginal(t).scale[0]) == 0.0
    assert 0 < float(process.marginal(process.latest).scale) <= 2.0**-12 * 1.01
    errors = read(process, ("data", "v", "flow"), t)
    assert all((np.asarray(error) < 1e-6).all() for error in errors.values()), errors
    for name in ("data", "v", "flow"):
        drift = read_drift(process, t, name, 0.0)
        assert np.isfinite(np.asarray([drift.state, drift.action], np.float32)).all()
    for name in BLIND:
        assert not np.isfinite(read_data(process, t, name).of(t[:, None], t[:, None])).all()


@pytest.mark.mixed_dtypes
def test_the_part_along_the_state_is_a_derivative():
    processes = KINDS["edm, contractive"], ENDING["vp, zero snr"]

    def both(process, name):
        t = jnp.asarray([0.05, 0.31, 0.87]) * process.latest
        state = jnp.broadcast_to(read_flow(process, t, name).state, 3)
        return state, jax.vmap(jax.grad(lambda t: log_growth(process, t, name)))(t)

    with jax.enable_x64(True):
        found = jax.jit(lambda: [both(p, name) for p in processes for name in NAMES])()
    for state, slope in found:
        np.testing.assert_allclose(state, slope, atol=1e-9, rtol=1e-9)


def test_the_scale_of_zero_terminal_snr():
    """Algorithm 1 of Lin et al., step by step, and a straight line over the last step."""
    before = np.exp(-np.asarray(TABLE.integrals[1:]) / 2)
    expected = (before - before[-1]) * before[0] / (before[0] - before[-1])
    process = ENDING["vp, zero snr"]
    found = process.marginal(process.schedule.time_of(np.arange(20))).scale
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)
    middle = process.marginal(process.schedule.time_of([18.25, 18.75])).scale
    np.testing.assert_allclose(middle, expected[18] * np.array([0.75, 0.25]), rtol=1e-4)
    times = jnp.asarray([0.31, 1.93, 1.99])
    slope = jax.vmap(jax.grad(lambda t: process.schedule.integral(t)))(times)
    np.testing.assert_allclose(process.schedule.rate(times), slope, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ratio", "log_ratio"])
def test_straight_lines_of_the_ratio(kind):
    """Between steps n is interpolated, or its logarithm, and the rate is the derivative of B."""
    schedule = TabulatedSchedule(np.linspace(1e-2, 0.3, 20), horizon=20.0, between=kind)
    plain = TabulatedSchedule(np.linspace(1e-2, 0.3, 20), horizon=20.0)
    at, between = jnp.arange(21.0), jnp.asarray([0.5, 3.25, 19.75])
    ratios = np.sqrt(np.expm1(np.asarray(plain.integral(at), float)))
    np.testing.assert_allclose(schedule.integral(at), plain.integral(at), rtol=1e-5)
    expected = np.asarray(np.interp(between, at, ratios))
    if kind == "log_ratio":
        expected[1:] = np.exp(np.interp(between[1:], at[1:], np.log(ratios[1:])))
    np.testing.assert_allclose(VP(schedule=schedule).noise_to_signal(between), expected, rtol=1e-5)
    slope = jax.vmap(jax.grad(lambda t: schedule.integral(t)))(between)
    np.testing.assert_allclose(schedule.rate(between), slope, rtol=1e-4)
