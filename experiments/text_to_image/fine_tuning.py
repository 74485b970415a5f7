"""Fine-tuning of the generator by the command `ctrl-jax fine-tune`, from whichever reward."""

import contextlib
import dataclasses
import json
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from ctrl_jax._checks import check_count, check_non_negative, check_positive
from ctrl_jax._records import read_json, write_atomic
from ctrl_jax._sums import SUMS, changed_files
from ctrl_jax.commands import fine_tune
from ctrl_jax.commands.fine_tuning.method import OF_TERMINAL_REWARDS
from ctrl_jax.runtime import validate
from experiments.text_to_image.scenes import CATEGORIES, Request
from experiments.text_to_image.server import make_server

Reward = Literal["detector", "server", "proxy"]
Algorithm = Literal["ppo", "grpo", "ddpo", "dpok", "value_gradient", "policy_gradient"]
DETECTOR = "detector=experiments.text_to_image.detector:success"
LORA = "pytorch_lora_weights.safetensors"


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A run of `ctrl-jax fine-tune` on the generator.

    Args:
        reward: detector, a function of the host; server, the same behind an address of this
            machine; proxy, the CLIP score of the towers.
        algorithm: of the command.
        penalty: of divergence, in spreads of the base model's rewards per nat; ddpo has none.
        updates: of the policy.
        batch: pictures per update, each one query of the reward.
        group: pictures of one prompt.
        solver_steps: of the sampler.
        window: first steps of it that have noise and are learned from, where the algorithm can; 0
            for all. What stands where is decided there.
        guidance: scale of guidance, 1 for none.
        rank: of the adapters.
        learning_rate: of the policy.
    """

    reward: Reward = "detector"
    algorithm: Algorithm = "grpo"
    penalty: float = 0.05
    updates: int = 160
    batch: int = 256
    group: int = 16
    solver_steps: int = 8
    window: int = 3
    guidance: float = 1.0
    rank: int = 16
    learning_rate: float = 6e-4

    def validate(self) -> None:
        """Raise ValueError for an option out of range, as this study or the command calls it."""
        for name in ("updates", "batch", "group", "rank"):
            check_count(f"fine_tuning.{name}", getattr(self, name))
        check_count("fine_tuning.solver_steps", self.solver_steps, least=2)
        check_count("fine_tuning.window", self.window, least=0)
        check_non_negative("fine_tuning.penalty", self.penalty)
        check_positive("fine_tuning.learning_rate", self.learning_rate)
        # Before hours of other stages, what the command would refuse after them.
        given = Given(*5 * [Path("later")])
        validate(tyro.cli(fine_tune.Config, args=arguments(self, given, DETECTOR)))


class Given(NamedTuple):
    """What every fine-tuning starts from.

    Fields:
        model: folder of the pipeline.
        gold: folder of the detector.
        proxy: folder of the towers.
        prompts: file of those that are trained on.
        shown: file of those of the evaluations.
    """

    model: Path
    gold: Path
    proxy: Path
    prompts: Path
    shown: Path


def write_prompts(
    folder: Path, model: Path, gold: Path, proxy: Path, found: Sequence[Request]
) -> Given:
    """Write the files of prompts: those seen in pre-training, and a few of each category.

    Every category counts alike: a prompt's weight is one over the number of its category's.
    """
    seen = [request for request in found if request.seen]
    number = {c: sum(request.category == c for request in seen) for c in CATEGORIES}
    few = [r for c in CATEGORIES for r in [x for x in seen if x.category == c][:4]]
    given = Given(model, gold, proxy, folder / "prompts.jsonl", folder / "shown.jsonl")
    for path, some, weighted in ((given.prompts, seen, True), (given.shown, few, False)):
        lines = []
        for request in some:
            line = request.record() | {"detector": str(gold)}
            if weighted:
                line["weight"] = len(seen) / number[request.category]
            lines.append(json.dumps(line) + "\n")
        write_atomic(path, "".join(lines))
    return given


def tune(
    options: FineTuning,
    given: Given,
    out: Path,
    *,
    seed: int,
    more: Sequence[str] = (),
    progress: bool = True,
) -> Mapping[str, Any]:
    """Run the command, or find its result; return the metrics and the digest of its results.json.

    Args:
        options: of this run.
        given: what it starts from.
        out: the run's own folder, which holds the adapters afterwards.
        seed: of the run.
        more: further options of the command.
        progress: whether progress is shown.
    """
    if not (out / SUMS).exists() or changed_files(out):
        with _reward(options, given) as reward:
            args = [*arguments(options, given, reward), "--out", str(out), "--seed", str(seed)]
            args += [*more, *(() if progress else ("--no-progress",))]
            args += ["--resume", "latest"] if out.exists() else []
            print(shlex.join(["ctrl-jax", "fine-tune", *args]))
            config = tyro.cli(fine_tune.Config, args=args)
            validate(config)
            fine_tune.main(config)
    results = read_json(out / "results.json")
    return {**results["metrics"], "digest": results["digest"]}


def metric_names(options: FineTuning) -> dict[str, str]:
    """Return what the command calls the detector's share, "gold", and the CLIP score, "proxy"."""
    if options.reward == "proxy":
        return {"gold": "held_out/detector/mean", "proxy": "reward/clip_score/mean"}
    return {"gold": "reward/detector/mean", "proxy": "held_out/clip_score/mean"}


def arguments(options: FineTuning, given: Given, reward: str) -> list[str]:
    """Return the command line but for what is of one run."""
    beside = DETECTOR if options.reward == "proxy" else f"clip_score:{given.proxy}"
    flags = {
        "--model": given.model,
        "--prompts": given.prompts,
        "--validation-prompts": given.shown,
        "--reward": reward,
        "--held-out-reward": beside,
        "--algorithm": options.algorithm,
        "--guidance": options.guidance,
        "--solver-steps": options.solver_steps,
        "--batch": options.batch,
        "--group": options.group,
        "--steps": options.updates,
        "--adapters.rank": options.rank,
        "--optimization.learning-rate": options.learning_rate,
        "--evaluation.prompts": 4 * len(CATEGORIES),
        "--evaluation.number": 8,
        "--old": "rollout",
        "--optimization.schedule": "cosine",
    }
    if options.penalty and options.algorithm != "ddpo":
        flags["--penalty"] = options.penalty
    if options.window and options.algorithm in OF_TERMINAL_REWARDS:
        flags |= {"--window": options.window, "--window-placed": "fixed"}
    return [str(part) for flag in flags.items() for part in flag]


@contextlib.contextmanager
def _reward(options: FineTuning, given: Given) -> Iterator[str]:
    """The reward as the command is told of it; its server, where there is one, meanwhile."""
    if options.reward != "server":
        yield (DETECTOR if options.reward == "detector" else f"clip_score:{given.proxy}")
        return
    server = make_server(str(given.gold), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"detector=http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
