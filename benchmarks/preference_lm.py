"""One step of DPO on a small language model: half prompt, half completion, float32.

Ours is one compiled program on rows ``[prompt | chosen | rejected]``: a prompt is computed once for
both answers, the head only where a completion is predicted. The peers are TRL's DPOTrainer and a
plain PyTorch loop. All sides take the same pairs in the same order from the same weights, handed
over as a Hugging Face folder, with AdamW; log-probabilities under the reference are computed once,
before, on every side. The losses of the first steps must agree, or nothing is timed.
"""

import atexit
import dataclasses
import functools
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.harness import Case, Contender, Disagreement, Runner, compile_jax
from ctrl_jax.algorithms import LMPreference, make_lm_preference, make_reference_pass
from ctrl_jax.data import PreferenceRows, TokenPair, pack_pairs
from ctrl_jax.losses import preference
from ctrl_jax.networks import language_model
from ctrl_jax.pretrained import load_decoder, read_record, save_decoder

CLAIM = "A preference step as one program, prompts computed once, beats TRL and a PyTorch loop."
BUDGET = 45.0
TOLERANCE = 1e-4
STEPS = 9
"""How many losses must agree, where so many steps are taken."""

GPT2 = {"model_type": "gpt2", "n_positions": 128, "n_embd": 256, "n_layer": 4, "n_head": 4}
GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LLAMA = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 704}
LLAMA |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA |= {"max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0}
RECORDS: dict[str, dict[str, Any]] = {"GPT-2": GPT2, "Llama": LLAMA}
TINY = {"n_embd": 8, "n_layer": 1, "n_head": 2, "hidden_size": 8, "intermediate_size": 12}
TINY |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Data and optimizer, equal for all sides."""

    family: str
    vocabulary: int
    tiny: bool = False
    pairs: int = 8
    prompt: int = 64
    completion: int = 64
    batches: int = 4
    """After these the pairs come again."""
    beta: float = 0.1
    learning_rate: float = 1e-4
    weight_decay: float = 0.01

    @property
    def tokens(self) -> int:
        """Tokens of a step as they are usually counted: the prompt with either answer."""
        return 2 * self.pairs * (self.prompt + self.completion)

    @property
    def record(self) -> dict[str, Any]:
        """The model as config.json describes it."""
        record = RECORDS[self.family]
        small = {name: size for name, size in TINY.items() if name in record}
        return record | {"vocab_size": self.vocabulary} | (small if self.tiny else {})


QUICK = {"tiny": True, "pairs": 2, "prompt": 4, "completion": 4, "batches": 2}


def cases(quick: bool = False) -> Iterator[Case]:
    """Yield both families at a small vocabulary, and GPT-2 at its own."""
    if quick:
        sizes = [("GPT-2", 32), ("Llama", 32)]
    else:
        sizes = [("GPT-2", 8192), ("Llama", 8192), ("GPT-2", 50257)]
    for family, vocabulary in sizes:
        arguments = {"family": family, "vocabulary": vocabulary, **(QUICK if quick else {})}
        name = f"{family}, vocabulary {vocabulary}"
        yield Case(name, list(_contenders(arguments)))


def _contenders(arguments: dict[str, Any]) -> Iterator[Contender]:
    yield Contender("ctrl_jax, one program", ours, arguments)
    yield Contender("ctrl_jax, batch in two parts", ours, arguments | {"accumulate": 2})
    yield Contender(
        "ctrl_jax, rows divided over a device per core", ours, arguments | {"devices": 0}
    )
    yield Contender("TRL's DPOTrainer", trl, arguments, target=2.2)
    yield Contender("PyTorch loop", torch_loop, arguments, target=1.1, host_memory=True)
    yield Contender(
        "PyTorch loop, torch.compile", torch_loop, arguments | {"compiled": True}, host_memory=True
    )


def ours(devices: int = 1, accumulate: int = 1, **options: Any) -> Runner:
    """Build our step, compiled once, its state donated.

    Args:
        devices: that the rows are divided over; 0 for all.
        accumulate: parts of the batch, one after the other.
        **options: of `Settings`.
    """
    settings = Settings(**options)
    config, params, _ = load_decoder(folder(settings))
    model = language_model(config)._replace(init=lambda key: params)
    made = make_lm_preference(
        model,
        optax.adamw(
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree),
        ),
        lambda scores: preference.dpo(*scores.log_ratios, beta=settings.beta),
        LMPreference(beta=settings.beta, accumulate=accumulate),
    )
    used = jax.devices()[: devices or None]
    mesh = Mesh(np.array(used), ("data",))
    divided, whole = (
        NamedSharding(mesh, PartitionSpec("data")),
        NamedSharding(mesh, PartitionSpec()),
    )
    state = jax.device_put(made.init(jax.random.key(0)), whole)
    reference = jax.jit(make_reference_pass(model))
    batches = []
    for rows in packed(settings):
        known = reference(state.params, jax.device_put(rows, divided)).log_probs
        batches.append(jax.device_put(rows._replace(reference=known), divided))
    step, seconds, memory = compile_jax(made.step, state, batches[0], donate=(0,))
    turns = itertools.cycle(batches)

    def run():
        nonlocal state
        state, metrics = step(state, next(turns))
        return float(metrics["loss"])

    return _checked(settings, run, seconds, memory and memory * len(used))


def torch_loop(compiled: bool = False, **options: Any) -> Runner:
    """Build the PyTorch loop."""
    from benchmarks.peers import torch_preference

    settings = Settings(**options)
    loop = torch_preference.Loop(
        settings.record,
        folder(settings) / "model.safetensors",
        settings,
        pairs(settings),
        compiled=compiled,
    )
    return _checked(settings, loop.step)


def trl(**options: Any) -> Runner:
    """Start TRL's trainer in the interpreter that ``--trl-dpo-python`` names."""
    python = os.environ.get("BENCHMARKS_TRL_DPO_PYTHON")
    if not python:
        raise RuntimeError("needs an environment of its own; name it with --trl-dpo-python")
    from benchmarks.peers import trl_dpo

    settings = Settings(**options)
    data = [
        [part.tolist() for part in pair]
        for batch in pairs(settings)
        for pair in zip(*batch, strict=True)
    ]
    specification = {"folder": str(folder(settings)), "data": data}
    specification |= {"settings": dataclasses.asdict(settings)}
    step, close = trl_dpo.start(python, specification)
    first = step()
    answers = itertools.chain([first], iter(step, None))
    runner = _checked(
        settings,
        lambda: next(answers)["loss"],
        memory=first["memory"],
        versions=first["versions"],
    )
    return runner._replace(close=close)


@functools.cache
def folder(settings: Settings) -> Path:
    """Return a Hugging Face folder with fresh weights; it goes when this process ends."""
    path = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    model = language_model(read_record(settings.record))
    save_decoder(path / "model", settings.record, model.init(jax.random.key(0)))
    return path / "model"


def pairs(settings: Settings) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return batches of (prompt, chosen, rejected), tokens drawn uniformly.

    The vocabulary's last token ends every answer, as TRL would have it.
    """
    draw, end = np.random.default_rng(0), settings.vocabulary - 1

    def tokens(length):
        return draw.integers(0, end, (settings.pairs, length))

    def answers():
        return np.concatenate([tokens(settings.completion - 1), tokens(1) * 0 + end], axis=1)

    return [(tokens(settings.prompt), answers(), answers()) for _ in range(settings.batches)]


def packed(settings: Settings) -> list[PreferenceRows]:
    """Return the batches as rows ``[prompt | chosen | rejected]``, one pair each."""
    return [
        pack_pairs([TokenPair(*pair) for pair in zip(*batch, strict=True)], pairs_per_row=1)
        for batch in pairs(settings)
    ]


SEEN: dict[Settings, list[float]] = {}
"""The first losses, by whoever took the step first."""


def _checked(
    settings: Settings,
    step: Callable[[], float],
    seconds: float | None = None,
    memory: int | None = None,
    **facts: Any,
) -> Runner:
    """Return a runner of a side whose first losses are compared with those of the others."""
    numbers = itertools.count()
    facts |= {"tokens": settings.tokens, "losses": []}

    def run():
        loss = step()
        if next(numbers) < STEPS:
            facts["losses"].append(loss)
            facts["greatest_difference"] = _compare(settings, facts["losses"])

    return Runner(run, seconds, memory, facts=facts)


def _compare(settings: Settings, losses: list[float]) -> float:
    """Return the greatest difference from the other sides' losses so far.

    Raises:
        Disagreement: it is not below the tolerance, or the first loss is not log 2.
    """
    seen = SEEN.setdefault(settings, [math.log(2)])
    seen.extend(losses[len(seen) :])
    differences = [abs(a - b) for a, b in zip(losses, seen, strict=False)]
    if not max(differences) < TOLERANCE:
        raise Disagreement(f"losses {losses} of one side, {seen} of another")
    return max(differences)
