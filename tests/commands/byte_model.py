"""`ctrl_jax.commands.prefer` on a small model that reads bytes: no tokenizer library is needed.

As a program, the command with such a tokenizer: what a test can kill.
"""

import json

import jax
import numpy as np

from ctrl_jax.commands import prefer
from ctrl_jax.commands.preference import model
from ctrl_jax.networks import language_model
from ctrl_jax.pretrained import read_record, save_decoder
from ctrl_jax.runtime import command

BEGIN, END = 256, 257
RECORD = {
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


class Bytes:
    """Bytes, between a token that begins and one that ends a text."""

    bos_token_id, eos_token_id = BEGIN, END

    def __call__(self, texts, /, *, add_special_tokens):
        begin = [BEGIN] if add_special_tokens else []
        return {"input_ids": [[*begin, *text.encode()] for text in texts]}

    def decode(self, ids):
        return bytes(i for i in ids if i < BEGIN).decode(errors="replace")


def write_model(folder, dtype=np.float32, **changes):
    """A folder with a random model."""
    record = RECORD | changes
    generator = np.random.default_rng(0)
    shapes = language_model(read_record(record)).shapes
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(
            0.2 * generator.standard_normal(leaf.shape) + (path[-1].key == "scale"), dtype
        ),
        shapes,
    )
    save_decoder(folder, record, params)
    (folder / "tokenizer.json").write_text("{}")


def write_data(file, number=24, **keys):
    """Pairs whose chosen answers have an "a" where the others have a "b"."""
    generator = np.random.default_rng(1)

    def text(first, most):
        size = generator.integers(1, most)
        return first + "".join(generator.choice(list("xyz "), size))

    with file.open("w") as lines:
        for n in range(number):
            record = {"prompt": text("p", 8), "chosen": text("a", 6), "rejected": text("b", 6)}
            record |= {key: values[n % len(values)] for key, values in keys.items()}
            lines.write(json.dumps(record) + "\n")


def use_bytes():
    """Give every model of this process the tokenizer."""
    model.load_tokenizer = lambda folder: Bytes()


if __name__ == "__main__":
    use_bytes()
    command(prefer.Config, prefer.main)
