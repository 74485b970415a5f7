"""The names that the parameters of a decoder have in Hugging Face files, by family.

A linear layer's weight is stored (outputs, inputs) there, except in GPT-2. GPT-2, GPT-NeoX and
Phi-3 keep queries, keys and values in one array, next to each other or head by head; Phi-3 also
gates and what they multiply.
"""

from typing import Any, NamedTuple

from ctrl_jax.networks.language.config import DecoderConfig
from ctrl_jax.pretrained.key_table import Part, Source, named_leaves

QUERY_KEY_VALUE = ("attention.query", "attention.key", "attention.value")
GATE_UP = ("feed_forward.gate", "feed_forward.up")


class Family(NamedTuple):
    """How one family names its arrays.

    Fields:
        causal: the class of transformers that loads them.
        tokens: table of tokens.
        head: matrix of the head, where it is not tied.
        norm: last normalization.
        block: prefix of block ``{}``.
        parts: layers in a block, ours to theirs.
        positions: table of positions.
        joint: one layer for queries, keys and values.
        gate_up: one layer for gates and what they multiply.
        by_head: whether that layer keeps the three of one head together.
        transposed: whether weights are stored (outputs, inputs).
        buffers: arrays of a block that hold no parameter.
    """

    causal: str
    tokens: str
    head: str
    norm: str
    block: str
    parts: dict[str, str]
    positions: str = ""
    joint: str = ""
    gate_up: str = ""
    by_head: bool = False
    transposed: bool = True
    buffers: tuple[str, ...] = ()


GPT2 = Family(
    causal="GPT2LMHeadModel",
    tokens="transformer.wte.weight",
    positions="transformer.wpe.weight",
    head="lm_head.weight",
    norm="transformer.ln_f",
    block="transformer.h.{}",
    joint="attn.c_attn",
    transposed=False,
    parts={
        "attention_norm": "ln_1",
        "attention.out": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.down": "mlp.c_proj",
    },
    buffers=("attn.bias", "attn.masked_bias"),
)
GPT_NEOX = Family(
    causal="GPTNeoXForCausalLM",
    tokens="gpt_neox.embed_in.weight",
    head="embed_out.weight",
    norm="gpt_neox.final_layer_norm",
    block="gpt_neox.layers.{}",
    joint="attention.query_key_value",
    by_head=True,
    parts={
        "attention_norm": "input_layernorm",
        "attention.out": "attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.up": "mlp.dense_h_to_4h",
        "feed_forward.down": "mlp.dense_4h_to_h",
    },
    buffers=("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"),
)
LLAMA = Family(
    causal="LlamaForCausalLM",
    tokens="model.embed_tokens.weight",
    head="lm_head.weight",
    norm="model.norm",
    block="model.layers.{}",
    parts={
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.query_norm": "self_attn.q_norm",
        "attention.key_norm": "self_attn.k_norm",
        "attention.out": "self_attn.o_proj",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    },
    buffers=("self_attn.rotary_emb.inv_freq",),
)
GEMMA = LLAMA._replace(
    causal="Gemma2ForCausalLM",
    parts=LLAMA.parts
    | {
        "attention_out_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_out_norm": "post_feedforward_layernorm",
    },
)
FAMILIES = {
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "mistral": LLAMA._replace(causal="MistralForCausalLM"),
    "qwen2": LLAMA._replace(causal="Qwen2ForCausalLM"),
    "qwen3": LLAMA._replace(causal="Qwen3ForCausalLM"),
    "gemma2": GEMMA,
    "gemma3_text": GEMMA._replace(causal="Gemma3ForCausalLM"),
    "phi3": LLAMA._replace(
        causal="Phi3ForCausalLM", joint="self_attn.qkv_proj", gate_up="mlp.gate_up_proj"
    ),
    "smollm3": LLAMA._replace(causal="SmolLM3ForCausalLM"),
    "olmo2": GEMMA._replace(causal="Olmo2ForCausalLM"),
}


def decoder_table(family: Family, config: DecoderConfig, target: Any) -> dict[str, Source]:
    """Return the key table of a decoder.

    Args:
        family: how its arrays are named.
        config: its description.
        target: its parameters as nested dictionaries.
    """
    named = {
        "tokens": Source(family.tokens),
        "positions": Source(family.positions),
        "head": Source(family.head, (1, 0)),
        "norm.scale": Source(f"{family.norm}.weight"),
        "norm.bias": Source(f"{family.norm}.bias"),
    }
    return {
        path: named.get(path) or _in_block(family, config, path) for path in named_leaves(target)
    }


def buffers(family: Family, depth: int) -> list[str]:
    """Return the names of arrays that hold no parameter, as old files have them."""
    return [f"{family.block.format(i)}.{name}" for i in range(depth) for name in family.buffers]


def _in_block(family: Family, config: DecoderConfig, path: str) -> Source:
    _, number, inner = path.split(".", 2)
    layer, _, leaf = inner.rpartition(".")
    prefix, suffix = family.block.format(number), "bias" if leaf == "bias" else "weight"
    axes = (1, 0) if leaf == "kernel" and family.transposed else None
    outer = config.key_heads * config.head_width
    sizes = (config.heads * config.head_width, outer, outer)
    for joint, layers, widths in (
        (family.joint, QUERY_KEY_VALUE, sizes),
        (family.gate_up, GATE_UP, (config.hidden,) * 2),
    ):
        if joint and layer in layers:
            part = _part(family, config, leaf, widths, layers.index(layer))
            return Source(f"{prefix}.{joint}.{suffix}", axes, part)
    return Source(f"{prefix}.{family.parts[layer]}.{suffix}", axes)


def _part(
    family: Family, config: DecoderConfig, leaf: str, widths: tuple[int, ...], index: int
) -> Part:
    """The part `index` of a layer whose outputs are those of several, of such widths."""
    total, start = sum(widths), sum(widths[:index])
    outputs, place = (1, total), (start, start + widths[index])
    if family.by_head:  # the three of a head lie together
        outputs = (config.heads, total // config.heads)
        place = (index * config.head_width, (index + 1) * config.head_width)
    if leaf == "bias":
        return Part((total,), outputs, *place)
    if family.transposed:
        return Part((total, config.width), (*outputs, config.width), *place)
    return Part((config.width, total), (config.width, total), *place)
