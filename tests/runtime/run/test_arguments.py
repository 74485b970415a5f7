"""What users of other tools type, and what they are told."""

import pytest

from ctrl_jax.commands import prefer, sample
from ctrl_jax.runtime import command
from ctrl_jax.runtime.run.arguments import options_of, suggestions
from experiments.score_as_action.config import Config as Study

BOTH = ["--model", "m", "--data", "d"]
MEANT = {
    "--lr": "--optimization.learning-rate",
    "--learning-rate": "--optimization.learning-rate",
    "--learnin_rate": "--optimization.learning-rate",
    "--bf16": "--precision bfloat16",
    "--fp16": "--precision",
    "--eval-data": "--texts.evaluation-data",
    "--eval_dataset": "--texts.evaluation-data",
    "--per_device_train_batch_size": "--optimization.batch",
    "--gradient_accumulation_steps": "--optimization.accumulate",
    "--num_train_epochs": "--optimization.epochs",
    "--max_steps": "--steps",
    "--output_dir": "--out",
    "--model_name_or_path": "--model",
    "--dataset": "--data",
    "--lora_r": "--adapters.rank",
    "--lora-alpha": "--adapters.alpha",
    "--simpo-gamma": "--gamma",
    "--test_size": "--texts.held-out",
    "--lora-target-modules": "--adapters.targets",
    "--warmup-ratio": "--optimization.warmup",
    "--max_grad_norm": "--optimization.gradient-clip",
    "--lr_scheduler_type": "--optimization.schedule",
    "--loss_type": "--loss",
    "--report_to": "--log",
    "--wandb": "--log wandb",
    "--gradient-checkpointing": "--optimization.remat",
    "--resume_from_checkpoint": "--resume",
    "--max_seq_length": "--texts.max-length",
    "--save_steps": "--evaluation.checkpoint-every",
    "--eval_steps": "--evaluation.every",
    "--fsdp": "--optimization.fully-sharded",
    "--optimization.lr": "--optimization.learning-rate",
}


@pytest.mark.parametrize("typed", MEANT)
def test_a_name_of_other_tools_is_answered_with_ours(typed):
    assert suggestions(prefer.Config, [typed]) == [MEANT[typed]]
    assert MEANT[typed].split()[0] in dict(options_of(prefer.Config))


def test_each_command_is_answered_with_its_own_options():
    assert suggestions(sample.Config, ["--num_samples", "--num-inference-steps"]) == [
        "--number",
        "--solver-steps",
    ]
    assert suggestions(Study, ["--kl_coef"]) == ["--penalty"]
    assert suggestions(Study, ["--dataset"]) == ["--data"]
    assert suggestions(prefer.Config, ["--frobnicate"]) == []


def said(args, capsys):
    with pytest.raises(SystemExit) as stop:
        command(prefer.Config, lambda config: pytest.fail("ran"), args)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_line_says_what_was_not_known_and_what_is_meant(capsys):
    assert "--lr, 1e-3; perhaps --optimization.learning-rate; " in said(
        [*BOTH, "--lr", "1e-3"], capsys
    )
    error = said(["--model", "m", "--bf16"], capsys)
    assert "Missing from" in error and "--data" in error
    assert "Unrecognized options: --bf16; perhaps --precision bfloat16" in error
    assert "--eval_data=x; perhaps --texts.evaluation-data" in said(
        [*BOTH, "--eval_data=x"], capsys
    )


def test_flags_take_words():
    """As other tools have them; the two forms of a flag stay."""
    words = ["--adapters.rank", "2", "--adapters.merge", "false", "--texts.packing=no"]
    config = command(prefer.Config, lambda c: c, [*BOTH, *words, "--optimization.remat", "True"])
    assert not config.adapters.merge and not config.texts.packing and config.optimization.remat
    words = ["--adapters.rank", "2", "--adapters.no-merge", "--no-progress", "--profile"]
    config = command(prefer.Config, lambda c: c, [*BOTH, *words])
    assert not config.adapters.merge and not config.run.progress and config.run.profile
