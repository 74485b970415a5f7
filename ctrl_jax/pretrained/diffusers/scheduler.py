r"""scheduler_config.json as a process, what the network predicts, and the steps of a sampler.

Discrete schedulers are the variance-preserving process of their betas with a unit of time for each
step, so that index k is the time k + 1, which float32 holds exactly, and the last state, without
noise, is at 0. In its states all of their steps are DDIM's: k-diffusion's y = x / a with
n = std / a takes Euler's steps

    y' = y + (n' - n) e,   which is   x' = a' x_0 + std' e,                                   (1)

and its ancestral steps are those of ``eta = 1``. DPM-Solver++ is the same in both. Schedulers of
flows are a `RectifiedFlow`, whose times are made denser where the noise is by a shift s,

    t <- s t / (1 + (s - 1) t).                                                               (2)

Karras' ratios (``use_karras_sigmas``) are those of `grids.edm` between the first and the last; the
network is shown the index where the logarithm of the ratio has it, by DPM-Solver++ the nearest
whole one.
DPM-Solver++ of flows (``use_flow_sigmas``) starts just before the horizon, and shows whole numbers.

A file of one scheduler may be read for the solver of another: then an entry means what it means to
that one, and what is absent is its default. Where `timesteps` do not lie a whole number of times
apart, DDIM as published steps from k to k - N // steps, and calls that state the one of the next of
its timesteps; here each step ends at the next of them, and the last at the end. That differs for
"linspace", and for "trailing" with steps that do not divide N, which is said.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_choice, check_count, refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.pretrained.record_entries import Entries
from ctrl_jax.processes import VP, LinearProcess, Prediction, RectifiedFlow, TabulatedSchedule
from ctrl_jax.solvers import DPMSolverPP2M, ExponentialEuler

FILE = "scheduler_config.json"
LEAST_SIGNAL = 2.0**-24  # k-diffusion's at zero terminal SNR, where its ratio would have no bound

PREDICTIONS: dict[str, Prediction] = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}


class Kind(NamedTuple):
    """A scheduler of diffusers.

    Fields:
        solver: the steps that it takes.
        spacing: its default of ``timestep_spacing``.
        between: what it has straight lines of between the discrete steps.
        discrete: whether it is one of betas alone: these clip the data unless they are told not to,
            and leave nothing of them at zero terminal SNR.
        entries: names and values of its own entries that are fixed here.
    """

    solver: diffrax.AbstractSolver
    spacing: str
    between: Any = "integral"
    discrete: bool = False
    entries: Mapping[str, Any] = MappingProxyType({})


EULER = {
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
MULTISTEP = {
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "thresholding": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "final_sigmas_type": "zero",
}
FLOW = {
    "use_dynamic_shifting": False,
    "invert_sigmas": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "stochastic_sampling": False,
}

KINDS = {
    "DDIMScheduler": Kind(
        ExponentialEuler(0.0), "leading", discrete=True, entries={"thresholding": False}
    ),
    "DDPMScheduler": Kind(
        ExponentialEuler(1.0), "leading", discrete=True, entries={"thresholding": False}
    ),
    "EulerDiscreteScheduler": Kind(ExponentialEuler(0.0), "linspace", "ratio", entries=EULER),
    "EulerAncestralDiscreteScheduler": Kind(ExponentialEuler(1.0), "linspace", "ratio"),
    "DPMSolverMultistepScheduler": Kind(DPMSolverPP2M(), "linspace", entries=MULTISTEP),
}
MULTISTEP_CLASS = "DPMSolverMultistepScheduler"
OF_KARRAS = ("EulerDiscreteScheduler", MULTISTEP_CLASS)
FLOWS = "FlowMatchEulerDiscreteScheduler"
SUBSTITUTED = "PNDMScheduler"
CLASSES = (*KINDS, FLOWS, SUBSTITUTED)

SOLVERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "ancestral": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpmpp": "DPMSolverMultistepScheduler",
}
"""The scheduler of diffusers whose steps a solver of this name takes."""

FLOW_SOLVERS: dict[str, diffrax.AbstractSolver] = {
    "euler": ExponentialEuler(0.0),
    "euler_ancestral": ExponentialEuler(1.0),
    "dpmpp": DPMSolverPP2M(),
}

# Entries of some of these classes: where another's steps are taken, they are read over, as there.
OF_OTHERS = {
    "_class_name",
    "_diffusers_version",
    "base_image_seq_len",
    "base_shift",
    "clip_sample",
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "lower_order_final",
    "max_image_seq_len",
    "max_shift",
    "sample_max_value",
    "set_alpha_to_one",
    "shift",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "steps_offset",
    "thresholding",
    "time_shift_type",
    "timestep_spacing",
    "use_dynamic_shifting",
    "use_flow_sigmas",
    *EULER,
    *MULTISTEP,
    *FLOW,
}

OF_BETAS = {
    "beta_end",
    "beta_schedule",
    "beta_start",
    "lambda_min_clipped",
    "prediction_type",
    "rescale_betas_zero_snr",
    "trained_betas",
    "variance_type",
}


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """A scheduler_config.json, read for one solver.

    Args:
        name: the scheduler of diffusers whose steps are taken.
        process: the forward process.
        prediction: what the network predicts.
        solver: the steps; any other of this library's will do.
        start_std: standard deviation of the start.
        shown: ``shown(t)``, the time that the network is given at forward time t: the index of the
            discrete step, which may be a fraction, or 1000 t of a flow.
        times: ``times(steps)``, decreasing forward times, steps + 1 of them or one less.
    """

    name: str
    process: LinearProcess
    prediction: Prediction
    solver: diffrax.AbstractSolver
    start_std: float
    shown: Callable[[Float[Array, "*t"]], Float[Array, "*t"]]
    times: Callable[[int], np.ndarray]

    def without_least(self) -> "Scheduler":
        """Return the same for steps with noise: a flow goes to its end in one step less.

        Flows end at a time near 1/1000 and then at 0. A step with the process's noise that ends so
        near to the data has next to none, and whatever a policy changes there counts a million
        times in ratios and divergences; without that time the last step has no noise and no ratio.
        """
        if self.name != FLOWS:
            return self
        return dataclasses.replace(
            self, times=lambda steps: np.delete(np.asarray(self.times(steps + 1)), -2)
        )

    def grid(self, steps: int) -> Float[Array, " points"]:
        """Return the reverse times of a number of steps, as `solvers.sample` takes them.

        Args:
            steps: number of steps, each one evaluation of the network. A last step that would go
                nowhere, from discrete step 0 to itself, is left out.

        Warns:
            RunWarning: the steps of diffusers would end elsewhere.

        Raises:
            ValueError: it is no count, or there are not so many times.
        """
        check_count("steps", steps)
        times = self.times(steps)
        horizon = float(self.process.horizon)
        if not (np.diff(times) < 0).all() or times[0] > horizon:
            rule = f"{self.name} has no such number of times, each before the last"
            raise refuse("steps", steps, rule, "give fewer")
        return jnp.asarray(horizon - times, jax.dtypes.canonicalize_dtype(np.float64))


def read_scheduler(record: Mapping[str, Any], *, solver: str | None = None) -> Scheduler:
    """Return what a scheduler_config.json says.

    Args:
        record: the content of the file.
        solver: "ddim", "ddpm" or "ancestral", "euler", "euler_ancestral" or "dpmpp": as if the file
            were given to that scheduler of diffusers; by default the one that it names. Flows have
            "euler", "euler_ancestral" and "dpmpp", on the times of the file.

    Raises:
        ValueError: the class or the solver is not known, or an entry is wrong or could change the
            result and is not understood.

    Warns:
        RunWarning: PNDM is named, whose steps are not implemented; DDIM's are taken.
    """
    entries = Entries(record, FILE)
    of_class = entries.get("_class_name", str)
    if of_class not in CLASSES:
        repair = f"give the file of one of {', '.join(CLASSES)}"
        raise entries.refuse("_class_name", of_class, "this scheduler is not implemented", repair)
    if of_class == FLOWS:
        return _flow(entries, solver)
    if solver is not None:
        check_choice("solver", solver, tuple(SOLVERS))
    name = of_class if solver is None else SOLVERS[solver]
    if name == MULTISTEP_CLASS and entries.get("use_flow_sigmas", bool, False):
        return _flow_multistep(entries)
    if solver is not None:
        return _discrete(entries, name)
    if of_class == SUBSTITUTED:
        note = f"{FILE}: PNDM's steps are not implemented, DDIM's are taken"
        warnings.warn(note, RunWarning, stacklevel=2)
        own = {**record, "clip_sample": False, "thresholding": False}
        return _discrete(Entries(own, FILE, {"set_alpha_to_one": False}), "DDIMScheduler")
    return _discrete(entries, of_class)


def _discrete(entries: Entries, name: str) -> Scheduler:
    kind = KINDS[name]
    for key, value in kind.entries.items():
        entries.expect(key, value)
    if kind.discrete and entries.get("clip_sample", bool, True):
        repair = 'set "clip_sample": false, or take another solver'
        rule = f"{name} clips the data where this is true or absent, which is not implemented"
        raise entries.refuse("clip_sample", entries.record.get("clip_sample"), rule, repair)
    _check_variance(entries, name)
    _check_clipped_lambda(entries, name)
    karras = name in OF_KARRAS and entries.get("use_karras_sigmas", bool, False)
    schedule = _schedule(entries, kind, "log_ratio" if karras else kind.between)
    prediction = entries.get("prediction_type", str, "epsilon")
    if prediction not in PREDICTIONS:
        rule = f"it must be one of {', '.join(PREDICTIONS)}"
        raise entries.refuse("prediction_type", prediction, rule)
    spacing = entries.get("timestep_spacing", str, kind.spacing)
    if spacing not in ("leading", "trailing", "linspace"):
        rule = "it must be leading, trailing or linspace"
        raise entries.refuse("timestep_spacing", spacing, rule)
    offset = entries.get("steps_offset", int, 0)
    if offset < 0:
        raise entries.refuse("steps_offset", offset, "it must not be below 0", "set it to 0 or 1")
    last = _last_time(entries, name)
    for key in ("sigma_min", "sigma_max") if karras else ():
        if entries.get(key, float, None) is not None:
            rule = "only null is implemented beside use_karras_sigmas"
            raise entries.refuse(key, entries.record[key], rule)
    entries.finish(OF_OTHERS)
    process, number = VP(schedule=schedule), schedule.steps

    def times(steps: int) -> np.ndarray:
        made = _indices(name, spacing, number, steps, offset)
        if name == "DDIMScheduler" and (np.diff(made) != -(number // steps)).any():
            text = (
                f"{FILE}: diffusers' DDIM steps {number // steps} back from timesteps that lie "
                f"otherwise, here each step ends at the next of them: other pictures; with "
                f'"timestep_spacing": "leading" in place of "{spacing}" they are the same'
            )
            warnings.warn(text, RunWarning, stacklevel=3)
        made = (_karras(schedule, name, made) if karras else made) + 1.0
        return made if made[-1] == last else np.append(made, last)

    def rounded(t):
        return jnp.round(schedule.index_of(t))

    of_ratio = kind.between == "ratio" and spacing != "leading"
    std = math.sqrt(-math.expm1(-schedule.integrals[-1])) if of_ratio else 1.0
    whole = karras and name == MULTISTEP_CLASS
    whole = whole and entries.record.get("beta_schedule") != "squaredcos_cap_v2"
    shown = rounded if whole else schedule.index_of
    return Scheduler(name, process, PREDICTIONS[prediction], kind.solver, std, shown, times)


def _karras(schedule: TabulatedSchedule, name: str, indices: np.ndarray) -> np.ndarray:
    """Return the indices at which the ratios are those of Karras et al. 2022, eq. 5."""
    table = np.log(np.expm1(schedule.integrals[1:])) / 2
    first, final = table[-1], table[0]
    if name != MULTISTEP_CLASS:
        ratios = np.interp(indices[[0, -1]], np.arange(table.size), np.exp(table))
        first, final = np.log(ratios)
    roots = np.linspace(math.exp(first / 7), math.exp(final / 7), len(indices))
    return np.interp(7 * np.log(roots), table, np.arange(table.size))


def _indices(name: str, spacing: str, number: int, steps: int, offset: int) -> np.ndarray:
    """Return the decreasing discrete steps that a scheduler shows its network."""
    # DPM-Solver's are one more, whose last is left out.
    spaced = steps + 1 if name == MULTISTEP_CLASS else steps
    if spacing == "linspace":
        found = np.linspace(0, number - 1, spaced)
        found = found if KINDS[name].between == "ratio" else found.round()
    elif spacing == "leading":
        found = np.arange(spaced) * (number // spaced) + float(offset)
    else:
        return np.round(np.arange(number, 0, -number / steps))[:steps] - 1
    return found[::-1][:steps]


def _schedule(entries: Entries, kind: Kind, between: Any) -> TabulatedSchedule:
    number = entries.count("num_train_timesteps", 1000, most=10**6)
    of_betas = entries.get("beta_schedule", str, "linear")
    start = entries.positive("beta_start", 1e-4)
    end = entries.positive("beta_end", 0.02)
    if entries.get("trained_betas", list, None) is not None:
        betas = entries.numbers("trained_betas")
        if len(betas) != number:
            rule = f"it must list as many as num_train_timesteps, {number}"
            raise entries.refuse("trained_betas", len(betas), rule)
        schedule = TabulatedSchedule(betas)
    elif of_betas == "linear":
        schedule = TabulatedSchedule.linear(start, end, number)
    elif of_betas == "scaled_linear":
        schedule = TabulatedSchedule.scaled_linear(start, end, number)
    elif of_betas == "squaredcos_cap_v2":
        schedule = TabulatedSchedule.squared_cosine(number)
    else:
        rule = "it must be linear, scaled_linear or squaredcos_cap_v2"
        raise entries.refuse("beta_schedule", of_betas, rule)
    if entries.get("rescale_betas_zero_snr", bool, False):
        schedule = schedule.of_zero_terminal_snr()
    signal = np.exp(-np.asarray(schedule.integrals))
    if schedule.vanishes and not kind.discrete:
        # The steps just before the last may have less: they are visited by none, and must not rise.
        falling = 1 + 1e-3 * np.arange(signal.size)[::-1]
        signal = np.maximum(signal, LEAST_SIGNAL * falling)
    betas = 1 - signal[1:] / signal[:-1]
    return TabulatedSchedule(betas, horizon=float(schedule.steps), between=between)


def _last_time(entries: Entries, name: str) -> float:
    """Return where the last step ends: at 0, or at the time of discrete step 0."""
    if name == "DDIMScheduler":
        return 0.0 if entries.get("set_alpha_to_one", bool, True) else 1.0
    if name != "EulerDiscreteScheduler":
        return 0.0
    final = entries.get("final_sigmas_type", str, "zero")
    if final not in ("zero", "sigma_min"):
        raise entries.refuse("final_sigmas_type", final, "it must be zero or sigma_min")
    return 0.0 if final == "zero" else 1.0


def _check_variance(entries: Entries, name: str) -> None:
    """Refuse variances that are learned or large, of schedulers that would take them."""
    found = entries.get("variance_type", str, "fixed_small")
    large = name == "DDPMScheduler" and found.startswith("fixed_large")
    if large or found.startswith("learned"):
        raise entries.refuse("variance_type", found, "only 'fixed_small' is implemented")


def _check_clipped_lambda(entries: Entries, name: str) -> None:
    entries.asked.add("lambda_min_clipped")
    found = entries.record.get("lambda_min_clipped")
    if name == MULTISTEP_CLASS and found not in (None, -math.inf, "-inf"):
        rule = "only minus infinity is implemented"
        raise entries.refuse("lambda_min_clipped", found, rule, "take the entry out")


def _flow(entries: Entries, solver: str | None) -> Scheduler:
    if solver is not None and solver not in FLOW_SOLVERS:
        rule = f"{FLOWS} is of a flow"
        raise refuse("solver", solver, rule, f"give {'|'.join(FLOW_SOLVERS)}")
    number = entries.count("num_train_timesteps", 1000, most=10**6)
    shift = entries.positive("shift", 1.0)
    for key, value in FLOW.items():
        entries.expect(key, value)
    if entries.get("shift_terminal", float, 0.0) != 0:
        found = entries.record["shift_terminal"]
        raise entries.refuse("shift_terminal", found, "only null is implemented")
    entries.finish(OF_OTHERS | OF_BETAS)

    def times(steps: int) -> np.ndarray:
        # The least time has been shifted before.
        least = _shifted(1 / number, shift)
        return np.append(_shifted(np.linspace(1.0, least, steps), shift), 0.0)

    taken = FLOW_SOLVERS[solver or "euler"]
    return Scheduler(FLOWS, RectifiedFlow(), "flow", taken, 1.0, lambda t: number * t, times)


def _flow_multistep(entries: Entries) -> Scheduler:
    for key, value in MULTISTEP.items():
        entries.expect(key, value)
    entries.expect("use_karras_sigmas", False)
    entries.expect("use_dynamic_shifting", False)
    number = entries.count("num_train_timesteps", 1000, most=10**6)
    shift = entries.positive("flow_shift", 1.0)
    prediction = entries.get("prediction_type", str, "epsilon")
    if prediction != "flow_prediction":
        rule = "with use_flow_sigmas only 'flow_prediction' is implemented"
        raise entries.refuse("prediction_type", prediction, rule)
    entries.finish(OF_OTHERS | OF_BETAS)

    def times(steps: int) -> np.ndarray:
        return _shifted(1 - np.linspace(1 / number, 1.0, steps + 1), shift)

    def shown(t):
        # A whole number may have lost its last digit.
        return jnp.floor(number * t + 1e-3)

    return Scheduler(MULTISTEP_CLASS, RectifiedFlow(), "flow", DPMSolverPP2M(), 1.0, shown, times)


def _shifted(t: Any, shift: float) -> Any:
    """Return times of (2)."""
    return shift * t / (1 + (shift - 1) * t)
