"""Integer times and scalars mean what their floating and batched forms mean."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import (
    EDM,
    OU,
    VE,
    VP,
    ContractiveOU,
    ContractiveSubVP,
    ContractiveVP,
    DataPoints,
    LinearProcess,
    Marginal,
    NoiseSchedule,
    RatioScore,
    RectifiedFlow,
    SubVP,
    TabulatedSchedule,
    consistency_function,
    grids,
)
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import (
    EulerMaruyama,
    Inpainting,
    PredictorCorrector,
    sample,
    sample_consistency,
)
from ctrl_jax.solvers.adaptive import flow
from tests.processes.compiled import compiled
from tests.processes.family import every_kind
from tests.processes.one_of_each import PROCESSES


@pytest.mark.parametrize("process", PROCESSES.values(), ids=list(PROCESSES))
@pytest.mark.mixed_dtypes
def test_integer_times_are_times(process, unchecked):
    def coefficients(times):
        methods = process.contraction_rate, process.diffusion, process.marginal
        return [method(t) for method in methods for t in times]

    whole = compiled(coefficients, [0, np.asarray([0, 1], np.int32)])
    expected = compiled(coefficients, [0.0, np.asarray([0.0, 1.0], np.float32)])
    for found, exact in zip(jax.tree.leaves(whole), jax.tree.leaves(expected), strict=True):
        assert np.issubdtype(found.dtype, np.floating)
        np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_a_rate_below_one_survives_an_integer_time(unchecked):
    assert float(OU(0.5, 0.5).diffusion(1)) == 0.5  # pyright: ignore[reportArgumentType]


def test_scalars_are_states(unchecked):
    process = VP()
    x_t, noise = process.sample_marginal(jax.random.key(0), jnp.asarray(1.0), jnp.asarray(0.5))
    assert x_t.shape == noise.shape == ()
    score_fn = parameterization.from_noise(process, lambda t, x: 0.5 * x)
    drift = process.reverse(score_fn).drift(jnp.asarray(0.5), jnp.asarray(1.0))
    batched = process.reverse(score_fn).drift(jnp.asarray(0.5), jnp.ones((1, 1)))
    np.testing.assert_allclose(drift, batched[0, 0], rtol=1e-6)
    back = parameterization.to_noise(process, score_fn)(jnp.asarray(0.5), jnp.asarray(1.0))
    np.testing.assert_allclose(back, 0.5, rtol=1e-6)


@pytest.mark.parametrize("horizon", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("make", [grids.uniform, grids.quadratic, grids.log_snr, grids.edm])
def test_grids_end_where_the_process_says_in_any_unit_of_time(make, horizon):
    for process in (
        OU(1 / horizon, 0.3 * horizon**-0.5, horizon=horizon),
        RectifiedFlow(horizon=horizon),
        VP(0.1 / horizon, 20 / horizon, horizon=horizon),
    ):
        grid = np.asarray(make(process, 4))
        np.testing.assert_allclose(grid[-1] / horizon, 0.999, rtol=1e-5)


@pytest.mark.parametrize(
    ("process", "end"),
    [
        (EDM(80.0), 0.002),
        (EDM(1.0), 0.001),
        (VP(), 0.001),
        (VP(0.1, 20.0, horizon=15.0), 0.001),
        (SubVP(0.1, 20.0, horizon=15.0), 0.001),
        (ContractiveVP(0.1, 0.5, horizon=30.0), 0.001),
        (OU(1.0, 1.0), 1e-4),
        (ContractiveOU(1.0, 1.0, horizon=3.0), 1e-4),
        (OU(1.0, 1.0, horizon=80.0), 2e-3),  # float32 knows no less on the way from 80
        (VE(horizon=4.0), 0.004),
        (VP(schedule=TabulatedSchedule.scaled_linear()), 0.001),
    ],
)
def test_the_end_does_not_go_by_the_horizon_alone(process, end):
    """Samples of a point mass keep its noise: 0.002 for EDM, 0.01 where noise comes at a rate."""
    assert process.end == pytest.approx(end)
    steps = [1000] if isinstance(process, EDM | OU) else []
    for number in (4, *steps):
        grid = np.asarray(grids.log_snr(process, number))
        assert process.horizon - grid[-1] == pytest.approx(end, abs=1e-7 * process.horizon)


def test_a_schedule_goes_by_its_name(unchecked):
    table: Any = TabulatedSchedule.scaled_linear()
    with pytest.raises(ValueError, match=r"beta_min: received 'TabulatedSchedule'; .* schedule="):
        VP(table)
    numbers: Any = [0.1, 0.2]
    with pytest.raises(ValueError, match=r"schedule: received 'list'; it must be a NoiseSchedule"):
        VP(schedule=numbers)
    assert len(repr(table)) < 200


def test_what_a_table_refuses(unchecked):
    steps: Any = 2.5
    with pytest.raises(ValueError, match=r"steps: received 2.5"):
        TabulatedSchedule.linear(steps=steps)
    with pytest.raises(ValueError, match=r"scaled_linear.start: received -0.1"):
        TabulatedSchedule.scaled_linear(-0.1)


def test_half_precision_reads_a_table_as_single_does():
    table, t = TabulatedSchedule.scaled_linear(), jnp.linspace(0.0, 1.0, 9)
    half = table.integral(t.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(float), table.integral(t), rtol=2**-8)


def test_the_noise_level_is_known_before_a_program(unchecked):
    level: Any = jnp.asarray(0.5)
    assert VP().reverse(lambda t, x: -x, noise_level=level).noise_level == 0.5
    with pytest.raises(
        ValueError, match=r"noise_level: received 'a traced value'; .* plain number"
    ):
        jax.jit(lambda level: VP().reverse(lambda t, x: -x, noise_level=level).noise_level)(0.5)


@every_kind
def test_times_may_be_lists(process, unchecked):
    """What `jnp.asarray` takes, taken once at the door of every method."""
    methods = [process.marginal, process.diffusion, process.contraction_rate, process.forward_time]
    methods += [process.noise_to_signal, process.time_at, process.rates]
    methods += [lambda t: process.drift(t, jnp.ones((2, 3))), lambda t: process.transition(t, t)]
    methods += [lambda t: process.sample_marginal(jax.random.key(0), jnp.ones((2, 3)), t)]
    ours, theirs = (
        jax.eval_shape(lambda t=t: [method(t) for method in methods])
        for t in ([0.1, 0.2], jnp.asarray([0.1, 0.2]))
    )
    assert jax.tree.map(lambda x: x.shape, ours) == jax.tree.map(lambda x: x.shape, theirs)


class Ramp(NoiseSchedule):
    """A user's own: beta = rate t, B = rate t^2 / 2."""

    slope: float
    horizon: float = 2.0

    def rate(self, t):
        return self.slope * t

    def integral(self, t):
        return self.slope * t**2 / 2


@pytest.mark.parametrize("make", [VP, SubVP, ContractiveVP, ContractiveSubVP])
def test_a_schedule_of_ones_own(make):
    process, t = make(schedule=Ramp(slope=3.0)), np.asarray([0.5, 2.0], np.float32)
    sign = 1 if make in (ContractiveVP, ContractiveSubVP) else -1
    (scale, std), grid = compiled(process.marginal, t), np.asarray(grids.log_snr(process, 5))
    B = 3.0 * t**2 / 2
    squares = {VP: 1 - np.exp(-B), ContractiveVP: np.expm1(B)}
    squares |= {SubVP: np.expm1(-B) ** 2, ContractiveSubVP: np.expm1(B) ** 2}
    np.testing.assert_allclose(scale, np.exp(sign * B / 2), rtol=1e-5)
    np.testing.assert_allclose(std**2, squares[make], rtol=1e-5)
    assert process.horizon == 2.0 and process.end == 0.002 and len(grid) == 6


def zero_at_the_end(t):
    return jnp.where(t < 1.0, t, jnp.inf)


class ZeroTerminal(NoiseSchedule):
    """Nothing is left of the data at T, though its rate is finite."""

    horizon: float = 1.0

    def rate(self, t):
        return jnp.ones_like(t)

    def integral(self, t):
        return zero_at_the_end(t)


class OwnZeroTerminal(LinearProcess):
    """The same as a process of one's own, which gives no `latest`."""

    horizon: float = 1.0

    def marginal(self, t):
        return Marginal(1 - t, t)


def test_nothing_left_of_the_data_is_said(unchecked):
    """Of a schedule, of a table, and of a process of one's own; the repairs work."""
    with pytest.raises(ValueError, match=r"VP.schedule: received 'ZeroTerminal'; .*zero SNR"):
        VP(schedule=ZeroTerminal())
    ending = TabulatedSchedule(np.linspace(0.1, 1.0, 10))
    with pytest.raises(ValueError, match=r"SubVP.schedule: .*zero SNR.* or take VP with a table"):
        SubVP(schedule=ending)
    with pytest.raises(ValueError, match=r"between: received 'ratio'; .* no bound"):
        TabulatedSchedule([0.1, 1.0], between="ratio")
    assert np.isfinite(grids.log_snr(VP(schedule=ending), 5)).all()
    with pytest.raises(ValueError, match="process: received 'OwnZeroTerminal'; at its `latest`"):
        grids.log_snr(OwnZeroTerminal(), 5)


@pytest.mark.parametrize(
    "call",
    [
        lambda end: grids.log_snr(RectifiedFlow(), 4, end=end),
        lambda end: grids.uniform(RectifiedFlow(), 4, end=end),
        lambda end: jax.eval_shape(
            lambda x: flow(RectifiedFlow(), lambda t, x: -x, x, end=end), jnp.ones((1, 1))
        ),
        lambda end: consistency_function.level_times(RectifiedFlow(), end=end),
        lambda end: consistency_function.coefficients(RectifiedFlow(), jnp.ones(2), end=end),
        lambda end: sample_consistency(
            jax.random.key(0), RectifiedFlow(), lambda t, x: x, (1, 1), end=end
        ),
    ],
)
def test_an_end_after_the_latest_time_is_refused_and_its_repair_helps(call):
    with pytest.raises(ValueError, match=r"end: received 0.9999; .* give .* such as 0.001"):
        call(0.9999)
    call(0.001)


@pytest.mark.parametrize("number", [10**23, 2**31])
def test_numbers_that_nothing_can_hold_are_refused_at_the_door(number, unchecked):
    calls = {
        "steps": lambda: grids.uniform(VP(), number),
        "steps: ": lambda: sample(jax.random.key(0), VP(), lambda t, x: -x, (2, 1), steps=number),
        "steps:": lambda: TabulatedSchedule.linear(steps=number),
        "shape": lambda: sample(jax.random.key(0), VP(), lambda t, x: -x, (number, 4, 2**10)),
        "corrector_steps": lambda: PredictorCorrector(corrector_steps=number),
        "passes": lambda: Inpainting(EulerMaruyama(), jnp.ones(1), jnp.ones(1, bool), number),
        "m: ": lambda: RatioScore(VP(), DataPoints(np.ones((2, 1))), number),
        "max_steps": lambda: flow(VP(), lambda t, x: -x, jnp.ones((1, 1)), max_steps=number),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name}.*received .*{number}"):
            call()
    with pytest.raises(ValueError, match=r"theta: received 1000.*; it must be a finite number"):
        OU(10**400)
