"""Logits of small decoders as transformers computes them, from the files of `random_arrays`.

`python -m tests.oracles.transformers_logits > tests/oracles/transformers_logits.json`, where
PyTorch is beside transformers 5.24, writes the stored values: the last token's, of one text.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from tests.pretrained.language.arrays import random_arrays, write_folder
from tests.pretrained.language.records import RECORDS

TOKENS = np.random.default_rng(0).integers(0, 37, (2, 11))
STORED = Path(__file__).with_suffix(".json")


def load(folder):
    """The model of a folder in float64, of which every array was read."""
    import torch
    import transformers

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float64
    )
    assert not any(report.values()), report
    return model.eval()


def logits(model, tokens):
    """Logits (texts, tokens, vocabulary)."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.numpy()


def values():
    """The last token's logits by the names of the records."""
    found = {}
    for name, record in RECORDS.items():
        with tempfile.TemporaryDirectory() as folder:
            model = load(write_folder(Path(folder), record, random_arrays(record)))
            found[name] = logits(model, TOKENS[:1])[0, -1].round(6).tolist()
    return found


if __name__ == "__main__":
    import transformers

    rows = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in values().items())
    body = ",\n".join(rows)
    print(f'{{\n "transformers": "{transformers.__version__}",\n "values": {{\n{body}\n }}\n}}')
