"""diffusers as a process of its own, timed over a pipe.

It lives in the environment whose interpreter ``--diffusers-python`` names. That process gets a
folder and the arrays of `benchmarks.pipeline`, answers "ready" or what failed, then does its work
once for every line it reads. The work is what one writes there: diffusers' pipeline object for
pictures, its scheduler and network for a step, PEFT's adapters and PyTorch's fused AdamW for a
gradient step; convolutions have channels last, which is PyTorch's fastest form.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import peak_memory
from benchmarks.peers import process
from benchmarks.threads import cores


def start(
    python: str, specification: dict[str, Any], *, module: str = __name__
) -> tuple[Callable[[], Any], Any, Callable]:
    """Start the process and let it work once.

    Args:
        python: interpreter.
        specification: of the benchmark.
        module: that it runs.

    Returns:
        What does the work once, the facts about the first time, and what ends the process.

    Raises:
        RuntimeError: it cannot do the work.
    """
    ask, close = process.start(python, module, specification)
    facts = ask("first")
    if "error" in facts:
        close()
        raise RuntimeError(facts["error"])
    return lambda: ask("again"), facts, close


def main(kind: "type[Side] | None" = None) -> None:
    """Work until the pipe closes; `kind` is the class of the contender, `Side` by default."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    specification = json.loads(sys.stdin.readline())
    answers.write('"ready"\n')
    sys.stdin.readline()
    try:
        side = (kind or Side)(specification)
        facts = side.first()
    except Exception as error:  # such as no C++ compiler for torch.compile
        lines = str(error).strip().splitlines() or [""]
        answers.write(json.dumps({"error": f"{type(error).__name__}: {lines[0]}"}) + "\n")
        return
    answers.write(json.dumps(facts) + "\n")
    while sys.stdin.readline():
        side.run()
        answers.write("1\n")


class Side:
    """One contender.

    Args:
        given: the specification of `benchmarks.pipeline`.
    """

    def __init__(self, given: dict[str, Any]):
        import numpy as np
        import torch
        from diffusers import DDIMScheduler, DiffusionPipeline

        torch.set_num_threads(cores())
        self.torch, self.given, self.device = torch, given, given["device"]
        self.dtype = getattr(torch, given["dtype"])
        self.pipe: Any = DiffusionPipeline.from_pretrained(given["folder"], torch_dtype=self.dtype)
        self.pipe.to(self.device).set_progress_bar_config(disable=True)
        self.flow = hasattr(self.pipe, "transformer")
        self.name = "transformer" if self.flow else "unet"
        if not self.flow:
            self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
            self.network.to(memory_format=torch.channels_last)
        self.pipe.vae.to(memory_format=torch.channels_last)
        self.arrays = {
            name: torch.tensor(array, device=self.device, dtype=self.dtype)
            for name, array in np.load(given["arrays"]).items()
        }
        work = getattr(self, given["work"])
        self.work: Callable[[], Any] = work()

    @property
    def network(self):
        return getattr(self.pipe, self.name)

    def first(self) -> dict[str, Any]:
        """Work for the first time, keep the outcome, and measure memory the second time."""
        import numpy as np

        begin = time.perf_counter()
        outcome = [self.run()]
        first = time.perf_counter() - begin
        before = self._start_memory()
        begin = time.perf_counter()
        outcome.append(self.run())
        second = time.perf_counter() - begin
        memory = self._peak_memory() - before
        kept = [np.asarray(part.detach().float().cpu()) for part in outcome]
        np.save(self.given["outcome"], np.stack(kept))
        names = ("torch", "diffusers")
        return {
            "compile_seconds": first - second if self.given["compiled"] else None,
            "memory": memory,
            "versions": {name: sys.modules[name].__version__ for name in names},
        }

    def run(self) -> Any:
        """Do the work once and return the outcome when it is there."""
        outcome = self.work()
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        return outcome

    def step(self) -> Callable[[], Any]:
        """One guided step of the scheduler, the first of some."""
        torch, scheduler, x = self.torch, self.pipe.scheduler, self.arrays["x"]
        texts = [torch.cat([self.arrays[f"null_{i}"], self.arrays[f"text_{i}"]]) for i in (0, 1)]
        predict = self._compiled(self.network)

        def work():
            scheduler.set_timesteps(self.given["steps"], device=self.device)
            t = scheduler.timesteps[0]
            with torch.inference_mode():
                without, given = self._ask(predict, torch.cat([x, x]), t, texts).chunk(2)
                guided = without + self.given["guidance"] * (given - without)
                return scheduler.step(guided, t, x, return_dict=False)[0]

        return work

    def picture(self) -> Callable[[], Any]:
        """Whole pictures by diffusers' pipeline."""
        setattr(self.pipe, self.name, self._compiled(self.network))
        self.pipe.vae.decode = self._compiled(self.pipe.vae.decode)
        texts = {"prompt_embeds": "text_0", "negative_prompt_embeds": "null_0"}
        if self.flow:
            texts |= {"pooled_prompt_embeds": "text_1", "negative_pooled_prompt_embeds": "null_1"}

        def work():
            (pictures,) = self.pipe(
                num_inference_steps=self.given["steps"],
                guidance_scale=self.given["guidance"],
                latents=self.arrays["x"],
                output_type="pt",
                return_dict=False,
                **{name: self.arrays[key] for name, key in texts.items()},
            )[:1]
            return pictures

        return work

    def lora(self) -> Callable[[], Any]:
        """One step of AdamW on adapters, by the error of the prediction."""
        torch, arrays = self.torch, self.arrays
        _, adam, cast = self.adapters()
        t = torch.tensor(self.given["timestep"], device=self.device)
        predict = self._compiled(self.network)
        texts = [arrays["text_0"], arrays["text_1"]]

        def work():
            with cast:
                predicted = self._ask(predict, arrays["x_t"], t, texts)
            loss = (predicted - arrays["target"]).float().square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            return loss

        return work

    def adapters(self) -> tuple[list[Any], Any, Any]:
        """Return the adapters in float32, alone with a gradient, AdamW on them, and autocast."""
        torch = self.torch
        self.pipe.load_lora_weights(self.given["lora"])
        self.network.requires_grad_(False)
        found = [p for name, p in self.network.named_parameters() if "lora_" in name]
        for adapter in found:
            adapter.data = adapter.data.float()
            adapter.requires_grad_()
        rates = {"lr": self.given["learning_rate"], "weight_decay": self.given["weight_decay"]}
        half = self.dtype != torch.float32
        cast = torch.autocast(self.device, self.dtype) if half else contextlib.nullcontext()
        return found, torch.optim.AdamW(found, fused=True, **rates), cast

    def _ask(self, predict: Callable, x: Any, t: Any, texts: list[Any]) -> Any:
        pooled = {"pooled_projections": texts[1]} if self.flow else {}
        time_of = t.expand(x.shape[0])
        return predict(
            x, timestep=time_of, encoder_hidden_states=texts[0], return_dict=False, **pooled
        )[0]

    def _compiled(self, function: Any) -> Any:
        return self.torch.compile(function, dynamic=False) if self.given["compiled"] else function

    def _weights(self) -> int:
        draws = self.given["work"] in ("picture", "update")
        used = [self.network, *([self.pipe.vae] if draws else [])]
        return sum(p.nbytes for part in used for p in part.parameters())

    def _start_memory(self) -> int:
        """What is to be taken from the peak, so that it holds the weights in use and no others."""
        if self.device == "cuda":
            self.torch.cuda.reset_peak_memory_stats()
            return self.torch.cuda.memory_allocated() - self._weights()
        return peak_memory.start() - self._weights()

    def _peak_memory(self) -> int:
        if self.device == "cuda":
            return self.torch.cuda.max_memory_allocated()
        return peak_memory.resident("VmHWM")


if __name__ == "__main__":
    main()
