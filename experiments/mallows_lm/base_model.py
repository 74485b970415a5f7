"""The base model: a decoder over bytes, trained to predict the next one."""

import dataclasses
import lzma
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import check_count, check_fields, check_positive, refuse
from ctrl_jax._typing import Params
from ctrl_jax.algorithms.base import Learner, apply_gradient
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.losses import token_log_prob
from ctrl_jax.networks import DecoderConfig, LanguageModel, Rotary, language_model
from experiments.mallows_lm.text import VOCABULARY, Corpus, encode
from experiments.study import Conduct

HEAD = 32


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """The base model and its training.

    Args:
        width: size of a hidden state, a multiple of 32.
        depth: number of blocks.
        steps: updates.
        batch: pieces of text of an update.
        window: bytes of a piece.
        learning_rate: of AdamW, at its highest: it rises over a tenth of the updates and falls as a
            cosine.
    """

    width: int = 64
    depth: int = 3
    steps: int = 1600
    batch: int = 32
    window: int = 96
    learning_rate: float = 3e-3

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_count, "width", "depth", "steps", "batch", group="base")
        check_count("base.window", self.window, least=2)
        check_positive("base.learning_rate", self.learning_rate)
        if self.width < HEAD or self.width % HEAD:
            rule = f"it must be a multiple of {HEAD}, the size of a head"
            raise refuse("base.width", self.width, rule, "give 64 or 96")

    def decoder(self) -> DecoderConfig:
        """Return the description of the network."""
        return DecoderConfig(
            vocabulary=VOCABULARY,
            width=self.width,
            depth=self.depth,
            heads=self.width // HEAD,
            key_heads=self.width // HEAD,
            head_width=HEAD,
            hidden=2 * self.width,
            positions=Rotary(),
        )


def pretrain(options: BaseModel, corpus: Corpus, study: Conduct) -> Params:
    """Train the model, or take it from the run's checkpoints."""
    model, seed = language_model(options.decoder()), study.config.run.seed
    text, step, optimizer = encode(corpus.pretraining), *_make_step(options, model)
    params = model.init(jax.random.key(seed))

    def batch(k: int) -> np.ndarray:
        places = np.random.default_rng([seed, k]).integers(
            len(text) - options.window, size=options.batch
        )
        return text[places[:, None] + np.arange(options.window + 1)]

    state = study.train(
        step,
        Learner(params, optimizer.init(params)),
        batch,
        options.steps,
        fetch_every=20,
        checkpoint_every=500,
        description="base model",
        # A small batch need not divide by the devices of one process; several share theirs.
        mesh=None if jax.process_count() == 1 else study.mesh,
    )
    return state.params


def _make_step(options: BaseModel, model: LanguageModel):
    rise = max(1, options.steps // 10)
    rate = make_schedule(options.learning_rate, options.steps, warmup=rise, final=0.02)
    optimizer = adam(rate, weight_decay=0.05, b2=0.99)

    def step(state: Learner, tokens):
        objective = lambda params: jnp.mean(bits(model, params, tokens))  # noqa: E731
        loss, gradient = jax.value_and_grad(objective)(state.params)
        state, finite = apply_gradient(state, gradient, optimizer)
        return state, {"bits_per_byte": loss, "update/finite": finite.astype(loss.dtype)}

    return step, optimizer


def bits(model: LanguageModel, params: Params, tokens) -> jax.Array:
    """Return the bits of every byte but the first of each piece, (pieces * (bytes - 1),)."""
    hidden = model.apply(params, tokens[:, :-1])
    hidden = hidden.reshape(-1, hidden.shape[-1])
    log_probs = token_log_prob.token_log_probs(
        hidden, model.head(params), tokens[:, 1:].reshape(-1)
    )
    return -log_probs / jnp.log(2.0)


def measure(options: BaseModel, params: Params, corpus: Corpus) -> dict[str, Any]:
    """Return bits per byte of text that was not read, beside those of compressors.

    The model starts afresh every `window` bytes. A compressor is also given the pretraining text
    to read first: its bits are then what the unread text adds.
    """
    model = language_model(options.decoder())
    mean_bits = jax.jit(lambda tokens: jnp.mean(bits(model, params, tokens)))
    found = {}
    for name in ("held_out", "elsewhere"):
        paragraphs = getattr(corpus, name)
        text = encode(paragraphs)[:25_000]
        rows = len(text) // (options.window + 1)
        pieces = text[: rows * (options.window + 1)].reshape(rows, -1)
        found[f"bits_per_byte/{name}/model"] = float(mean_bits(pieces))
        for compressor, value in _compressed(corpus.pretraining, text).items():
            found[f"bits_per_byte/{name}/{compressor}"] = value
    return found


def _compressed(read: Sequence[str], text: np.ndarray) -> dict[str, float]:
    before, own = (bytes(np.asarray(t, np.uint8)) for t in (encode(read), text))
    sizes = {
        "zlib": len(zlib.compress(own, 9)),
        "lzma": len(lzma.compress(own, preset=9)),
        "lzma that has read": (
            len(lzma.compress(before + own, preset=9)) - len(lzma.compress(before, preset=9))
        ),
    }
    return {name: 8 * size / len(own) for name, size in sizes.items()}
