"""The detector as a reward with a derivative: how probable it finds what was asked for.

With p_k(a) the probability that the thing a stands at place k, and A(c) the ways in which
a caption c can be right,

    P(x, c) = sum_{a in A(c)} prod_k p_k(a_k | x),

which is one or zero where the detector is sure, and has no slope there. Its logarithm has one
wherever a picture is wrong.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ctrl_jax._records import read_json
from ctrl_jax.pretrained.key_table import fill
from ctrl_jax.pretrained.safetensors_file import read_safetensors
from ctrl_jax.pretrained.torch_names import torch_table
from ctrl_jax.rewards import PictureReward
from experiments.text_to_image.detector import RECORD, WEIGHTS, is_right, network
from experiments.text_to_image.scenes import PLACES, Request, requests
from experiments.text_to_image.things import things

NONE = -1
"""In the place of an answer: there is no such way."""


def probability(folder: str) -> PictureReward:
    """Return the reward P, of a detector's folder.

    Its `encode` takes captions of `requests`, and returns their ways (captions, ways, places).
    """
    return _reward(folder, jnp.exp)


def log_probability(folder: str) -> PictureReward:
    """Return the reward log P, of a detector's folder.

    Its `encode` takes captions of `requests`, and returns their ways (captions, ways, places).
    """
    return _reward(folder, lambda log_p: log_p)


def _reward(folder: str, of: Callable[[Array], Array]) -> PictureReward:
    record = read_json(Path(folder) / RECORD)
    known, names = things(record["kind"]), record["names"]
    net = network(len(names))
    params = fill(net.shapes, torch_table(net.shapes), read_safetensors(Path(folder) / WEIGHTS))
    by_caption = {request.caption: ways(request, names) for request in requests(known)}
    most = max(map(len, by_caption.values()))

    def encode(texts: Sequence[str]) -> Int[Array, "texts ways places"]:
        encoded = np.full((len(texts), most, PLACES), NONE, np.int32)
        for row, text in zip(encoded, texts, strict=True):
            row[: len(by_caption[text])] = by_caption[text]
        return jnp.asarray(encoded)

    def apply(params, pictures, encoded) -> Float[Array, " batch"]:
        log_p = jax.nn.log_softmax(net.apply(params, pictures))
        found = jnp.take_along_axis(log_p, jnp.maximum(encoded, 0).swapaxes(1, 2), axis=2)
        each = jnp.where(encoded[..., 0] != NONE, jnp.sum(found, axis=1), -jnp.inf)
        return of(jax.nn.logsumexp(each, axis=1))

    return PictureReward(params, apply, encode)


def ways(request: Request, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Return what may stand at each place, by number, for the request to be right."""
    numbers = [names.index(name) for name in request.things]
    numbers += [len(names)] * (PLACES - len(numbers))
    some = sorted(set(itertools.permutations(numbers)))
    return [way for way in some if is_right(way, request, names)]
