"""Towers of texts and of pictures in CLIP's form, fitted to each other on scenes and captions.

Several pictures of a batch may have one caption: each is then as right as the others. What comes of
it is a folder that `rewards.clip_score` and transformers load; it is the proxy of fine-tuning, and
its tower of texts reads the prompts of the generator.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import check_count, refuse
from ctrl_jax.data import load_tokenizer
from ctrl_jax.networks.functional import Network
from ctrl_jax.networks.text_to_image.clip import clip
from ctrl_jax.pretrained.diffusers.clip import clip_table, read_clip
from ctrl_jax.pretrained.key_table import unfill
from ctrl_jax.pretrained.safetensors_file import write_safetensors
from ctrl_jax.rewards import read_preprocessing
from ctrl_jax.rewards.preprocessing import CLIP_MEAN, CLIP_STD
from experiments.study import Conduct
from experiments.text_to_image import tokenizer
from experiments.text_to_image.scenes import SIDE, Request, draw, draw_requests
from experiments.text_to_image.things import Things
from experiments.text_to_image.training import Training, fit

HEADS = 4


@dataclasses.dataclass(frozen=True)
class Towers:
    """Size and training of both towers.

    Args:
        width: size of a hidden state, a multiple of 4.
        depth: blocks of the tower of pictures; that of texts has two.
        training: of both.
    """

    width: int = 64
    depth: int = 3
    training: Training = dataclasses.field(
        default_factory=lambda: Training(steps=1000, batch=128, learning_rate=1e-3)
    )

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("towers.width", self.width)
        check_count("towers.depth", self.depth)
        if self.width % HEADS:
            rule = f"it must be a multiple of {HEADS}"
            raise refuse("towers.width", self.width, rule, "give 64")
        self.training.check("towers.training")


def text_record(options: Towers, texts: Sequence[str]) -> dict[str, Any]:
    """Return the config.json of a tower of texts."""
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": len(tokenizer.vocabulary(texts)),
        "max_position_embeddings": longest(texts),
        "num_hidden_layers": 2,
        "eos_token_id": tokenizer.END_ID,
        "bos_token_id": tokenizer.BEGIN_ID,
        "pad_token_id": tokenizer.END_ID,
        **_sizes(options),
    }


def longest(texts: Sequence[str]) -> int:
    """Return the number of tokens of the longest text."""
    return 2 + max(len(text.split()) for text in texts)


def train(
    study: Conduct,
    folder: Path,
    stage: str,
    options: Towers,
    found: Sequence[Request],
    known: Things,
) -> dict[str, Any]:
    """Fit the towers, write them to a folder, and return how often they match held-out pictures."""
    captions = [request.caption for request in found]
    write_records(folder, options, captions)
    net = clip(read_clip(json.loads((folder / "config.json").read_text())))
    tokens = padded(load_tokenizer(folder), captions)
    see, seed = read_preprocessing(folder), study.config.run.seed

    def batch(k: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng([seed, 3, k])
        rows = draw_requests(generator, found, options.training.batch)
        return np.asarray(rows), draw(generator, [found[i] for i in rows], known)[0]

    def loss_fn(params, key, batch):
        rows, pictures = batch
        pictures = see(pictures.astype(jnp.float32) / 255)
        logits = net.apply(params, jnp.asarray(tokens)[rows], pictures)
        same = (rows[:, None] == rows[None]).astype(jnp.float32)
        return (_matched(logits, same) + _matched(logits.T, same)) / 2

    params = fit(study, stage, options.training, net.init, loss_fn, batch)
    write_safetensors(folder / "model.safetensors", unfill(params, clip_table(net.shapes)))
    rows = np.asarray(draw_requests(np.random.default_rng([seed, 4]), found, 512))
    generator = np.random.default_rng([seed, 5])
    pictures = draw(generator, [found[i] for i in rows], known)[0]
    logits = _compared(net, params, tokens, see(jnp.asarray(pictures, jnp.float32) / 255))
    best = np.asarray(jnp.argmax(logits, axis=0))
    return {"towers/retrieval": float(np.mean(best == rows))}


def _compared(net: Network, params: Any, tokens: np.ndarray, pictures: Array) -> Array:
    return jax.jit(net.apply)(params, jnp.asarray(tokens), pictures)


def _matched(logits: Float[Array, "n n"], same: Float[Array, "n n"]) -> Float[Array, ""]:
    """Cross entropy of each row against all that are its own."""
    shares = same / jnp.sum(same, axis=1, keepdims=True)
    return -jnp.mean(jnp.sum(shares * jax.nn.log_softmax(logits, axis=1), axis=1))


def padded(words: Any, texts: Sequence[str]) -> Int[np.ndarray, "texts tokens"]:
    """Return the tokens of texts, filled with the end token."""
    rows = words([*texts])["input_ids"]
    most = longest(texts)
    return np.asarray([[*row, *[row[-1]] * (most - len(row))] for row in rows], np.int32)


def write_records(folder: Path, options: Towers, texts: Sequence[str]) -> None:
    """Write everything of the towers' folder but the weights."""
    seen = {"image_size": SIDE, "patch_size": 8, "num_hidden_layers": options.depth}
    record = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": options.width,
        "text_config": text_record(options, texts),
        "vision_config": {"model_type": "clip_vision_model", **seen, **_sizes(options)},
    }
    side = {"height": SIDE, "width": SIDE}
    preprocessing = {
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "size": {"shortest_edge": SIDE},
        "crop_size": side,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "image_processor_type": "CLIPImageProcessor",
    }
    for name, content in (("config", record), ("preprocessor_config", preprocessing)):
        text = json.dumps(content, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    tokenizer.write(folder, texts, longest(texts))


def _sizes(options: Towers) -> dict[str, Any]:
    return {
        "hidden_size": options.width,
        "intermediate_size": 4 * options.width,
        "num_attention_heads": HEADS,
        "projection_dim": options.width,
        "hidden_act": "quick_gelu",
    }
