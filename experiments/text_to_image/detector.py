"""The gold measure: which thing stands at each place of a picture, and whether that was asked for.

A small convolutional network is fitted on renderings of its own, blurred, noisy and moved by parts
of a pixel as those of a generator are. It knows two answers more than things: an empty place, and
one that is not clearly anything, as halves of two things are.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax._records import read_json, write_json_atomic
from ctrl_jax._typing import Params
from ctrl_jax.networks.functional import Network, as_network
from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.pretrained.key_table import fill, unfill
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors
from ctrl_jax.pretrained.torch_names import torch_table
from experiments.study import Conduct
from experiments.text_to_image.scenes import (
    CATEGORIES,
    GRID,
    PLACES,
    Request,
    assembled,
    draw,
    draw_requests,
    request_of,
)
from experiments.text_to_image.things import CELL, Kind, Things, sprites, things
from experiments.text_to_image.training import Training, fit

WEIGHTS, RECORD = "detector.safetensors", "detector.json"
TOGETHER = 64
"""Pictures looked at by one call."""

Look = Callable[[np.ndarray], np.ndarray]


class Detector(nnx.Module):
    """Three convolutions of stride 2, then two layers for every place."""

    def __init__(self, make: Layers, answers: int, width: int = 32):
        self.conv1 = make.convolution(3, width, stride=2)
        self.conv2 = make.convolution(width, 2 * width, stride=2)
        self.conv3 = make.convolution(2 * width, 2 * width, stride=2)
        across = CELL // 8
        self.hidden = make.linear(across**2 * 2 * width, 4 * width)
        self.out = make.linear(4 * width, answers)

    def __call__(self, pictures: Float[Array, "batch h w 3"]) -> Float[Array, "batch places _"]:
        """Return logits of what stands where, of pictures in [0, 1]."""
        x = 2 * pictures - 1
        for layer in (self.conv1, self.conv2, self.conv3):
            x = jax.nn.gelu(layer(x))
        across = CELL // 8
        x = x.reshape(len(x), GRID, across, GRID, across, -1).swapaxes(2, 3)
        return self.out(jax.nn.gelu(self.hidden(x.reshape(len(x), PLACES, -1))))


def network(number: int) -> Network:
    """Return the network that tells so many things apart."""
    return as_network(lambda make: Detector(make, number + 2))


def train(
    study: Conduct, folder: Path, stage: str, kind: Kind, options: Training
) -> dict[str, Any]:
    """Fit the detector, write it to a folder, and return how often it is right by category."""
    known = things(kind)
    net, seed = network(len(known.names)), study.config.run.seed

    def batch(k: int) -> tuple[np.ndarray, np.ndarray]:
        return examples(np.random.default_rng([seed, 1, k]), known, options.batch)

    def loss_fn(params, key, batch):
        pictures, what = batch
        logits = net.apply(params, disturbed(key, pictures.astype(jnp.float32) / 255))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, what))

    params = fit(study, stage, options, net.init, loss_fn, batch)
    write(folder, known, params)
    return accuracy(load(str(folder)), known, seed)


def write(folder: Path, known: Things, params: Params) -> None:
    """Write a detector of things to a folder."""
    table = torch_table(network(len(known.names)).shapes)
    write_safetensors(folder / WEIGHTS, unfill(params, table))
    write_json_atomic(folder / RECORD, {"kind": known.kind, "names": list(known.names)})


def examples(
    generator: np.random.Generator, known: Things, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of anything anywhere, and what stands at each place, unclear things too."""
    shape, empty = (number, PLACES), len(known.names)
    parts = sprites(known.kind)
    cells = np.concatenate([parts, np.full_like(parts[:1], 255)])
    what = generator.integers(empty, size=shape)
    what = np.where(generator.random(shape) < 0.4, empty, what)
    sizes = generator.integers(parts.shape[1], size=(2, *shape))
    chosen = cells[what, sizes[0]].astype(np.float32)
    other = generator.integers(empty + 1, size=shape)
    share = generator.uniform(0.35, 0.65, size=shape)
    share = np.where((other != what) & (generator.random(shape) < 0.15), share, 0.0)
    mixed = share[..., None, None, None]
    chosen = (1 - mixed) * chosen + mixed * cells[other, sizes[1]]
    return assembled(chosen.astype(np.uint8)), np.where(share > 0, empty + 1, what)


def disturbed(key: Array, pictures: Float[Array, "batch h w 3"]) -> Float[Array, "batch h w 3"]:
    """Return pictures moved by up to a pixel, blurred and noisy, each by its own amount."""
    keys = jax.random.split(key, 4)
    amount = (len(pictures), 1, 1, 1)
    for axis, own in ((1, keys[0]), (2, keys[1])):
        by = jax.random.uniform(own, amount, minval=-1.0, maxval=1.0)
        aside = jnp.where(by > 0, jnp.roll(pictures, 1, axis), jnp.roll(pictures, -1, axis))
        pictures = (1 - jnp.abs(by)) * pictures + jnp.abs(by) * aside
    blurred = sum(jnp.roll(pictures, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    share, size = jax.random.uniform(keys[2], (2, *amount))
    noise = jax.random.normal(keys[3], pictures.shape)
    return pictures + 0.7 * share * (blurred - pictures) + 0.12 * size * noise


@cache
def load(folder: str) -> Look:
    """Return ``look(pictures)`` of the detector in a folder.

    It takes pictures (batch, SIDE, SIDE, 3) in bytes and returns (batch, PLACES), the number of the
    thing at each place, or one of the two numbers after the last for an empty or an unclear one.
    """
    names = read_json(Path(folder) / RECORD)["names"]
    net = network(len(names))
    params = fill(net.shapes, torch_table(net.shapes), read_safetensors(Path(folder) / WEIGHTS))
    found = jax.jit(lambda pictures: jnp.argmax(net.apply(params, pictures / 255), axis=-1))

    def look(pictures: np.ndarray) -> np.ndarray:
        filled = np.concatenate([pictures, pictures[:1].repeat(-len(pictures) % TOGETHER, axis=0)])
        parts = filled.reshape(-1, TOGETHER, *pictures.shape[1:]).astype(np.float32)
        return np.concatenate([np.asarray(found(part)) for part in parts])[: len(pictures)]

    return look


def is_right(what: Sequence[int], request: Request, names: Sequence[str]) -> bool:
    """Return whether what stands at each place is what was asked for, and nothing else is there."""
    filled = {place: number for place, number in enumerate(what) if number != len(names)}
    if any(number > len(names) for number in filled.values()):
        return False
    shown = {place: names[number] for place, number in filled.items()}
    if sorted(shown.values()) != sorted(request.things):
        return False
    if not request.relation:
        return True
    places = {name: divmod(place, GRID) for place, name in shown.items()}
    (row, column), (other_row, other_column) = (places[name] for name in request.things)
    return {
        "left of": column < other_column,
        "right of": column > other_column,
        "above": row < other_row,
        "below": row > other_row,
    }[request.relation]


def judge(folder: str, pictures: np.ndarray, asked: Sequence[Request]) -> np.ndarray:
    """Return whether each picture shows what was asked for, by the detector in a folder."""
    names = read_json(Path(folder) / RECORD)["names"]
    found = load(folder)(pictures)
    return np.asarray([is_right(w, r, names) for w, r in zip(found, asked, strict=True)])


def success(
    images: np.ndarray, prompts: list[str], records: list[dict[str, Any]]
) -> Sequence[float]:
    """Return one for each picture that is right and zero for the others: a reward of the host.

    Args:
        images: (batch, SIDE, SIDE, 3) in bytes.
        prompts: captions.
        records: of each, `Request.record` and the folder of the detector as "detector".
    """
    asked = [request_of(prompt, record) for prompt, record in zip(prompts, records, strict=True)]
    return judge(records[0]["detector"], images, asked).astype(float).tolist()


def accuracy(
    look: Look,
    known: Things,
    seed: int,
    *,
    number: int = 512,
    through: Callable[[np.ndarray], np.ndarray] = lambda pictures: pictures,
) -> dict[str, float]:
    """Return the share of held-out renderings of each category that a detector calls right.

    Args:
        look: the detector.
        known: what there is to draw.
        seed: of the run; these renderings are of another stream than those of training.
        number: renderings of each category.
        through: what becomes of the pictures before they are looked at.
    """
    from experiments.text_to_image.scenes import requests

    found, shares = requests(known, seed), {}
    for category in CATEGORIES:
        generator = np.random.default_rng([seed, 2, CATEGORIES.index(category)])
        some = [request for request in found if request.category == category]
        asked = [some[i] for i in draw_requests(generator, some, number)]
        pictures = through(draw(generator, asked, known)[0])
        what = look(pictures)
        right = [is_right(w, r, known.names) for w, r in zip(what, asked, strict=True)]
        shares[f"accuracy/{category}"] = float(np.mean(right))
    return shares


def by_category(right: np.ndarray, asked: Sequence[Request], name: str) -> Mapping[str, float]:
    """Return the share of right pictures by category, in those seen, unseen, and in all.

    Categories count alike in the latter three, as in GenEval; those of seen and of unseen captions
    have standard errors of pictures that are drawn independently.
    """
    groups: dict[str, dict[str, list[bool]]] = {f"{name}/seen": {}, f"{name}/unseen": {}, name: {}}
    for value, request in zip(right, asked, strict=True):
        for group in (f"{name}/seen" if request.seen else f"{name}/unseen", name):
            groups[group].setdefault(request.category, []).append(bool(value))
    shares = {}
    for group, categories in groups.items():
        means = [float(np.mean(some)) for some in categories.values()]
        errors = [np.var(some) / len(some) for some in categories.values()]
        if not means:
            continue
        shares[group] = float(np.mean(means))
        if group != name:
            shares |= {f"{group}/{c}": mean for c, mean in zip(categories, means, strict=True)}
            shares[f"{group}/stderr"] = float(np.sqrt(np.sum(errors)) / len(errors))
    return shares
