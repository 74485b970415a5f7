"""Fine-tuning of the generator by the command `ctrl-jax fine-tune`, from whichever reward."""

import contextlib
import dataclasses
import json
import os
import shlex
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from ctrl_jax._checks import check_count, check_non_negative, check_positive, refuse
from ctrl_jax._records import read_json, write_atomic
from ctrl_jax._sums import SUMS, changed_files
from ctrl_jax._whole import set_aside
from ctrl_jax.commands import fine_tune
from ctrl_jax.commands.fine_tuning.inputs import check_groups
from ctrl_jax.commands.fine_tuning.method import OF_TERMINAL_REWARDS, WITH_VALUE
from ctrl_jax.runtime import RunWarning, validate
from ctrl_jax.runtime.devices.distributed import barrier, on_the_first
from experiments.study import Conduct
from experiments.text_to_image.scenes import CATEGORIES, Request
from experiments.text_to_image.server import make_server

Reward = Literal["log_probability", "probability", "detector", "server", "proxy"]
Algorithm = Literal["ppo", "grpo", "ddpo", "dpok", "value_gradient", "policy_gradient"]
DETECTOR = "detector=experiments.text_to_image.detector:success"
SOFT = "jax:experiments.text_to_image.soft_detector"
TRAINED = {"detector": "gold", "server": "gold", "proxy": "proxy"}
LORA = "pytorch_lora_weights.safetensors"


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A run of `ctrl-jax fine-tune` on the generator.

    Args:
        reward: log_probability or probability, how probable the detector finds what was asked for,
            which has a derivative; detector, its verdict, a function of the host; server, the same
            behind an address of this machine; proxy, the CLIP score of the towers.
        algorithm: of the command.
        value: of ppo, value_gradient and policy_gradient: state, a network of latents and captions;
            anchored, with the reward itself in it, which must have a derivative; none, of
            value_gradient, the derivative of the reward through the rest of the path.
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
        schedule: course of the step sizes of policy and value network: constant, or cosine, which
            falls to 2 and 5 percent of them.
    """

    reward: Reward = "log_probability"
    algorithm: Algorithm = "value_gradient"
    value: Literal["state", "anchored", "none"] = "anchored"
    penalty: float = 0.02
    updates: int = 60
    batch: int = 64
    group: int = 1
    solver_steps: int = 8
    window: int = 0
    guidance: float = 2.5
    rank: int = 16
    learning_rate: float = 7e-4
    schedule: Literal["constant", "cosine"] = "cosine"

    def check(self, owner: str) -> None:
        """Raise ValueError for an option out of range, as this study or the command calls it."""
        for name in ("updates", "batch", "group", "rank"):
            check_count(f"{owner}.{name}", getattr(self, name))
        check_count(f"{owner}.solver_steps", self.solver_steps, least=2)
        check_count(f"{owner}.window", self.window, least=0)
        check_non_negative(f"{owner}.penalty", self.penalty)
        check_positive(f"{owner}.learning_rate", self.learning_rate)
        if self.differentiates and self.reward in ("detector", "server"):
            flag, rule = owner.replace("_", "-"), "a verdict has no derivative"
            repair = f"give --{flag}.reward probability, or --{flag}.value state"
            raise refuse(f"{owner}.value", self.value, rule, repair)
        # Before hours of other stages, what the command would refuse after them.
        given = Given(*5 * [Path("later")])
        config = tyro.cli(fine_tune.Config, args=arguments(self, given, named(self, given)))
        validate(config)
        check_groups(config, prompts=len(CATEGORIES))

    @property
    def differentiates(self) -> bool:
        """Whether the reward is differentiated."""
        return self.value != "state" and self.algorithm in WITH_VALUE


ON_VERDICTS = FineTuning(
    reward="detector",
    algorithm="grpo",
    penalty=0.05,
    updates=30,
    batch=256,
    group=16,
    window=3,
    guidance=1.0,
    value="state",
    learning_rate=6e-4,
    schedule="cosine",
)
"""What is compared: algorithms that see no more than whether a picture is right."""

ON_PROXY = FineTuning(
    reward="proxy",
    penalty=0.1,
    updates=100,
    guidance=1.0,
    learning_rate=1e-3,
    schedule="cosine",
)
"""What looks for over-optimization."""


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

    Every category counts alike: a prompt's weight is one over the number of its category's. With
    several processes the first one writes, and the others wait.
    """
    seen = [request for request in found if request.seen]
    number = {c: sum(request.category == c for request in seen) for c in CATEGORIES}
    few = [r for c in CATEGORIES for r in [x for x in seen if x.category == c][:4]]
    given = Given(model, gold, proxy, folder / "prompts.jsonl", folder / "shown.jsonl")

    def write() -> None:
        for path, some, weighted in ((given.prompts, seen, True), (given.shown, few, False)):
            lines = []
            for request in some:
                line = request.record() | {"detector": str(gold)}
                if weighted:
                    line["weight"] = len(seen) / number[request.category]
                lines.append(json.dumps(line) + "\n")
            write_atomic(path, "".join(lines))

    on_the_first(write)
    return given


def tune(
    options: FineTuning, given: Given, out: Path, study: Conduct, *, seed: int | None = None
) -> Mapping[str, Any]:
    """Run the command, or find its result; return the metrics and the digest of its results.json.

    Args:
        options: of this run.
        given: what it starts from.
        out: the run's own folder, which holds the adapters afterwards.
        study: the run that it is a part of, on the same devices.
        seed: of the run; that of the study by default.
    """
    started = [os.path.relpath(path, study.folder) for path in given]
    asked = study.fingerprint("fine-tuning", dataclasses.asdict(options), started, seed)
    if not on_the_first(lambda: _is_complete(out, asked)):
        common = study.config.run
        with _reward(options, given) as reward:
            args = [*arguments(options, given, reward), "--out", str(out), "--resume", "latest"]
            args += ["--distributed", "off"]  # they are joined already, or not to be
            args += ["--seed", str(common.seed if seed is None else seed)]
            args += [f"--mesh.{axis}={size}" for axis, size in study.mesh.shape.items()]
            args += [] if common.progress else ["--no-progress"]
            args += [] if common.compilation_cache else ["--no-compilation-cache"]
            study.say(shlex.join(["ctrl-jax", "fine-tune", *args]))
            config = tyro.cli(fine_tune.Config, args=args)
            validate(config)
            fine_tune.main(config)
        barrier(str(out))  # what the first process writes, all read
    results = read_json(out / "results.json")
    return {**results["metrics"], "digest": results["digest"]}


def _is_complete(out: Path, asked: str) -> bool:
    """Return whether a folder holds a whole run of what is asked; one of others is set aside."""
    note = out.with_name(f"{out.name}.asked")
    if out.exists() and not (note.exists() and note.read_text() == asked):
        kept = set_aside(out)
        text = f"{out}: it was made with other options, and is kept as {kept.name}"
        warnings.warn(text, RunWarning, stacklevel=2)
    write_atomic(note, asked)
    return (out / SUMS).exists() and not changed_files(out)


def metric_names(options: FineTuning) -> dict[str, str]:
    """Return what the command calls the detector's share, "gold", and the CLIP score, "proxy"."""
    names = {"gold": "detector/mean", "proxy": "clip_score/mean"}
    return {
        name: f"held_out/{end}" if name in held_out(options) else f"reward/{end}"
        for name, end in names.items()
    }


def held_out(options: FineTuning) -> set[str]:
    """Return which of the detector's share, "gold", and CLIP score, "proxy", is not trained on."""
    return {"gold", "proxy"} - {TRAINED.get(options.reward)}


def arguments(options: FineTuning, given: Given, reward: str) -> list[str]:
    """Return the command line but for what is of one run."""
    measured = {"gold": DETECTOR, "proxy": f"clip_score:{given.proxy}"}
    beside = [reward for name, reward in measured.items() if name in held_out(options)]
    flags = {
        "--model": given.model,
        "--prompts": given.prompts,
        "--validation-prompts": given.shown,
        "--reward": reward,
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
        "--optimization.schedule": options.schedule,
    }
    if options.penalty and options.algorithm != "ddpo":
        flags["--penalty"] = options.penalty
    if options.window and options.algorithm in OF_TERMINAL_REWARDS:
        flags |= {"--window": options.window, "--window-placed": "fixed"}
    if options.differentiates:
        flags["--value.network"] = options.value
    pairs = [*flags.items(), *(("--held-out-reward", reward) for reward in beside)]
    return [str(part) for pair in pairs for part in pair]


def named(options: FineTuning, given: Given) -> str:
    """Return the reward as the command is told of it, of a server the same on the host."""
    return {
        "log_probability": f"{SOFT}:log_probability:{given.gold}",
        "probability": f"{SOFT}:probability:{given.gold}",
        "proxy": f"clip_score:{given.proxy}",
    }.get(options.reward, DETECTOR)


@contextlib.contextmanager
def _reward(options: FineTuning, given: Given) -> Iterator[str]:
    """The reward as the command is told of it; its server, where there is one, meanwhile."""
    if options.reward != "server":
        yield named(options, given)
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
