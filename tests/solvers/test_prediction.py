"""Steps, samples and likelihoods of every prediction, also from where nothing is left, a(T) = 0."""

from typing import Any, get_args

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import (
    VP,
    Prediction,
    RectifiedFlow,
    TabulatedSchedule,
    grids,
)
from ctrl_jax.solvers import (
    DPMSolverPP2M,
    EulerMaruyama,
    ExponentialEuler,
    Inpainting,
    PredictorCorrector,
    StochasticHeun,
    girsanov,
    log_likelihood,
    sample,
    sample_adaptive,
)
from ctrl_jax.solvers.likelihood import Settings
from tests.processes.family import KINDS
from tests.solvers.gaussian import MEAN, VARIANCE, predictions, score_of

EVERY = get_args(Prediction)
TELLING = ("data", "v", "flow")
KEY = jax.random.key(0)
ENDING = {
    "vp, zero snr": VP(schedule=TabulatedSchedule.linear(1e-2, 0.3, 20).of_zero_terminal_snr()),
    "rectified flow": RectifiedFlow(),
}
STEPS = {
    "exponential euler": (ExponentialEuler(0.6), 1.0),
    "euler": (EulerMaruyama(), 0.7),
    "flow, exponential euler": (ExponentialEuler(), 0.0),
    "flow, euler": (EulerMaruyama(), 0.0),
}


def steps_of(process, names, r_0, solvers):
    """Next means of a batch under two laws of the data, and their divergence, by prediction."""
    x, data, other = 1.0 + jax.random.normal(KEY, (3, 4, 2))
    t = process.horizon - r_0
    (a, s), (a_rate, s_rate) = process.rates(t)

    def predicted(data):
        noise = (x - a * data) / s
        made = {"noise": noise, "data": data, "v": a * noise - s * data, "score": -noise / s}
        return made | {"flow": a_rate * data + s_rate * noise}

    one, two = predicted(data), predicted(other)
    found = {}
    for title, (solver, level) in solvers.items():
        for name in names:
            kernel = solver.kernel(
                process, r_0, r_0 + 0.1 * process.horizon, noise_level=level, prediction=name
            )
            kl = girsanov.kl_rate(kernel.kl_rate, one[name], two[name])
            found[title, name] = kernel.mean(x, one[name]), kernel.std, kl
    return found


@pytest.mark.mixed_dtypes
def test_kernels_do_not_depend_on_what_is_predicted():
    """Means, noise and divergence of a step, for every solver, in double precision."""
    processes = {"ve": KINDS["ve"], "rectified flow": ENDING["rectified flow"]}
    solvers = {title: step for title, step in STEPS.items() if title != "flow, exponential euler"}
    with jax.enable_x64(True):
        found = jax.jit(
            lambda: {
                name: steps_of(process, EVERY, jnp.asarray(0.4 * process.horizon), solvers)
                for name, process in processes.items()
            }
        )()
    for process, steps in found.items():
        for (title, name), got in steps.items():
            for a, b in zip(got, steps[title, "score"], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=f"{process} {title} {name}")
        assert (np.asarray(steps["euler", "v"][2]) > 1e-3).all()
        assert (np.asarray(steps["flow, euler", "v"][2]) == 0).all()


@pytest.mark.parametrize("process", ENDING.values(), ids=[*ENDING])
def test_the_first_step_from_nothing(process):
    """Finite, the same for all that tell of the data, and with a divergence."""
    solvers = {title: step for title, step in STEPS.items() if title != "euler"}
    steps = steps_of(process, TELLING, jnp.asarray(0.0), solvers)
    for (title, name), got in steps.items():
        for a, b in zip(got, steps[title, "data"], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6, err_msg=f"{title} {name}")
    assert (np.asarray(steps["exponential euler", "flow"][2]) > 1e-3).all()


def test_the_step_of_a_rectified_flow_is_eulers():
    """x' = x + (t' - t) u from t = 1 on, for DDIM and for Euler's method, to rounding."""
    process, x = RectifiedFlow(), jnp.asarray([[0.3, -2.0]])
    u = jnp.asarray([[1.7, 0.4]])
    for solver in (ExponentialEuler(), EulerMaruyama()):
        for t in (1.0, 0.5):
            r = jnp.asarray(1 - t)
            kernel = solver.kernel(process, r, r + 0.25, noise_level=0.0, prediction="flow")
            np.testing.assert_allclose(kernel.mean(x, u), x - 0.25 * u, rtol=1e-6)


FROM_NOTHING = {
    "ancestral": (ExponentialEuler(), {}),
    "dpm": (DPMSolverPP2M(), {}),
    "edm": (StochasticHeun(), {}),
    "heun": (diffrax.Heun(), {"noise_level": 0.0}),
}


@pytest.mark.parametrize("case", ENDING)
def test_samples_from_nothing_have_the_law_of_the_data(case):
    """Mean and spread of 4000 samples, in units of the spread, at 4.5 standard errors plus what the
    scheme may leave at 40 steps: sixteen tests, false alarm 1.1e-4."""
    process = ENDING[case]
    network, grid = predictions(process)["flow"], grids.uniform(process, 40, end=0.01)

    def draw():
        return {
            title: sample(
                KEY,
                process,
                network,
                (400, 10),
                grid=grid,
                solver=solver,
                prediction="flow",
                **options,
            )
            for title, (solver, options) in FROM_NOTHING.items()
        }

    scale, std = (float(c) for c in process.marginal(0.01))
    spread = np.hypot(scale * VARIANCE**0.5, std)
    for title, x in jax.jit(draw)().items():
        x = np.asarray(x, float)
        assert abs(x.mean() - scale * MEAN) < (0.03 + 4.5 / np.sqrt(4000)) * spread, title
        assert abs(x.std() - spread) < (0.06 + 4.5 / np.sqrt(8000)) * spread, title


KNOWN = jnp.asarray([[0.7, 0.0]] * 4), jnp.asarray([[True, False]] * 4)


@pytest.mark.parametrize(
    "solvers",
    [
        pytest.param(
            [
                PredictorCorrector(),
                diffrax.SEA(),
                Inpainting(ExponentialEuler(), *KNOWN, passes=2),
            ],
            id="steps of Langevin, diffrax, replacement",
        ),
        pytest.param([StochasticHeun(s_churn=2.0)], id="churn", marks=pytest.mark.slow),
    ],
)
def test_other_solvers_read_the_score_of_a_prediction(solvers):
    """The same samples on the same noise."""
    process, shape = VP(0.1, 5.0), (4, 2)
    functions: dict[Prediction, Any] = {"score": score_of(process)}
    functions["flow"] = predictions(process)["flow"]

    def draw(prediction: Prediction):
        return [
            sample(
                KEY,
                process,
                functions[prediction],
                shape,
                steps=4,
                solver=solver,
                prediction=prediction,
            )
            for solver in solvers
        ]

    for one, other in zip(*jax.jit(lambda: [draw("score"), draw("flow")])(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "process"),
    [
        pytest.param("flow", ENDING["rectified flow"]),
        pytest.param("v", ENDING["vp, zero snr"]),
        pytest.param("data", KINDS["vp"], marks=pytest.mark.slow),
    ],
)
def test_likelihoods_do_not_depend_on_what_is_predicted(name, process):
    """And are those of the data, also where the prior is reached exactly."""
    x = jnp.asarray([[1.0, 1.4], [2.0, 0.1]])
    exact = -((x - MEAN) ** 2) / (2 * VARIANCE) - 0.5 * np.log(2 * np.pi * VARIANCE)
    network, settings = predictions(process)[name], Settings(tolerance=1e-6)
    found = log_likelihood(process, network, x, prediction=name, settings=settings)
    assert found.ok.all()
    # Of the data, known to the last digit near t = 0, the noise is read with few of them.
    allowed = 3e-2 if name == "data" else 5e-3
    np.testing.assert_allclose(found.log_prob, exact.sum(axis=1), atol=allowed)


def test_the_adaptive_flow_starts_at_the_horizon_itself():
    """Where the flow is x - m, so that the end is the image of the start under the exact flow."""
    process = RectifiedFlow()
    found = sample_adaptive(
        KEY, process, predictions(process)["flow"], (3, 2), prediction="flow", end=1e-3
    )
    x_0 = jax.random.normal(jax.random.split(KEY)[0], (3, 2))
    scale, std = 1 - 1e-3, np.hypot((1 - 1e-3) * VARIANCE**0.5, 1e-3)
    np.testing.assert_allclose(found.states, scale * MEAN + std * x_0, rtol=1e-4, atol=1e-4)


def test_refusals_where_nothing_is_left(unchecked):
    process, x = ENDING["vp, zero snr"], (2, 1)
    for name in ("score", "noise"):
        with pytest.raises(ValueError, match=rf"prediction: received '{name}'; .*zero SNR.* later"):
            sample(KEY, process, lambda t, x: -x, x, prediction=name)
    late = grids.uniform(process, 4)[1:]
    assert np.isfinite(sample(KEY, process, lambda t, x: -x, x, grid=late)).all()
    for solver in (EulerMaruyama(), diffrax.ShARK()):
        with pytest.raises(
            ValueError,
            match=r"solver: .* take ExponentialEuler\(\), EulerMaruyama\(clamped=True\) or",
        ):
            sample(KEY, RectifiedFlow(), lambda t, x: -x, x, solver=solver, prediction="flow")
    sample(
        KEY,
        RectifiedFlow(),
        lambda t, x: -x,
        x,
        steps=2,
        solver=EulerMaruyama(),
        prediction="flow",
        noise_level=0.0,
    )
    with pytest.raises(ValueError, match=r"prediction: received 'u'; .* give score\|noise\|data"):
        sample(KEY, process, lambda t, x: -x, x, prediction="u")  # pyright: ignore[reportArgumentType]
