"""TRL's DDPOTrainer on our networks: a process of its own, timed over a pipe.

The last trl that has it (0.23.1) needs diffusers 0.39 and transformers 4, so it lives in another
environment: ``--trl-python PYTHON`` names its interpreter. That process gets the shapes of the
weights and the coefficients of the sampler as JSON, then runs one ``trainer.step`` for every line
it reads. The trainer is TRL's own, with its own loss and loop; the pipeline under it is a stand-in
for Stable Diffusion: our network, our sampler, no text. It takes as many Adam steps as we do.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from benchmarks.peers import process


def start(python: str, specification: dict[str, Any]) -> tuple[Callable, Callable]:
    """Start the process; return what runs one epoch in it, and what ends it."""
    ask, close = process.start(python, "benchmarks.peers.trl_ddpo", specification)
    return lambda: ask("step"), close


def main() -> None:
    """Serve epochs until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the trainer prints is not an answer
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        trainer = make_trainer(json.loads(sys.stdin.readline(), object_pairs_hook=_integer_keys))
        answers.write('"done"\n')
        for number, _ in enumerate(sys.stdin):
            trainer.step(0, number)
            answers.write('"done"\n')


def make_trainer(specification: dict[str, Any]):
    """Return TRL's trainer of the specified problem."""
    import torch
    from accelerate import PartialState
    from trl import DDPOConfig, DDPOTrainer
    from trl.models import DDPOStableDiffusionPipeline

    from benchmarks.peers import torch_networks

    network = getattr(torch_networks, specification["network"])
    batch, shape = specification["batch"], tuple(specification["shape"])
    times, state_gain, action_gain, std = (
        torch.tensor(specification[name]) for name in ("times", "state_gain", "action_gain", "std")
    )
    steps = len(std)

    def expand(values):
        return values.reshape(-1, *(1,) * len(shape))

    def log_prob(noise, index):
        terms = -noise.square() / 2 - expand(std[index].log()) - 0.9189385
        return terms.flatten(1).mean(1)  # TRL's is the mean over dimensions

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tree = _random(specification["weights"])
            self.weights = torch.nn.ParameterList(torch_networks.leaves(self.tree))

        def forward(self, x, index, embedding):
            t = times[index].reshape(-1)
            return SimpleNamespace(sample=network(self.tree, t, x) - x)

    class Text(torch.nn.Module):
        def forward(self, ids):
            return (ids[:, :, None].float(),)

    def tokenize(prompts, **options):
        rows = 1 if isinstance(prompts, str) else len(prompts)
        return SimpleNamespace(input_ids=torch.zeros(rows, 1, dtype=torch.long))

    tokenize.model_max_length = 1

    class Pipeline(DDPOStableDiffusionPipeline):
        unet, vae, text_encoder = Network(), torch.nn.Identity(), Text()
        tokenizer = staticmethod(tokenize)
        scheduler = SimpleNamespace(timesteps=torch.arange(steps))
        autocast = contextlib.nullcontext

        def __call__(self, **options):
            with torch.no_grad():
                x = torch.randn(batch, *shape)
                states, log_probs = [x], []
                for i in range(steps):
                    index, noise = torch.tensor([i]), torch.randn_like(x)
                    action = self.unet(x, index, None).sample
                    x = state_gain[i] * x + action_gain[i] * action + std[i] * noise
                    states.append(x)
                    log_probs.append(log_prob(noise, index))
            return SimpleNamespace(images=x, latents=states, log_probs=log_probs)

        def scheduler_step(self, action, index, x, *, eta, prev_sample):
            mean = expand(state_gain[index]) * x + expand(action_gain[index]) * action
            noise = (prev_sample - mean) / expand(std[index])
            return SimpleNamespace(log_probs=log_prob(noise, index))

        def set_progress_bar_config(self, **options):
            pass

        def get_trainable_layers(self):
            return self.unet

    config = DDPOConfig(
        sample_num_steps=steps,
        sample_batch_size=batch,
        sample_num_batches_per_epoch=1,
        train_batch_size=batch,
        train_learning_rate=specification["learning_rate"],
        train_cfg=False,
        mixed_precision="no",
        log_with=None,
    )

    def reward(images, prompts, metadata):
        return -(images - 1).square().flatten(1).mean(1), {}

    PartialState()  # its logger asks for one before it is made
    trainer = DDPOTrainer(config, reward, lambda: ("", {}), Pipeline())
    trainer.accelerator.gradient_accumulation_steps = steps // specification["minibatches"]
    return trainer


def _random(shapes):
    from benchmarks.peers import torch_networks

    if isinstance(shapes, dict):
        return {name: _random(value) for name, value in shapes.items()}
    import numpy as np
    import torch

    array = np.random.default_rng(0).normal(size=shapes, scale=0.05).astype(np.float32)
    tensor: Any = torch_networks.load(array)
    return torch.nn.Parameter(tensor.detach())


def _integer_keys(pairs):
    return {int(key) if key.isdigit() else key: value for key, value in pairs}


if __name__ == "__main__":
    main()
