"""Rewards of published models that see a picture through a tower of CLIP (2103.00020).

Folders are local, as transformers saves them; nothing is downloaded. The prompts' tower is in
memory while `PictureReward.encode` runs, and at no other time.
Source: Hessel et al. 2104.08718, Kirstain et al. 2305.01569, Wu et al. 2306.09341; Schuhmann's
improved aesthetic predictor (2022).
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ctrl_jax._checks import check_positive, refuse
from ctrl_jax._records import read_json
from ctrl_jax._sums import check_sums
from ctrl_jax._typing import Params
from ctrl_jax.data.preferences.tokenizer import load_tokenizer
from ctrl_jax.networks.functional import Network
from ctrl_jax.networks.text_to_image.clip import clip_text, clip_vision
from ctrl_jax.networks.text_to_image.clip_config import CLIPTextConfig
from ctrl_jax.pretrained.diffusers.clip import (
    clip_arrays,
    clip_table,
    read_clip,
    read_clip_vision,
)
from ctrl_jax.pretrained.key_table import fill
from ctrl_jax.pretrained.safetensors_file import read_safetensors
from ctrl_jax.pretrained.weight_files import read_weights
from ctrl_jax.rewards.picture_reward import PictureReward
from ctrl_jax.rewards.preprocessing import Preprocessing, read_preprocessing
from ctrl_jax.rewards.prompt_tokens import prompt_tokens

FLOATS = (np.float32, np.float16, jnp.bfloat16)
TOGETHER = 64  # texts encoded at once
HEAD = (0, 2, 4, 6, 7)  # numbers of its layers in the file; between them was dropout
PICKLES = (".pth", ".pt", ".bin", ".ckpt")


def clip_score(
    folder: str | os.PathLike[str],
    *,
    scale: float = 100.0,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> PictureReward:
    """Return the CLIP score: how well a picture matches its prompt.

    It is scale max(<i, e>, 0), with i the embedding of the picture and e that of its prompt, both
    of length one.

    Args:
        folder: of any CLIP model: config.json, weights, preprocessor_config.json and tokenizer.
        scale: 100 by default, as torchmetrics and most tables have it; 2.5 in the paper.
        dtype: type of the towers' arithmetic and weights.
        remat: whether the tower's blocks are computed again for the derivative in the pictures:
            less than half the memory, one more pass forward.

    Raises:
        ValueError: the folder lacks a file, holds another model, or has an entry that is not
            understood; of `apply`, pictures or embeddings of another shape.

    Source: Hessel et al. 2021 (2104.08718), equation 1.
    """
    check_positive("clip_score.scale", scale)
    tower = _load_tower(folder, dtype, remat)

    def apply(params, pictures, embeddings):
        return scale * jnp.maximum(_cosines(tower, params, pictures, embeddings), 0.0)

    return PictureReward(tower.params, apply, partial(_encode, Path(folder), dtype))


def pick_score(
    folder: str | os.PathLike[str], *, dtype: DTypeLike = jnp.float32, remat: bool = False
) -> PictureReward:
    """Return PickScore: which picture people choose for a prompt; around 20 for good ones.

    It is exp(s) <i, e>, with i the embedding of the picture and e that of its prompt, both of
    length one, and s the `logit_scale` of the file: CLIP-H trained on 500 000 choices. A difference
    of one is a choice of the better one with odds e to 1. Some training code divides it by 26.

    Args:
        folder: of PickScore_v1, with the preprocessor_config.json and the tokenizer of
            CLIP-ViT-H-14-laion2B-s32B-b79K where it has none.
        dtype: type of the towers' arithmetic and weights.
        remat: whether the tower's blocks are computed again for the derivative in the pictures:
            less than half the memory, one more pass forward.

    Raises:
        ValueError: the folder lacks a file, holds another model, or has an entry that is not
            understood; of `apply`, pictures or embeddings of another shape.

    Source: Kirstain et al. 2023 (2305.01569), section 3, and their published code.
    """
    tower = _load_tower(folder, dtype, remat)
    if tower.log_scale is None:
        rule = "its weights hold no logit_scale, which PickScore multiplies by"
        raise refuse("folder", str(folder), rule, "give the folder of both towers, a CLIPModel")

    def apply(params, pictures, embeddings):
        cosines = _cosines(tower, params["vision"], pictures, embeddings)
        return jnp.exp(params["log_scale"]) * cosines

    params = {"vision": tower.params, "log_scale": tower.log_scale}
    return PictureReward(params, apply, partial(_encode, Path(folder), dtype))


def hps(
    folder: str | os.PathLike[str], *, dtype: DTypeLike = jnp.float32, remat: bool = False
) -> PictureReward:
    """Return the Human Preference Score v2; around 0.28, which tables show times 100.

    It is <i, e>, with i the embedding of the picture and e that of its prompt, both of length one:
    CLIP-H trained on 800 000 choices. Pictures that are no squares are shown whole on black, as in
    the published code.

    Args:
        folder: of HPS v2 or v2.1 in transformers' format, a `CLIPModel`, with the
            preprocessor_config.json and the tokenizer of CLIP-ViT-H-14-laion2B-s32B-b79K.
        dtype: type of the towers' arithmetic and weights.
        remat: whether the tower's blocks are computed again for the derivative in the pictures:
            less than half the memory, one more pass forward.

    Raises:
        ValueError: the folder lacks a file, holds another model, or has an entry that is not
            understood; of `apply`, pictures or embeddings of another shape.

    Source: Wu et al. 2023 (2306.09341), section 4, and their published code.
    """
    tower = _load_tower(folder, dtype, remat, padded=True)

    def apply(params, pictures, embeddings):
        return _cosines(tower, params, pictures, embeddings)

    return PictureReward(tower.params, apply, partial(_encode, Path(folder), dtype))


def aesthetic(
    folder: str | os.PathLike[str],
    head: str | os.PathLike[str],
    *,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> PictureReward:
    """Return the aesthetic score: how people would mark a picture, from 1 to 10.

    It is A i + b, with i the picture's embedding of length one: five linear layers in a row, fitted
    to people's marks.

    The head's file holds `layers.N.weight` and `layers.N.bias` for N = 0, 2, 4, 6, 7. Whoever has
    it as sac+logos+ava1-l14-linearMSE.pth converts it once, where that file is trusted::

        state = torch.load("sac+logos+ava1-l14-linearMSE.pth", weights_only=True)
        safetensors.torch.save_file(state, "aesthetic.safetensors")

    Args:
        folder: of the CLIP model that it was fitted to, clip-vit-large-patch14; texts play no part.
        head: the safetensors file of the five layers.
        dtype: type of the tower's arithmetic and weights; the head is in float32.
        remat: whether the tower's blocks are computed again for the derivative in the pictures:
            less than half the memory, one more pass forward.

    Raises:
        ValueError: folder or file lacks something, holds another model, or has an entry that is not
            understood; of `apply`, pictures of another shape.

    Source: Schuhmann 2022, improved-aesthetic-predictor; as a reward Black et al. 2305.13301.
    """
    tower = _load_tower(folder, dtype, remat)
    layers = _read_head(head, tower.width)

    def apply(params, pictures):
        x = tower.embed(params["vision"], pictures)
        for layer in params["head"]:
            x = jnp.matmul(x, layer["kernel"], precision="highest") + layer["bias"][None]
        return x[:, 0]

    return PictureReward({"vision": tower.params, "head": layers}, apply)


class Tower(NamedTuple):
    """A tower of pictures.

    Fields:
        params: its weights.
        embed: ``embed(params, pictures)`` returns embeddings (batch, width) of length one.
        width: of an embedding.
        log_scale: the logarithm of what cosines are multiplied by; None where the file has none.
    """

    params: Params
    embed: Callable[[Params, Array], Array]
    width: int
    log_scale: Array | None


def _load_tower(
    folder: str | os.PathLike[str], dtype: DTypeLike, remat: bool, *, padded: bool = False
) -> Tower:
    check_sums(folder, "folder")
    record = read_json(
        Path(folder) / "config.json", name="folder", repair="give the folder of a CLIP model"
    )
    config = read_clip_vision(record)
    if config.projection is None:
        rule = "its pictures have no projection, and so no embedding beside that of a text"
        raise refuse("folder", str(folder), rule, "give that of a CLIPModel")
    preprocessing = read_preprocessing(folder)
    sides = preprocessing.height, preprocessing.width
    if sides != (config.image, config.image):
        rule = f"the tower takes pictures of {config.image} by {config.image}"
        repair = "give the preprocessor_config.json of this model"
        raise refuse("folder: the size after preprocessing", sides, rule, repair)
    preprocessing = preprocessing._replace(padded=padded)
    network = clip_vision(config, dtype=dtype, param_dtype=dtype, remat=remat)
    arrays = read_weights(folder)
    scale = arrays.get("logit_scale")
    return Tower(
        _weights(network, clip_arrays(arrays, "vision")),
        partial(_embed, network, preprocessing),
        config.projection,
        None if scale is None else jnp.asarray(scale, jnp.float32).reshape(()),
    )


def _weights(network: Network, arrays: dict[str, np.ndarray]) -> Params:
    return fill(network.shapes, clip_table(network.shapes), arrays, converted=FLOATS)


def _embed(
    network: Network, preprocessing: Preprocessing, params: Params, pictures: Array
) -> Float[Array, "batch width"]:
    return _of_length_one(network.apply(params, preprocessing(pictures)).embedding)


def _of_length_one(x: Array) -> Array:
    exact = x.astype(jnp.float32)
    return exact / jnp.linalg.norm(exact, axis=-1, keepdims=True)


def _cosines(tower: Tower, params: Params, pictures: Array, texts: Array) -> Float[Array, " batch"]:
    shape = (len(pictures), tower.width)
    if texts.shape != shape:
        rule = f"there must be one of each picture's prompt, shape {shape}"
        raise refuse("embeddings", texts, rule, "gather what encode returns by prompt")
    found = tower.embed(params, pictures)
    return jnp.sum(found * texts.astype(found.dtype), axis=-1)


def _encode(folder: Path, dtype: DTypeLike, texts: Sequence[str]) -> Float[Array, "texts width"]:
    """Return the embeddings of texts, with the tower as long as it takes."""
    config = read_clip(read_json(folder / "config.json", name="folder")).text
    tokens = _filled(prompt_tokens(load_tokenizer(folder), texts, config.positions), config)
    network = clip_text(config, dtype=dtype, param_dtype=dtype)
    params = _weights(network, clip_arrays(read_weights(folder), "text"))
    embed = jax.jit(lambda params, tokens: _of_length_one(network.apply(params, tokens).embedding))
    together = min(TOGETHER, len(tokens))
    filled = np.concatenate([tokens, tokens[:1].repeat(-len(tokens) % max(together, 1), axis=0)])
    parts = [embed(params, filled[i : i + together]) for i in range(0, len(tokens), together or 1)]
    found = jnp.concatenate(parts) if parts else jnp.zeros((0, config.projection or 0))
    return found[: len(tokens)]


def _filled(rows: list[list[int]], config: CLIPTextConfig) -> np.ndarray:
    """Tokens (texts, positions), filled up behind the end, where nothing is seen."""
    tokens = np.zeros((len(rows), config.positions), np.int32)
    for i, row in enumerate(rows):
        if not row or max(row) >= config.vocabulary or config.end not in (None, row[-1]):
            rule = f"they must end with {config.end}, below {config.vocabulary}"
            raise refuse("the tokens of a text", row, rule, "save this model's tokenizer there")
        tokens[i] = row[-1]
        tokens[i, : len(row)] = row
    return tokens


def _read_head(path: str | os.PathLike[str], width: int) -> list[dict[str, Array]]:
    if Path(path).suffix in PICKLES:
        rule = "files of PyTorch's own format can run code, and are not read"
        repair = "convert it where it is trusted, as help(rewards.aesthetic) shows"
        raise refuse("head", str(path), rule, repair)
    arrays: dict[str, Any] = dict(read_safetensors(path))
    names = [f"layers.{i}.{part}" for i in HEAD for part in ("weight", "bias")]
    if sorted(arrays) != sorted(names):
        rule = f"it must hold {', '.join(names)}"
        raise refuse("head", sorted(arrays), rule, "give the five linear layers")
    layers, inputs = [], width
    for i in HEAD:
        weight, bias = (arrays[f"layers.{i}.{part}"] for part in ("weight", "bias"))
        outputs = 1 if i == HEAD[-1] else len(bias)
        if weight.shape != (outputs, inputs) or bias.shape != (outputs,):
            rule = f"weight and bias must be ({outputs}, {inputs}) and ({outputs},)"
            repair = "give the head of this very CLIP model"
            raise refuse(f"head: layers.{i}", (weight.shape, bias.shape), rule, repair)
        kernel = jnp.asarray(np.array(weight, np.float32).T)
        layers.append({"kernel": kernel, "bias": jnp.asarray(np.array(bias, np.float32))})
        inputs = outputs
    return layers
