"""scheduler_config.json, against the steps of diffusers' own schedulers.

The stored paths run from the same start on the same noise, with a fixed function of the time shown
and of the state in place of a network. Where PyTorch and diffusers are, they are made anew.
"""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._errors import RunWarning
from ctrl_jax.pretrained.diffusers.scheduler import CLASSES, read_scheduler
from ctrl_jax.processes import RectifiedFlow
from ctrl_jax.solvers import ExponentialEuler, Kernel, sample, simulate
from tests.oracles import schedulers as oracle

STORED = json.loads(oracle.STORED.read_text())["values"]
# y = x / a begins at 4096 there, of which the peer's float32 holds three digits after the point.
COARSE = {"euler, zero, v": 5e-5}


def read(name):
    """The scheduler of a case with the solver of its eta, its grid and the times shown."""
    record, solver, steps, eta = oracle.CASES[name]
    scheduler = read_scheduler(record, solver=solver)
    grid, taken = scheduler.grid(steps), scheduler.solver
    if isinstance(taken, ExponentialEuler):
        taken = ExponentialEuler(eta)
    return scheduler, taken, grid


def steps_of(name):
    """The coefficients of all steps, or the states where steps have no such."""
    scheduler, solver, grid = read(name)
    if isinstance(solver, ExponentialEuler):
        prediction = scheduler.prediction
        return solver.kernel(scheduler.process, grid[:-1], grid[1:], prediction=prediction)
    draws = jnp.asarray(oracle.draws(oracle.CASES[name][2]))
    sde = scheduler.process.reverse(
        lambda t, x: oracle.network(scheduler.shown(t), x, jnp.tanh),
        prediction=scheduler.prediction,
    )
    found = simulate(
        jax.random.key(0), sde, draws[0], grid, solver=solver, save="path", remat=False
    )
    return found.states[:, 0]


def follow(name, kernel):
    """The states of steps of given coefficients."""
    draws = oracle.draws(oracle.CASES[name][2])
    x = [read(name)[0].start_std * draws[0, 0]]
    for k, noise, state, action, std in zip(STORED[name][0], draws[1:, 0], *kernel, strict=False):
        x.append(state * x[-1] + action * oracle.network(k, x[-1], np.tanh) + std * noise)
    return np.asarray(x)


def test_states_are_the_peers():
    found = jax.jit(lambda: {name: steps_of(name) for name in oracle.CASES})()
    for name, states in found.items():
        states = follow(name, states) if isinstance(states, Kernel) else np.asarray(states)
        expected = np.asarray(STORED[name][1])
        # A last step from discrete step 0 to itself is left out: it goes nowhere.
        left = states.shape[0]
        np.testing.assert_allclose(expected[left:], expected[left - 1 : -1], rtol=1e-6)
        error = np.abs(states - expected[:left]).max() / np.abs(expected).max()
        assert error < COARSE.get(name, 1e-5), (name, error)


def test_times_shown_are_the_peers():
    for name in oracle.CASES:
        scheduler, _, grid = read(name)
        t = scheduler.process.forward_time(grid, scheduler.prediction)[:-1]
        shown, expected = np.asarray(scheduler.shown(t), float), np.asarray(STORED[name][0])
        whole = (expected == expected.round()).all() and "flow" not in name
        # Two digits of a float32 near 1000; Karras' hang on the peer's float32 of the ratios.
        allowed = 0.0 if whole else 2e-3 if "karras" in name else 1.3e-4
        np.testing.assert_allclose(shown, expected[: len(shown)], rtol=0, atol=allowed)
        assert len(grid) - 1 in (oracle.CASES[name][2], oracle.CASES[name][2] - 1)


def test_stored_paths_are_the_installed_peers():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    for name, case in oracle.CASES.items():
        for a, b in zip(oracle.path(*case), STORED[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


def test_stable_diffusions_own_file_says_once_that_its_steps_are_ddims():
    with pytest.warns(RunWarning, match="PNDM's steps are not implemented, DDIM's are taken"):
        scheduler = read_scheduler(oracle.SD)
    assert scheduler.solver == ExponentialEuler(0.0) and scheduler.prediction == "noise"
    # Its default is not to go to alpha one, DDIM's is; the file decides where it says so.
    assert float(scheduler.process.horizon - scheduler.grid(4)[-1]) == 1.0
    absent = {k: v for k, v in oracle.SD.items() if k not in ("set_alpha_to_one", "clip_sample")}
    with pytest.warns(RunWarning):
        assert float(1000.0 - read_scheduler(absent).grid(4)[-1]) == 1.0
    with pytest.raises(ValueError, match=r"clip_sample: received None; .* true or absent"):
        read_scheduler(absent, solver="ddim")


def test_flows_take_other_steps_on_the_same_times():
    record = {**oracle.FLOW, "shift": 3.0}
    times = read_scheduler(record).grid(6)
    for solver in ("euler", "euler_ancestral", "dpmpp"):
        scheduler = read_scheduler(record, solver=solver)
        assert isinstance(scheduler.process, RectifiedFlow) and scheduler.prediction == "flow"
        np.testing.assert_array_equal(scheduler.grid(6), times)
        x = sample(
            jax.random.key(0),
            scheduler.process,
            lambda t, x: x,
            (2, 1),
            grid=times,
            solver=scheduler.solver,
            prediction=scheduler.prediction,
        )
        assert np.isfinite(x).all()


REFUSED = {
    r"_class_name: received 'HeunDiscreteScheduler'; .* give the file of one of DDIMScheduler": {
        "_class_name": "HeunDiscreteScheduler"
    },
    "_class_name: received None": {},
    r"clip_sample: received True; DDIMScheduler clips .* or take another solver": {
        **oracle.DDIM,
        "clip_sample": True,
    },
    "thresholding: received True; only False": {**oracle.DDIM, "thresholding": True},
    "beta_schedule: received 'sigmoid'; it must be linear, scaled_linear": {
        **oracle.DDIM,
        "beta_schedule": "sigmoid",
    },
    "prediction_type: received 'flow_prediction'; it must be one of epsilon": {
        **oracle.DDIM,
        "prediction_type": "flow_prediction",
    },
    "timestep_spacing: received 'log'; it must be": {**oracle.DDIM, "timestep_spacing": "log"},
    "a_new_one: received 3; this entry is not understood": {**oracle.DDIM, "a_new_one": 3},
    "variance_type: received 'fixed_large'; only 'fixed_small'": {
        **oracle.DDPM,
        "variance_type": "fixed_large",
    },
    "sigma_max: received 14.6; only null": {
        "_class_name": "EulerDiscreteScheduler",
        "use_karras_sigmas": True,
        "sigma_max": 14.6,
    },
    "trained_betas: received 25; it must list as many as num_train_timesteps, 1000": {
        **oracle.DDIM,
        "trained_betas": oracle.BETAS["trained_betas"],
    },
    "final_sigmas_type: received 'none'; it must be zero or sigma_min": {
        "_class_name": "EulerDiscreteScheduler",
        "final_sigmas_type": "none",
    },
    "solver_order: received 3; only 2": {
        "_class_name": "DPMSolverMultistepScheduler",
        "solver_order": 3,
    },
    "algorithm_type: received 'sde-dpmsolver": {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "sde-dpmsolver++",
    },
    "lambda_min_clipped: received -5.1; only minus infinity": {
        "_class_name": "DPMSolverMultistepScheduler",
        "lambda_min_clipped": -5.1,
    },
    "use_dynamic_shifting: received True; only False": {
        **oracle.FLOW,
        "use_dynamic_shifting": True,
    },
    "prediction_type: received 'epsilon'; with use_flow_sigmas only": {
        "_class_name": "DPMSolverMultistepScheduler",
        "use_flow_sigmas": True,
    },
    "shift_terminal: received 0.02; only null": {**oracle.FLOW, "shift_terminal": 0.02},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_understood_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        read_scheduler(REFUSED[message])


def test_what_another_scheduler_would_not_read_is_read_over():
    """As there: Euler's method does not clip, DDIM knows no sigmas of Karras."""
    read_scheduler(
        {**oracle.DDIM, "clip_sample": True, "variance_type": "fixed_large"}, solver="euler"
    )
    read_scheduler({**oracle.DDIM, "use_karras_sigmas": True, "lambda_min_clipped": -5.1})
    read_scheduler(
        {**oracle.FLOW, "beta_start": 0.1, "base_shift": 0.5, "time_shift_type": "exponential"}
    )
    read_scheduler(json.loads('{"lambda_min_clipped": -Infinity}') | oracle.DDIM, solver="dpmpp")


@pytest.mark.parametrize(
    ("spacing", "steps", "differs"),
    [
        ("linspace", 5, True),
        ("trailing", 30, True),
        ("trailing", 25, False),
        ("leading", 30, False),
    ],
)
def test_where_ddims_steps_end_elsewhere_it_is_said(spacing, steps, differs):
    scheduler = read_scheduler({**oracle.DDIM, "timestep_spacing": spacing})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        scheduler.grid(steps)
    assert [str(w.message)[:41] for w in said] == (
        ["scheduler_config.json: diffusers' DDIM st"] * differs
    )


def test_other_refusals():
    with pytest.raises(ValueError, match="steps_offset: received -1; it must not be below 0"):
        read_scheduler({**oracle.DDIM, "steps_offset": -1})
    assert "DDIMScheduler" in CLASSES
    with pytest.raises(ValueError, match=r"solver: received 'heun'; .* give ddim\|ddpm"):
        read_scheduler(oracle.DDIM, solver="heun")
    with pytest.raises(
        ValueError, match=r"solver: received 'ddim'; .* flow; give euler\|euler_anc"
    ):
        read_scheduler(oracle.FLOW, solver="ddim")
    scheduler = read_scheduler({**oracle.DDIM, "steps_offset": 1})
    for steps in (1000, 1001):
        with pytest.raises(ValueError, match=rf"steps: received {steps}; .*; give fewer"):
            scheduler.grid(steps)
    ending = read_scheduler({**oracle.DDIM, **oracle.ZERO})
    with pytest.raises(ValueError, match=r"prediction: received 'noise'; .*zero SNR"):
        sample(
            jax.random.key(0),
            ending.process,
            lambda t, x: x,
            (1, 1),
            grid=ending.grid(4),
            prediction=ending.prediction,
        )


def test_steps_with_noise_of_a_flow_go_to_the_end_at_once():
    """From the least time but one; of as many steps, and of other schedulers nothing changes."""
    flow = read_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    times, all_times = flow.without_least().times(8), flow.times(9)
    np.testing.assert_array_equal(times, [*all_times[:-2], 0.0])
    assert flow.without_least().grid(8).shape == (9,)
    discrete = read_scheduler({"_class_name": "DDIMScheduler", "clip_sample": False})
    assert discrete.without_least() is discrete
