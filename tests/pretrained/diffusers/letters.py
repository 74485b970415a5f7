"""The tokenizers of small pipelines by hand, for where transformers is not installed."""

import importlib.util
import json

from ctrl_jax.pretrained.diffusers import pipeline


class Letters:
    """What `load_pipeline` asks of a tokenizer.

    CLIP's: words of letters, the last one marked, pairs joined in the order of the merges. T5's:
    the longest entries of the vocabulary that fit, a mark before every word.
    """

    def __init__(self, folder):
        config = json.loads((folder / "tokenizer_config.json").read_text())
        self.model_max_length = config["model_max_length"]
        self.merges = []
        if (folder / "vocab.json").exists():
            self.vocabulary = json.loads((folder / "vocab.json").read_text())
            lines = (folder / "merges.txt").read_text().splitlines()[1:]
            self.merges = [tuple(line.split()) for line in lines]
        else:
            words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
            self.vocabulary = {word: i for i, (word, _) in enumerate(words)}
        self.pad_token_id = self.vocabulary[config["pad_token"]]

    def __call__(self, texts, padding=None, max_length=0, truncation=False, verbose=True):
        ids = [self._ids(text) for text in texts]
        if truncation:
            ids = [
                row if len(row) <= max_length else [*row[: max_length - 1], row[-1]] for row in ids
            ]
        if padding == "max_length":
            ids = [row + [self.pad_token_id] * (max_length - len(row)) for row in ids]
        return {"input_ids": ids}

    def decode(self, ids):
        words = {i: word for word, i in self.vocabulary.items()}
        return "".join(words[i].replace("</w>", " ") for i in ids)

    def _ids(self, text):
        if not self.merges:
            return [*self._longest("▁" + text.replace(" ", "▁") if text else ""), 1]
        return [
            0,
            *(self.vocabulary[part] for word in text.split() for part in self._joined(word)),
            1,
        ]

    def _joined(self, word):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for first, second in self.merges:
            for i in range(len(parts) - 1, 0, -1):
                if (parts[i - 1], parts[i]) == (first, second):
                    parts[i - 1 : i + 1] = [first + second]
        return parts

    def _longest(self, text):
        while text:
            size = next(n for n in range(len(text), 0, -1) if text[:n] in self.vocabulary)
            yield self.vocabulary[text[:size]]
            text = text[size:]


def use_letters_without_transformers():
    """Let pipelines be read where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        pipeline.load_tokenizer = Letters
