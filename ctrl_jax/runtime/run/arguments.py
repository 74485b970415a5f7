"""What users type and what is meant by it: flags with a word, and names that other tools have."""

import dataclasses
import difflib
import itertools
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

# Last parts of our options, or whole ones with a dot, by what transformers, TRL, accelerate,
# diffusers and others call them.
_ELSEWHERE = {
    "learning_rate": "lr, peak_lr, step_size",
    "precision": "bf16, fp16, fp32, tf32, half, dtype, torch_dtype, mixed_precision",
    "evaluation_data": "eval_data, eval_dataset, eval_file, validation_file, validation_data, "
    "test_data, dev_data",
    "batch": "batch_size, train_batch_size, per_device_train_batch_size, bs, mini_batch_size",
    "accumulate": "gradient_accumulation_steps, grad_accum, accumulation_steps",
    "epochs": "num_train_epochs, num_epochs, n_epochs",
    "steps": "max_steps, num_steps, max_train_steps, iterations, updates, train_steps",
    "out": "output_dir, output, save_dir, logdir, log_dir, workdir, outdir",
    "model": "model_name_or_path, model_name, model_path, pretrained_model, base_model, "
    "pretrained_model_name_or_path, checkpoint",
    "data": "dataset, dataset_name, dataset_path, data_path, data_dir, train_file, train_data, "
    "train_data_dir",
    "rank": "lora_r, lora_rank, lora_dim, r",
    "adapters.alpha": "lora_alpha",
    "gamma": "simpo_gamma",
    "held_out": "test_size, eval_split, val_split, validation_split, test_split",
    "targets": "lora_target_modules, target_modules",
    "merge": "merge_adapters, merge_lora, merge_and_unload",
    "warmup": "warmup_ratio, warmup_steps, num_warmup_steps",
    "weight_decay": "wd",
    "gradient_clip": "max_grad_norm, grad_clip, clip_grad, clip_grad_norm, grad_norm_clip",
    "schedule": "lr_scheduler_type, lr_scheduler, scheduler, lr_schedule",
    "optimizer": "optim",
    "loss": "loss_type",
    "log": "report_to, logger, wandb, tensorboard, log_with, tracker",
    "profile": "profiler, trace_steps",
    "keep": "save_total_limit, checkpoints_total_limit, max_to_keep, keep_last",
    "checkpoint_every": "save_steps, checkpointing_steps, save_interval, save_every",
    "evaluate_every": "eval_steps, eval_interval, eval_every, evaluation_steps, logging_steps",
    "every": "eval_steps, eval_interval, eval_every, evaluation_steps",
    "remat": "gradient_checkpointing, activation_checkpointing, use_remat",
    "resume": "resume_from_checkpoint, continue, restore",
    "max_length": "max_seq_length, max_seq_len, cutoff_len, block_size, model_max_length",
    "max_prompt_length": "max_prompt_len",
    "answer_length": "max_new_tokens, max_completion_length",
    "penalty": "kl_coef, kl_coeff, kl_penalty, kl_weight",
    "number": "num_samples, n_samples, n, batch_size, num_images, num_images_per_prompt",
    "guidance": "guidance_scale, cfg, cfg_scale, scale",
    "negative": "negative_prompt, uncond, neg",
    "prompts": "prompt_file, prompts_file, prompts_path, captions",
    "lora": "lora_path, lora_weights, lora_file, loras",
    "solver_steps": "num_inference_steps, sampling_steps, ddim_steps, num_sampling_steps",
    "average_decay": "ema_decay, ema, ema_rate",
    "fully_sharded": "fsdp, zero3, deepspeed",
    "progress": "disable_tqdm, tqdm, verbose, quiet",
    "processes": "num_processes, nproc, world_size",
    "process_id": "rank, process_index, local_rank",
    "coordinator": "master_addr, coordinator_address",
    "reward": "reward_fn, reward_function, reward_model, reward_funcs",
    "trace": "gae_lambda, lam",
    "clip": "cliprange, clip_range, epsilon",
    "target_class": "class_label, label, target",
    "chat_template": "chat_template_path, template",
    "label_smoothing": "smoothing",
    "run": "checkpoint, run_dir",
}

_VALUES = {"bf16": "bfloat16", "fp32": "float32", "wandb": "wandb", "tensorboard": "tensorboard"}


def with_flags(config_class: type, args: Sequence[str]) -> list[str]:
    """Return the arguments with `--name true` and `--name false` as a flag's own two forms."""
    flags = {flag for flag, hint in options_of(config_class) if hint is bool}
    found: list[str] = []
    waiting = list(args)
    while waiting:
        name, equals, word = waiting.pop(0).partition("=")
        if name.replace("_", "-") not in flags:
            found.append(name + equals + word)
            continue
        if not equals and waiting and waiting[0].lower() in _WORDS:
            word = waiting.pop(0)
        on = _WORDS.get(word.lower(), True)
        if equals and word.lower() not in _WORDS:
            found.append(f"{name}={word}")
        else:
            found.append(name if on else _negated(name))
    return found


def suggestions(config_class: type, unknown: Sequence[str]) -> list[str]:
    """Return the options that are most likely meant by those that are not known.

    Args:
        config_class: a dataclass, whose fields are the options.
        unknown: what was typed, `--lr` for instance.
    """
    known = [flag for flag, _ in options_of(config_class)]
    found = [flag for typed in unknown for flag in _meant(typed, known)]
    return list(dict.fromkeys(found))[:3]


# What to say, and how to try whether a command takes it.
_LESS_MEMORY = (
    ("chunks", "{} auto", "{} auto"),
    ("chunks", "a larger {}", ""),
    ("remat", "{}", "{}"),
    ("fully-sharded", "{}", "{}"),
    ("accumulate", "a larger {}", ""),
    ("chunk", "a smaller {}", ""),
    ("batch", "a smaller {}", ""),
    ("minibatches", "a larger {}", ""),
    ("precision", "{} bfloat16", "{} bfloat16"),
    ("mesh.data", "more devices by {}", "{} 2"),
    ("mesh.model", "more devices by {}", "{} 2"),
)


def memory_savers(config_class: type, typed: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """Return the options of a command that lower what its devices must hold.

    Args:
        config_class: a dataclass, whose fields are the options.
        typed: the command line, of which large numbers come first.

    Returns:
        What to do in words, and the arguments by which to try whether the command takes it.
    """
    found: list[tuple[str, list[str]]] = []
    words = [part for word in typed for part in word.split("=", 1)]
    for flag, value in itertools.pairwise(words):
        counts = flag.startswith("--") and _last(flag) not in ("seed", "steps")
        if counts and value.isdecimal() and int(value) >= 1000:
            found.append((f"a smaller {flag}", []))
    options = [(flag, "auto" in str(hint)) for flag, hint in options_of(config_class)]
    for name, how, trial in _LESS_MEMORY:
        for flag, auto in options:
            fits = flag == f"--{name}" or flag.endswith(f".{name}")
            if fits and auto == how.endswith("auto"):
                found.append((how.format(flag), trial.format(flag).split()))
    return list({text: (text, words) for text, words in found}.values())


def options_of(config_class: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options of a config, those of its groups too, with their types."""
    hints = typing.get_type_hints(config_class, include_extras=True)
    for field in dataclasses.fields(config_class):
        hint, notes = hints[field.name], ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *notes = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            bare = any(getattr(note, "name", None) == "" for note in notes)
            inner = "" if bare else f"{field.name}."
            yield from options_of(typing.cast(type, hint), prefix + inner)
        elif tyro.conf.Positional not in notes:
            yield "--" + (prefix + field.name).replace("_", "-"), hint


def _meant(typed: str, known: Sequence[str]) -> list[str]:
    name = typed.partition("=")[0].lstrip("-").replace("-", "_").lower()
    last = name.rpartition(".")[2]
    for word in (name, last, last.removeprefix("no_")):
        ours = [our for our, theirs in _ELSEWHERE.items() if word in theirs.split(", ")]
        for target in (*ours, word):
            wanted = target.replace("_", "-")
            found = [flag for flag in known if wanted in (_last(flag), flag.lstrip("-"))]
            if found:
                plain = min(found, key=lambda flag: flag.count("."))
                several = [flag for flag in found if flag.count(".") == plain.count(".")][:2]
                return [f"{flag} {_VALUES[word]}" if word in _VALUES else flag for flag in several]
    near = difflib.get_close_matches(last.replace("_", "-"), map(_last, known), n=1, cutoff=0.75)
    return [flag for flag in known if near and _last(flag) == near[0]]


def _last(flag: str) -> str:
    return flag.lstrip("-").rpartition(".")[2]


def _negated(flag: str) -> str:
    group, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{group}{dot}no-{name}"
