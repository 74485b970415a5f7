"""ImageReward of a small BLIP as transformers' towers give it.

`python -m tests.oracles.image_reward > tests/oracles/image_reward.json`, where PyTorch is beside
transformers 5.24, writes the stored values.
"""

import json
import re
from pathlib import Path

import numpy as np

from tests.oracles.named_weights import named_weight
from tests.oracles.picture_rewards import pictures

STORED = Path(__file__).with_suffix(".json")
RECORD = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 16,
    "initializer_range": 0.02,
    "intermediate_size": 24,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "model_type": "bert",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 12,
    "encoder_width": 768,
    "add_cross_attention": True,
}
WIDTH, DEPTH, IMAGE, PATCH = 128, 2, 12, 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "dog", "or", ",", "##s"]
PROMPTS = ["A red cat", "dogs, or a zebra"]
TOKENS = np.zeros((2, 35), np.int32)
TOKENS[0, :5], TOKENS[1, :8] = [2, 5, 6, 7, 3], [2, 8, 11, 10, 9, 5, 1, 3]
# What transformers calls the picture's layers, and what the published file does.
NAMES = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("encoder.layers", "blocks"),
    ("layer_norm", "norm"),
    ("self_attn.projection", "attn.proj"),
    ("self_attn", "attn"),
    ("post_layernorm", "norm"),
)
HEAD = {0: (1024, 16), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}


def published(name):
    """The published name of a layer of the picture's tower."""
    for theirs, ours in NAMES:
        name = re.sub(theirs, ours, name)
    return name


def write_files(folder):
    """Write everything of the folder but its weights."""
    folder.mkdir()
    (folder / "med_config.json").write_text(json.dumps(RECORD))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    record = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(record))
    return folder


def seen():
    """The pictures as the tower sees them."""
    from transformers import CLIPImageProcessorPil

    side = {"height": IMAGE, "width": IMAGE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": IMAGE}, crop_size=side)
    return processor(list(pictures()), return_tensors="pt")["pixel_values"]


def values():
    """The rewards of both pictures with their prompts."""
    import torch
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    vision = BlipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=WIDTH // 64,
        image_size=IMAGE,
        patch_size=PATCH,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        **{key: value for key, value in RECORD.items() if key != "model_type"},
        encoder_hidden_size=WIDTH,
        is_decoder=True,
    )
    towers = {
        "blip.visual_encoder.": (BlipVisionModel(vision).eval(), published),
        "blip.text_encoder.": (BlipTextModel(text, add_pooling_layer=False).eval(), str),
    }
    with torch.no_grad():
        for prefix, (module, rename) in towers.items():
            for name, parameter in module.named_parameters():
                array = named_weight(prefix + rename(name), tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(array))
        (picture, _), (reader, _) = towers.values()
        tokens = torch.from_numpy(TOKENS.astype(np.int64))
        states = reader(
            tokens,
            attention_mask=(tokens != 0).long(),
            encoder_hidden_states=picture(seen()).last_hidden_state,
            is_decoder=False,
        ).last_hidden_state[:, 0]
        for i, shape in HEAD.items():
            weight = torch.from_numpy(named_weight(f"mlp.layers.{i}.weight", shape))
            bias = torch.from_numpy(named_weight(f"mlp.layers.{i}.bias", shape[:1]))
            states = states @ weight.T + bias
    return ((states[:, 0] - 0.16717362830052426) / 1.0333394966054072).tolist()


if __name__ == "__main__":
    import transformers

    found = {"transformers": transformers.__version__, "values": np.round(values(), 6).tolist()}
    print(json.dumps(found))
