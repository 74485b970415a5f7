"""Preference records as TRL's DPOTrainer tokenizes them.

`python -m tests.oracles.trl_tokens > tests/oracles/trl_tokens.json`, from the root of the
repository in an environment with trl==1.16.0, writes the stored values: the trainer's own
`_prepare_dataset` on the records below, with the tokenizers of `small_tokenizers` and without a
limit of length. The peers' test calls `values` where TRL is installed.
"""

import json
from types import SimpleNamespace

from tests.oracles.small_tokenizers import KINDS, build

CUT = 6
TEXTS = {
    "space with the answer": ("What colour is the sky?", " Blue", " Grey today"),
    "space with the prompt": ("It is ", "blue", "grey"),
    "line feed": ("What colour?\n", "Blue\nblue", "é"),
    "EOS written": ("It is", " blue{eos}", " grey"),
    "BOS written": ("{bos}It is", " blue", " grey"),
    "within a word": ("It is b", "lue", "lues"),
    "no prompt key": (None, "What colour is the sky? Blue", "What colour is the sky? Grey"),
}


def _says(*contents, roles=("user", "assistant")):
    return [
        {"role": roles[n % len(roles)], "content": content} for n, content in enumerate(contents)
    ]


def _answers(*contents):
    return _says(*contents, roles=("assistant", "user"))


CONVERSATIONS = {
    "one turn": (_says("What colour?"), _answers("Blue"), _answers("Grey today")),
    "three turns": (_says("sky?", "Yes", "What colour?"), _answers("Blue"), _answers("It")),
    "answer of three": (_says("sky?"), _answers("Yes", "the sky", "blue"), _answers("No")),
    "no prompt key": (None, _says("sky?", "Yes", "is It?", "Yes"), _says("sky?", "No")),
}


def records(kind):
    """The records of a kind of tokenizer by name, each with prompt, chosen and rejected."""
    bos, eos, *_, template = KINDS[kind]
    if template is not None:
        return CONVERSATIONS
    marks = {"bos": bos, "eos": eos}
    return {
        name: tuple(text and text.format(**marks) for text in texts)
        for name, texts in TEXTS.items()
    }


def values():
    """The ids of prompt, chosen and rejected by kind and name."""
    return {
        kind: {name: _prepared(kind, texts) for name, texts in records(kind).items()}
        for kind in KINDS
    }


def cut_values():
    """The same of GPT-2's kind, in batches of one pair that are cut to `CUT`; None if dropped."""
    return {
        name: _collated(_prepared("gpt2", texts, CUT)) for name, texts in records("gpt2").items()
    }


def _prepared(kind, texts, max_length=None):
    """What the trainer makes of one record, or None where it drops it."""
    from datasets import Dataset
    from trl import DPOTrainer

    tokenizer = build(kind)
    arguments = SimpleNamespace(
        dataset_num_proc=None, max_length=max_length, truncation_mode="keep_start"
    )
    keys = zip(("prompt", "chosen", "rejected"), texts, strict=True)
    rows = Dataset.from_list([{key: text for key, text in keys if text is not None}])
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    rows = DPOTrainer._prepare_dataset(trainer, rows, tokenizer, arguments, "train")
    return [rows[0][f"{key}_ids"] for key in ("prompt", "chosen", "rejected")] if rows else None


def _collated(parts):
    """Prompt, chosen and rejected as the trainer's collator leaves them in a batch."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    if parts is None:
        return None
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    batch = DataCollatorForPreference(pad_token_id=0, max_length=CUT)(
        [dict(zip(names, parts, strict=True))]
    )
    read, answer = batch["attention_mask"].bool(), batch["completion_mask"].bool()
    prompt = batch["input_ids"][0][read[0] & ~answer[0]].tolist()
    return [
        prompt,
        *(ids[mask].tolist() for ids, mask in zip(batch["input_ids"], answer, strict=True)),
    ]


if __name__ == "__main__":
    print(
        json.dumps(values() | {"cut": cut_values()}).replace("}, ", "},\n").replace("]], ", "]],\n")
    )
