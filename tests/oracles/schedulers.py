"""Where diffusers' own schedulers go, step by step, on a fixed function in place of a network.

`python -m tests.oracles.schedulers > tests/oracles/schedulers.json`, where PyTorch is beside
diffusers 0.42, writes the stored values.
"""

import json
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_suffix(".json")
SD = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False}
DDPM = {"_class_name": "DDPMScheduler", "clip_sample": False}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
KARRAS = {"use_karras_sigmas": True}
SANA = {
    "_class_name": "DPMSolverMultistepScheduler",
    "flow_shift": 3.0,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
V = {"prediction_type": "v_prediction"}
DATA = {"prediction_type": "sample"}
SQUARED = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 60}
BETAS = {"trained_betas": np.linspace(0.01, 0.2, 25).round(4).tolist(), "num_train_timesteps": 25}

# name: (file, solver as a user types it, steps, eta where it is one's own)
CASES: dict[str, tuple[dict, str | None, int, float]] = {
    "sd, ddim": (SD, "ddim", 6, 0.0),
    "sd, euler": (SD, "euler", 7, 0.0),
    "sd, euler ancestral": (SD, "euler_ancestral", 6, 1.0),
    "sd, dpmpp": (SD, "dpmpp", 7, 0.0),
    "sd, dpmpp, leading": ({**SD, "timestep_spacing": "leading"}, "dpmpp", 16, 0.0),
    "sd, euler, leading": ({**SD, "timestep_spacing": "leading"}, "euler", 5, 0.0),
    "sd, euler, to the least": ({**SD, "final_sigmas_type": "sigma_min"}, "euler", 5, 0.0),
    "ddim, linear": (DDIM, None, 7, 0.0),
    "ddim, not to one": ({**DDIM, "set_alpha_to_one": False}, None, 4, 0.5),
    "ddim, trailing": ({**DDIM, "timestep_spacing": "trailing"}, None, 8, 1.0),
    "ddim, data": ({**DDIM, **DATA, "steps_offset": 2}, None, 5, 0.5),
    "ddim, zero, v": ({**DDIM, **V, **ZERO}, None, 5, 0.0),
    "ddim, zero, v, eta .5": ({**DDIM, **V, **ZERO}, None, 4, 0.5),
    "ddim, zero, noise, leading": ({**DDIM, "rescale_betas_zero_snr": True}, None, 4, 0.0),
    "ddpm, linspace": ({**DDPM, "timestep_spacing": "linspace"}, None, 6, 1.0),
    "ddpm, zero, v": ({**DDPM, **V, **ZERO}, None, 5, 1.0),
    "ddpm, squared cosine": ({**DDPM, **SQUARED}, None, 5, 1.0),
    "euler, v, trailing": ({**SD, **V, "timestep_spacing": "trailing"}, "euler", 6, 0.0),
    "euler, zero, v": ({**SD, **V, **ZERO}, "euler", 5, 0.0),
    "euler ancestral, v": ({**DDIM, **V}, "euler_ancestral", 5, 1.0),
    "dpmpp, squared cosine": ({**DDIM, **SQUARED}, "dpmpp", 6, 0.0),
    "dpmpp, zero, v": ({**DDIM, **V, **ZERO}, "dpmpp", 6, 0.0),
    "dpmpp, betas, data": ({**DDIM, **BETAS, **DATA}, "dpmpp", 5, 0.0),
    "sd, euler, karras": ({**SD, **KARRAS}, "euler", 6, 0.0),
    "sd, dpmpp, karras": ({**SD, **KARRAS}, "dpmpp", 7, 0.0),
    "dpmpp, flow": (SANA, None, 6, 0.0),
    "flow, shift 1": (FLOW, None, 5, 0.0),
    "flow, shift 3": ({**FLOW, "shift": 3.0}, None, 10, 0.0),
}
CLASSES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpmpp": "DPMSolverMultistepScheduler",
}
WIDTH = 3


def draws(steps):
    """A start and the noise of every step, (steps + 1, 1, WIDTH)."""
    return np.random.default_rng(steps).normal(size=(steps + 1, 1, WIDTH)).astype(np.float32)


def network(k, x, tanh):
    """Of the time that a network is shown and of the state."""
    return 0.9 * tanh(x) + 0.2 * tanh(0.01 * k)


def path(record, solver, steps, eta):
    """The times that the network is shown, and all states with variance-preserving scale."""
    import diffusers
    import torch
    from diffusers.schedulers import scheduling_ddpm, scheduling_euler_ancestral_discrete

    name = CLASSES[solver] if solver else record["_class_name"]
    scheduler = getattr(diffusers, name).from_config(record)
    scheduler.set_timesteps(steps)
    noise = [torch.from_numpy(z) for z in draws(steps)]
    x, at = noise[0] * getattr(scheduler, "init_noise_sigma", 1.0), iter(noise[1:])
    for module in (scheduling_ddpm, scheduling_euler_ancestral_discrete):
        module.randn_tensor = lambda *shape, **options: drawn
    sigmas = getattr(scheduler, "sigmas", None) if "Euler" in name and "Flow" not in name else None

    def scaled(x, i):
        return x if sigmas is None else x / (sigmas[i] ** 2 + 1) ** 0.5

    states = [scaled(x, 0)]
    for i, k in enumerate(scheduler.timesteps):
        drawn = next(at)
        seen = scheduler.scale_model_input(x, k) if hasattr(scheduler, "scale_model_input") else x
        predicted = network(k, seen, torch.tanh)
        more = {"eta": eta, "variance_noise": drawn} if name == "DDIMScheduler" else {}
        x = scheduler.step(predicted, k, x, **more).prev_sample
        states.append(scaled(x, i + 1))
    shown = scheduler.timesteps.double().tolist()
    return shown, [state[0].double().tolist() for state in states]


if __name__ == "__main__":
    import diffusers

    rows = []
    for name, case in CASES.items():
        shown, states = path(*case)
        row = [[round(k, 5) for k in shown], np.round(states, 7).tolist()]
        rows.append(f"  {json.dumps(name)}: {json.dumps(row)}")
    body = ",\n".join(rows)
    print(f'{{\n "diffusers": "{diffusers.__version__}",\n "values": {{\n{body}\n }}\n}}')
