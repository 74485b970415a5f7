"""Pictures of small pipelines as diffusers draws them, from the same latents and the same noise.

`python -m tests.oracles.pipelines > tests/oracles/pipelines.json`, where PyTorch is beside
diffusers 0.42, writes the stored values: the last latents, and every fifth pixel of the pictures.
"""

import contextlib
import json
import runpy
import tempfile
from pathlib import Path

import numpy as np

from tests.oracles.named_weights import load_named

RECORDS = Path(__file__).parents[2] / "ctrl_jax/pretrained/diffusers/small_records.py"
small_records = runpy.run_path(str(RECORDS))  # without JAX beside it
PIPELINES, write_records = small_records["PIPELINES"], small_records["write_records"]

STORED = Path(__file__).with_suffix(".json")
PROMPTS, NEGATIVE = ["a cat", "red dog on a mat with a hat and a bat"], "no car"
GUIDANCE, STEPS = 3.0, 10
# Case: (kind of pipeline, scheduler, its changes, eta).
CASES = {
    "sd1 ddim": ("sd1", "DDIMScheduler", {}, 0.0),
    "sd1 ddim eta 1": ("sd1", "DDIMScheduler", {}, 1.0),
    "sd1 euler": ("sd1", "EulerDiscreteScheduler", {}, 0.0),
    "sd1 dpmpp": ("sd1", "DPMSolverMultistepScheduler", {}, 0.0),
    "sd2 ddim": ("sd2", None, {}, 0.0),
    "sd2 zero ratio": (
        "sd2",
        "DDIMScheduler",
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        0.0,
    ),
    "sdxl euler": ("sdxl", None, {}, 0.0),
    "sdxl no negative": ("sdxl", None, {}, 0.0),
    "sd3 flow": ("sd3", None, {}, 0.0),
    "sd3 without t5": ("sd3", None, {}, 0.0),
}
SOLVERS = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp",
}
SHAPE = (2, 8, 8, 4)
LATENTS = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
NOISE = np.random.default_rng(6).standard_normal((STEPS, *SHAPE)).astype(np.float32)


def negative_of(name):
    """What a case is guided away from."""
    return None if name.endswith("no negative") else NEGATIVE


def write_by_torch(folder, kind):
    """A folder of a kind, its weights those of their names, written by their own libraries."""
    import diffusers
    import transformers

    index, _ = PIPELINES[kind]
    write_records(folder, kind)
    for part, (library, name) in ((k, v) for k, v in index.items() if isinstance(v, list)):
        if name is None or part == "scheduler" or part.startswith("tokenizer"):
            continue
        record = json.loads((folder / part / "config.json").read_text())
        cls = getattr({"diffusers": diffusers, "transformers": transformers}[library], name)
        if library == "diffusers":
            module = cls.from_config(record)
        else:
            module = cls(cls.config_class.from_pretrained(folder / part))
        load_named(module, "text_model." if name == "CLIPTextModel" else "")
        module.save_pretrained(folder / part)
    return folder


def load(folder, name):
    """The pipeline of a case."""
    import diffusers

    kind, scheduler, changes, _ = CASES[name]
    cls = getattr(diffusers, PIPELINES[kind][0]["_class_name"])
    without = {"text_encoder_3": None, "tokenizer_3": None} if "without" in name else {}
    pipe = cls.from_pretrained(folder, **without)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        cls = getattr(diffusers, scheduler)
        pipe.scheduler = cls.from_config(pipe.scheduler.config, **changes)
    return pipe


def draw(pipe, name):
    """Latents and pictures of a case, channels last."""
    import torch

    start = torch.from_numpy(np.moveaxis(LATENTS, -1, 1).copy())
    # Pipelines multiply what they are given by the std of the scheduler's start, without its steps.
    options = {"eta": CASES[name][3]} if CASES[name][3] else {}
    found = []

    def keep(pipe, step, time, tensors):
        found.append(tensors["latents"])
        return {}

    with noise_in_place():
        images = pipe(
            prompt=PROMPTS,
            negative_prompt=None if negative_of(name) is None else [NEGATIVE] * 2,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=16,
            width=16,
            latents=start,
            output_type="np",
            callback_on_step_end=keep,
            **options,
        ).images
    return np.moveaxis(found[-1].numpy(), 1, -1), images


@contextlib.contextmanager
def noise_in_place():
    """`NOISE` in place of what DDIM draws."""
    import torch
    from diffusers.schedulers import scheduling_ddim

    drawn = iter(NOISE)
    usual = scheduling_ddim.randn_tensor
    scheduling_ddim.randn_tensor = lambda *_, **__: torch.from_numpy(
        np.moveaxis(next(drawn), -1, 1).copy()
    )
    try:
        yield
    finally:
        scheduling_ddim.randn_tensor = usual


def values():
    """What is stored of every case."""
    found = {}
    with tempfile.TemporaryDirectory() as root:
        for kind in PIPELINES:
            write_by_torch(Path(root) / kind, kind)
        for name, (kind, *_) in CASES.items():
            latents, images = draw(load(Path(root) / kind, name), name)
            found[name] = {"latents": _rounded(latents), "pixels": _rounded(images[:, ::5, ::5])}
    return found


def _rounded(array):
    return np.round(array.astype(float), 5).reshape(-1).tolist()


if __name__ == "__main__":
    import diffusers
    import torch

    torch.set_num_threads(1)
    body = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(case)}" for name, case in values().items()
    )
    print(f'{{\n "diffusers": "{diffusers.__version__}",\n "values": {{\n{body}\n }}\n}}')
