"""How each kind of pipeline turns prompts into what its network is given beside the noisy picture.

    Stable Diffusion 1, 2   the last hidden states of one CLIP, normalized;
    XL                      the hidden states before the last block of two CLIPs, side by side, the
                            projected end of the second, and six numbers of sizes and crops;
    3                       those of two CLIPs, filled with zeros to the width of T5's states, which
                            follow as further tokens, and both projected ends side by side.

Each distinct text is encoded once. Texts that are longer than the tokenizer's length are cut, as in
diffusers, with a line that names them.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax._typing import Params
from ctrl_jax.pretrained.diffusers.parts import Part

Ids = Mapping[str, Int[Array, "texts tokens"]]
Conditions = tuple[Array, ...]


class TextEncoding(NamedTuple):
    """How prompts become conditions.

    Fields:
        encoders: the text encoders by name, each with its tokenizer; some may be absent.
        encode: ``encode(parts, params, ids, size, longest) -> conditions``, leading axis texts;
            `ids` by text encoder, `size` the (height, width) of the picture in pixels, `longest`
            the number of T5's tokens.
    """

    encoders: Mapping[str, str]
    encode: Callable[
        [Mapping[str, Part], Mapping[str, Params], Ids, tuple[int, int], int], Conditions
    ]


def _stable_diffusion(parts, params, ids, size, longest) -> Conditions:
    name = "text_encoder"
    found = parts[name].network.apply(params[name], ids[name])
    return (found.hidden,)


def _xl(parts, params, ids, size, longest) -> Conditions:
    states = {name: parts[name].network.apply(params[name], ids[name]) for name in XL.encoders}
    hidden = jnp.concatenate([found.penultimate for found in states.values()], axis=-1)
    pooled = states["text_encoder_2"].embedding
    height, width = size
    numbers = jnp.asarray([height, width, 0, 0, height, width], pooled.dtype)
    return hidden, pooled, jnp.broadcast_to(numbers, (len(pooled), 6))


def _three(parts, params, ids, size, longest) -> Conditions:
    clips = [
        parts[name].network.apply(params[name], ids[name])
        for name in ("text_encoder", "text_encoder_2")
    ]
    hidden = jnp.concatenate([found.penultimate for found in clips], axis=-1)
    pooled = jnp.concatenate([found.embedding for found in clips], axis=-1)
    width = parts["transformer"].config.text_width
    hidden = jnp.pad(hidden, ((0, 0), (0, 0), (0, width - hidden.shape[-1])))
    if "text_encoder_3" in parts:
        longer = parts["text_encoder_3"].network.apply(
            params["text_encoder_3"], ids["text_encoder_3"]
        )
    else:
        longer = jnp.zeros((len(hidden), longest, width), hidden.dtype)
    return jnp.concatenate([hidden, longer.astype(hidden.dtype)], axis=1), pooled


LONGEST_T5 = 256
LONGEST_SHOWN = 120  # letters of a text in a message
STABLE_DIFFUSION = TextEncoding({"text_encoder": "tokenizer"}, _stable_diffusion)
XL = TextEncoding({"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}, _xl)
THREE = TextEncoding(
    {
        "text_encoder": "tokenizer",
        "text_encoder_2": "tokenizer_2",
        "text_encoder_3": "tokenizer_3",
    },
    _three,
)


def tokenize(tokenizer: Any, texts: Sequence[str], longest: int) -> Int[np.ndarray, "texts tokens"]:
    """Return the ids of texts, filled and cut to a length.

    Args:
        tokenizer: of transformers.
        texts: what to tokenize.
        longest: number of ids of each.

    Warns:
        RunWarning: texts that are cut, with what is left out of the first.
    """
    if tokenizer.pad_token_id is None:
        rule = "it has no token to fill texts with"
        raise refuse("tokenizer", type(tokenizer).__name__, rule, "name pad_token in its folder")
    whole = tokenizer([*texts], verbose=False)["input_ids"]  # what it would say is said below
    cut = [i for i, ids in enumerate(whole) if len(ids) > longest]
    if cut:
        lost = tokenizer.decode(whole[cut[0]][longest - 1 : -1])
        text = (
            f"{len(cut)} of {len(texts)} prompts are longer than the {longest} tokens of the model "
            f"and cut there; of {_short(texts[cut[0]])!r} it never sees {_short(lost)!r}"
        )
        warnings.warn(text, RunWarning, stacklevel=4)
    filled = tokenizer([*texts], padding="max_length", max_length=longest, truncation=True)
    return np.asarray(filled["input_ids"], np.int32)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."
