"""Small tokenizers of transformers, one for every convention; vocabularies written by hand.

Byte-level tokens begin words with their space, as GPT-2's do; `llama` marks words by "▁" and puts
one before a text, as SentencePiece does.
"""

WORDS = (
    *("What", "colour", "is", "the", "sky", "It", "today"),
    *("Blue", "blue", "blues", "grey", "Grey", "Yes", "No"),
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
# Closes turns by EOS and a line feed and writes no BOS, though the tokenizer has one.
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# Closes turns by a token that is not EOS.
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# Closes no turn.
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# Opens a thought in the generation prompt that the whole conversation leaves out.
THINKING = CHATML.replace("assistant\n", "assistant\n<think>\n")

# Kind: (BOS, EOS, whether the tokenizer adds (BOS, EOS), other special tokens, chat template).
KINDS = {
    "gpt2": ("<|endoftext|>", "<|endoftext|>", (False, False), [], None),
    "llama": ("<s>", "</s>", (True, False), [], None),
    "both": ("<s>", "</s>", (True, True), [], None),
    "qwen": (None, "<|im_end|>", (False, False), ["<|im_start|>"], CHATML),
    "llama3": ("<|begin|>", "<|eot_id|>", (True, False), ["<|start|>", "<|end|>"], LLAMA3),
    "zephyr": ("<s>", "</s>", (True, False), ["<|user|>", "<|assistant|>"], ZEPHYR),
    "gemma": ("<bos>", "<eos>", (True, False), ["<|start|>", "<|end|>"], GEMMA),
    "plain": ("<s>", "</s>", (True, False), [], PLAIN),
    "thinking": (None, "<|im_end|>", (False, False), ["<|im_start|>", "<think>"], THINKING),
}


def _merges(space):
    """Pairs that build each word from its first letter on, and then put its space before it."""
    pairs = [(word[:n], word[n]) for word in WORDS for n in range(1, len(word))]
    return [*dict.fromkeys(pairs), *((space, word) for word in WORDS)]


def build(kind):
    """A tokenizer; pad is EOS, as in most models that have no pad token."""
    import tokenizers
    import transformers
    from tokenizers import decoders, pre_tokenizers, processors

    bos, eos, (adds_bos, adds_eos), others, template = KINDS[kind]
    if kind == "llama":
        space = "▁"
        letters = [space, *map(chr, range(128)), "é"]
        before = pre_tokenizers.Metaspace(prepend_scheme="first")
        after = decoders.Metaspace(prepend_scheme="first")
    else:
        space, letters = "Ġ", sorted(pre_tokenizers.ByteLevel.alphabet())
        before, after = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    merges = _merges(space)
    names = dict.fromkeys([*letters, *(a + b for a, b in merges)])
    vocabulary = {name: n for n, name in enumerate(names)}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=merges)
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer, core.decoder = before, after
    marks = list(dict.fromkeys(mark for mark in (bos, eos, *others) if mark))
    core.add_special_tokens(marks)
    if adds_bos or adds_eos:
        single = f"{bos + ' ' if adds_bos else ''}$A{' ' + eos if adds_eos else ''}"
        ids = [(mark, core.token_to_id(mark)) for mark in (bos, eos)]
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=eos
    )
    fast.chat_template = template
    return fast
