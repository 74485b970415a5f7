"""Rewards of a small CLIP model as transformers' model and image processor give them.

`python -m tests.oracles.picture_rewards > tests/oracles/picture_rewards.json`, where PyTorch is
beside transformers 5.24, writes the stored values.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from tests.oracles.named_weights import load_named, named_weight
from tests.oracles.pipelines import small_records
from tests.oracles.towers import TEXT, VISION

STORED = Path(__file__).with_suffix(".json")
RECORD = {
    "model_type": "clip",
    "architectures": ["CLIPModel"],
    "projection_dim": 10,
    "text_config": TEXT | {"vocab_size": 62, "eos_token_id": 1, "max_position_embeddings": 12},
    "vision_config": VISION,
}
PREPROCESSING = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 12, "width": 12},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 14},
}
PROMPTS = ["a red cat", "Dog, or cat"]
HEAD = {0: (8, 10), 2: (6, 8), 4: (5, 6), 6: (4, 5), 7: (1, 4)}


def pictures():
    """Two of 33 x 21, smooth, in bytes."""
    rows, columns, channels = np.meshgrid(np.arange(33), np.arange(21), np.arange(3), indexing="ij")
    waves = [np.sin(0.3 * rows + 0.5 * columns + channels), np.cos(rows * columns / 40 + channels)]
    return np.round(127.5 + 120 * np.stack(waves)).astype(np.uint8)


def head():
    """The arrays of a head of aesthetics."""
    names = [(f"layers.{i}.weight", shape) for i, shape in HEAD.items()]
    names += [(f"layers.{i}.bias", shape[:1]) for i, shape in HEAD.items()]
    return {name: named_weight(name, shape) for name, shape in names}


def write_files(folder):
    """Write everything of the folder but its weights."""
    small_records["write_clip_tokenizer"](folder, "<|endoftext|>", longest=12)
    (folder / "config.json").write_text(json.dumps(RECORD))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return folder


def on_black(picture):
    """All of a picture in 12 x 12, as HPS v2 shows it."""
    from PIL import Image

    height, width = picture.shape[:2]
    size = (round(width * 12 / max(height, width)), round(height * 12 / max(height, width)))
    shown = Image.new("RGB", (12, 12))
    small = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    shown.paste(small, ((12 - size[0]) // 2, (12 - size[1]) // 2))
    return np.asarray(shown)


def values():
    """Every reward of both pictures with their prompts."""
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

    config = CLIPConfig(**{k: v for k, v in RECORD.items() if k != "model_type"})
    model = load_named(CLIPModel(config))
    with tempfile.TemporaryDirectory() as place:
        folder = write_files(Path(place) / "clip")
        tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
        processor = CLIPImageProcessorPil.from_pretrained(folder)
    seen = processor(list(pictures()), return_tensors="pt")["pixel_values"]
    whole = processor(list(map(on_black, pictures())), return_tensors="pt", do_resize=False)
    with torch.no_grad():
        found = model(**tokens, pixel_values=seen)
        padded = model(**tokens, pixel_values=whole["pixel_values"])
    weights = {name: torch.from_numpy(array) for name, array in head().items()}
    marks = found.image_embeds
    for i in HEAD:
        marks = marks @ weights[f"layers.{i}.weight"].T + weights[f"layers.{i}.bias"]
    cosines = (found.image_embeds * found.text_embeds).sum(-1)
    return {
        "cosine": cosines.tolist(),
        "pick": torch.diag(found.logits_per_image).tolist(),
        "hps": (padded.image_embeds * padded.text_embeds).sum(-1).tolist(),
        "aesthetic": marks[:, 0].tolist(),
        "texts": found.text_embeds.tolist(),
    }


if __name__ == "__main__":
    import transformers

    rows = (
        f"  {json.dumps(k)}: {json.dumps(np.round(v, 6).tolist())}" for k, v in values().items()
    )
    body = ",\n".join(rows)
    print(f'{{\n "transformers": "{transformers.__version__}",\n "values": {{\n{body}\n }}\n}}')
