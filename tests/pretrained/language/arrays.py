"""Random weights under the names and shapes that published files of small decoders have."""

import json

import numpy as np

from ctrl_jax.pretrained.safetensors_file import write_safetensors

GEMMA = ("input", "post_attention", "pre_feedforward", "post_feedforward")
NORMS = {
    "": ("input", "post_attention"),
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "olmo2": ("post_attention", "post_feedforward"),
}
TIED = ("gemma2", "gemma3_text", "smollm3")


def _gpt2(record):
    width, inner = record["n_embd"], record.get("n_inner") or 4 * record["n_embd"]
    yield "transformer.wte.weight", (record["vocab_size"], width)
    yield "transformer.wpe.weight", (record["n_positions"], width)
    for i in range(record["n_layer"]):
        block = f"transformer.h.{i}"
        yield from _norm(f"{block}.ln_1", width)
        yield from _linear(f"{block}.attn.c_attn", 3 * width, width, stored="inputs first")
        yield from _linear(f"{block}.attn.c_proj", width, width, stored="inputs first")
        yield from _norm(f"{block}.ln_2", width)
        yield from _linear(f"{block}.mlp.c_fc", inner, width, stored="inputs first")
        yield from _linear(f"{block}.mlp.c_proj", width, inner, stored="inputs first")
    yield from _norm("transformer.ln_f", width)
    if not record.get("tie_word_embeddings", True):
        yield "lm_head.weight", (record["vocab_size"], width)


def _neox(record):
    width, inner = record["hidden_size"], record["intermediate_size"]
    bias = record.get("attention_bias", True)
    yield "gpt_neox.embed_in.weight", (record["vocab_size"], width)
    for i in range(record["num_hidden_layers"]):
        block = f"gpt_neox.layers.{i}"
        yield from _norm(f"{block}.input_layernorm", width)
        yield from _linear(f"{block}.attention.query_key_value", 3 * width, width, bias)
        yield from _linear(f"{block}.attention.dense", width, width, bias)
        yield from _norm(f"{block}.post_attention_layernorm", width)
        yield from _linear(f"{block}.mlp.dense_h_to_4h", inner, width)
        yield from _linear(f"{block}.mlp.dense_4h_to_h", width, inner)
    yield from _norm("gpt_neox.final_layer_norm", width)
    yield "embed_out.weight", (record["vocab_size"], width)


def _llama(record):
    width, inner = record["hidden_size"], record["intermediate_size"]
    heads = record["num_attention_heads"]
    size = record.get("head_dim") or width // heads
    bias, kind = record.get("attention_bias", False), record["model_type"]
    mlp_bias, few = record.get("mlp_bias", False), record["num_key_value_heads"]
    yield "model.embed_tokens.weight", (record["vocab_size"], width)
    for i in range(record["num_hidden_layers"]):
        block = f"model.layers.{i}"
        for name in NORMS.get(kind, NORMS[""]):
            yield f"{block}.{name}_layernorm.weight", (width,)
        projections = {"q_proj": heads, "k_proj": few, "v_proj": few}
        if kind == "phi3":
            projections = {"qkv_proj": heads + 2 * few}
        for name, number in projections.items():
            own = bias or kind == "qwen2"
            yield from _linear(f"{block}.self_attn.{name}", number * size, width, own)
        if kind in ("qwen3", "gemma3_text", "olmo2"):
            for name, number in (("q", heads), ("k", few)):
                joint = number if kind == "olmo2" else 1
                yield f"{block}.self_attn.{name}_norm.weight", (joint * size,)
        yield from _linear(f"{block}.self_attn.o_proj", width, heads * size, bias)
        gates = {"gate_proj": inner, "up_proj": inner}
        for name, outputs in ({"gate_up_proj": 2 * inner} if kind == "phi3" else gates).items():
            yield from _linear(f"{block}.mlp.{name}", outputs, width, mlp_bias)
        yield from _linear(f"{block}.mlp.down_proj", width, inner, mlp_bias)
    yield "model.norm.weight", (width,)
    if not record.get("tie_word_embeddings", kind in TIED):
        yield "lm_head.weight", (record["vocab_size"], width)


def _norm(name, width):
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _linear(name, outputs, inputs, bias=True, stored="outputs first"):
    yield f"{name}.weight", (outputs, inputs) if stored == "outputs first" else (inputs, outputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def random_arrays(record):
    """Arrays by published name: products keep their size, scales lie around 1."""
    shapes = {"gpt2": _gpt2, "gpt_neox": _neox}.get(record["model_type"], _llama)
    generator = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes(record):
        noise = generator.standard_normal(shape, np.float32)
        if len(shape) == 2:
            arrays[name] = 0.3 * noise
        else:
            arrays[name] = (0.0 if name.endswith("bias") else 1.0) + 0.2 * noise
    return {name: np.float32(array) for name, array in arrays.items()}


def write_folder(folder, record, arrays):
    """A folder as transformers saves it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(record))
    write_safetensors(folder / "model.safetensors", arrays)
    return folder
