"""CLIP's towers from folders of transformers: what config.json says, and the names of weights.

Files have carried their names in three ways. Those of today write the tower of texts without its
first word ``text_model`` where it stands alone, those before with it; and old ones hold
``position_ids``, which say nothing. All are read; what is written has the first word, which
transformers reads in all its versions.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ctrl_jax.networks.text_to_image.clip_config import (
    ACTIVATIONS,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
)
from ctrl_jax.pretrained.key_table import Source
from ctrl_jax.pretrained.language.bookkeeping import USUAL, is_bookkeeping
from ctrl_jax.pretrained.record_entries import Entries
from ctrl_jax.pretrained.torch_names import torch_table

WITH_PROJECTION = "WithProjection"
DEEPEST = 10_000
SAYS_NOTHING = USUAL | {"initializer_range", "initializer_factor", "tie_word_embeddings"}
OLD_END = 2  # files from before the end token was written down say so


def read_clip_text(
    record: Mapping[str, Any], *, projected: bool | None = None, name: str = "config.json"
) -> CLIPTextConfig:
    """Return the description of CLIP's tower of texts.

    Args:
        record: the content of config.json, of `CLIPTextModel`, `CLIPTextModelWithProjection` or of
            `CLIPModel`, whose tower of texts it then is.
        projected: whether it has a projection; by default whether its ``architectures`` say so.
        name: of the file, for the words of an error.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    if record.get("model_type") == "clip":
        text = read_clip(record, name=name).text
        return dataclasses.replace(text, projection=None) if projected is False else text
    return _text(Entries(record, name), _is_projected(record, projected))


def read_clip_vision(
    record: Mapping[str, Any], *, projected: bool | None = None, name: str = "config.json"
) -> CLIPVisionConfig:
    """Return the description of CLIP's tower of pictures.

    Args:
        record: the content of config.json, of `CLIPVisionModel`, `CLIPVisionModelWithProjection` or
            of `CLIPModel`, whose tower of pictures it then is.
        projected: whether it has a projection; by default whether its ``architectures`` say so.
        name: of the file, for the words of an error.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    if record.get("model_type") == "clip":
        return read_clip(record, name=name).vision
    return _vision(Entries(record, name), _is_projected(record, projected))


def read_clip(record: Mapping[str, Any], *, name: str = "config.json") -> CLIPConfig:
    """Return the description of both towers of CLIP.

    Args:
        record: the content of config.json, of `CLIPModel`.
        name: of the file, for the words of an error.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    entries = Entries(record, name)
    entries.expect("model_type", "clip")
    size = entries.count("projection_dim", 512)
    text, vision = _text(_part(entries, "text", size)), _vision(_part(entries, "vision", size))
    scale = entries.get("logit_scale_init_value", float, 2.6592)
    entries.finish(SAYS_NOTHING, is_bookkeeping)
    return CLIPConfig(text, vision, scale)


def clip_table(shapes: Any) -> dict[str, Source]:
    """Return the key table of CLIP's towers, together or one of them.

    Args:
        shapes: the tree of parameters of `clip`, `clip_text` or `clip_vision`.
    """
    return torch_table(shapes)


def clip_arrays(arrays: Mapping[str, Any], part: str | None = None) -> dict[str, Any]:
    """Return the arrays of a file of CLIP by the names that `clip_table` gives them.

    Args:
        arrays: the file's, by name.
        part: "text" or "vision" for what that tower is made of; None for everything.
    """
    found = {key: array for key, array in arrays.items() if not key.endswith(".position_ids")}
    whole = any(key.startswith(("text_model.", "vision_model.")) for key in found)
    if not whole and part is not None:
        found = {
            key if key.endswith("_projection.weight") else f"{part}_model.{key}": array
            for key, array in found.items()
        }
    if part is None or "logit_scale" not in found:
        return found
    tower = (f"{part}_model.", "text_projection." if part == "text" else "visual_projection.")
    return {key: array for key, array in found.items() if key.startswith(tower)}


def _part(entries: Entries, part: str, projection: int) -> Entries:
    """The entries of one tower in those of both."""
    usual = entries.get(f"{part}_config", dict, {})
    record = entries.get(f"{part}_config_dict", dict, usual)  # which replaces all of the former
    # The towers' own size is not read: transformers takes that of both.
    return Entries({**record, "projection_dim": projection}, f"{entries.name}: {part}_config")


def _is_projected(record: Mapping[str, Any], projected: bool | None) -> bool:
    if projected is not None:
        return projected
    return any(str(name).endswith(WITH_PROJECTION) for name in record.get("architectures") or ())


def _text(entries: Entries, projected: bool = True) -> CLIPTextConfig:
    end = entries.count("eos_token_id", 49407)
    fields = _tower(entries, "clip_text_model", (512, 2048, 12, 8), projected)
    config = CLIPTextConfig(
        vocabulary=entries.count("vocab_size", 49408),
        positions=entries.count("max_position_embeddings", 77),
        end=None if end == OLD_END else end,
        **fields,
    )
    entries.finish(SAYS_NOTHING, is_bookkeeping)
    return config


def _vision(entries: Entries, projected: bool = True) -> CLIPVisionConfig:
    config = CLIPVisionConfig(
        image=entries.count("image_size", 224),
        patch=entries.count("patch_size", 32),
        channels=entries.count("num_channels", 3),
        **_tower(entries, "clip_vision_model", (768, 3072, 12, 12), projected),
    )
    entries.finish(SAYS_NOTHING, is_bookkeeping)
    return config


def _tower(
    entries: Entries, kind: str, usual: tuple[int, int, int, int], projected: bool
) -> dict[str, Any]:
    """What both towers have; `usual` is what transformers takes for absent sizes."""
    entries.expect("model_type", kind)
    width, hidden, depth, heads = usual
    activation = entries.get("hidden_act", str, "quick_gelu")
    if activation not in ACTIVATIONS:
        raise entries.refuse(
            "hidden_act", activation, f"it must be one of {', '.join(ACTIVATIONS)}"
        )
    size = entries.count("projection_dim", 512)
    found = {
        "width": entries.count("hidden_size", width),
        "hidden": entries.count("intermediate_size", hidden),
        "depth": entries.count("num_hidden_layers", depth, most=DEEPEST),
        "heads": entries.count("num_attention_heads", heads),
        "activation": activation,
        "epsilon": entries.positive("layer_norm_eps", 1e-5),
        "projection": size if projected else None,
    }
    if found["width"] % found["heads"]:
        rule = f"they must divide hidden_size = {found['width']}"
        raise entries.refuse("num_attention_heads", found["heads"], rule)
    return found
