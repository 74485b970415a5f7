"""TRL's DPOTrainer as a process of its own, timed over a pipe.

It lives in an environment of its own, whose interpreter ``--trl-dpo-python`` names. That process
gets a Hugging Face folder and pairs of tokens as JSON, then takes one step of ``trainer.train()``
for every line it reads, and answers with the step's loss and by how much it raised the process's
peak memory. Trainer, loss, reference pass, optimizer and loop are TRL's own; its batch is fetched
before the request, outside the time. What is set: float32, no checkpointing of activations, no
clipping, no logs, the pairs in order.

TRL takes text: a token is written as its number, and the tokenizer splits at spaces.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import peak_memory
from benchmarks.peers import process
from benchmarks.threads import cores


def start(python: str, specification: dict[str, Any]) -> tuple[Callable[[], Any], Callable]:
    """Start the process; return what takes one step in it, and what ends it."""
    ask, close = process.start(python, "benchmarks.peers.trl_dpo", specification)
    return lambda: ask("step"), close


def main() -> None:
    """Take steps until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the trainer prints is not an answer
    specification = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HOME": folder, "HF_DATASETS_CACHE": folder}
        os.chdir(folder)
        make_trainer(specification, lambda answer: answers.write(json.dumps(answer) + "\n")).train()


def make_trainer(specification: Mapping[str, Any], answer: Callable[[Any], Any]):
    """Return TRL's trainer, which waits for a line on standard input before every step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(cores())
    settings = specification["settings"]
    model = AutoModelForCausalLM.from_pretrained(specification["folder"], dtype=torch.float32)
    versions = {name: sys.modules[name].__version__ for name in ("trl", "torch", "transformers")}
    found: dict[str, Any] = {}

    class Trainer(DPOTrainer):
        def training_step(self, *arguments, **options):
            found["loss"] = super().training_step(*arguments, **options)
            return found["loss"]

    class OneAtATime(TrainerCallback):
        def on_step_begin(self, args, state, control, **options):
            if state.global_step == 0:
                answer("ready")
            if not sys.stdin.readline():
                sys.exit()
            if state.global_step == 0:
                found["before"] = peak_memory.start()

        def on_step_end(self, args, state, control, **options):
            rise = peak_memory.resident("VmHWM") - found["before"]
            answer({"loss": float(found["loss"]), "memory": rise, "versions": versions})

    config = DPOConfig(
        output_dir="out",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=settings["pairs"],
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=settings["pairs"],
        max_length=None,
        beta=settings["beta"],
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        num_train_epochs=10**6,
        train_sampling_strategy="sequential",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return Trainer(
        model,
        args=config,
        train_dataset=Dataset.from_list([_written(pair) for pair in specification["data"]]),
        processing_class=_tokenizer(model.config.vocab_size, end=specification["data"][0][1][-1]),
        callbacks=[OneAtATime()],
    )


def _written(pair: tuple[list[int], list[int], list[int]]) -> dict[str, str]:
    prompt, chosen, rejected = (" ".join(map(str, tokens)) for tokens in pair)
    return {"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}


def _tokenizer(vocabulary: int, end: int):
    """A token is a number between spaces; `end` closes an answer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({str(token): token for token in range(vocabulary)}, unk_token="0")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=str(end), pad_token=str(end)
    )


if __name__ == "__main__":
    main()
