"""Decoder language models in NumPy, from config.json entries and published names of weights.

Token by token and head by head in float64; it shares nothing with the library but those names.
"""

import math

import numpy as np


class Decoder:
    """`record` is a config.json, `arrays` maps published names to weights."""

    def __init__(self, record, arrays):
        self.record = record
        self.arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}

    def logits(self, tokens):
        """tokens (n,) of one text, as integers; returns (n, vocabulary)."""
        forward = {"gpt2": self._gpt2, "gpt_neox": self._neox}
        return forward.get(self.record["model_type"], self._llama)(tokens)

    def _gpt2(self, tokens):
        a, heads = self.arrays, self.record["n_head"]
        h = a["transformer.wte.weight"][tokens] + a["transformer.wpe.weight"][: len(tokens)]
        for i in range(self.record["n_layer"]):
            block = f"transformer.h.{i}"
            x = self._layer_norm(h, f"{block}.ln_1")
            q, k, v = np.split(self._conv(x, f"{block}.attn.c_attn"), 3, axis=1)
            mixed = attend(*(np.split(part, heads, axis=1) for part in (q, k, v)))
            h = h + self._conv(mixed, f"{block}.attn.c_proj")
            x = self._conv(self._layer_norm(h, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            inner = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            h = h + self._conv(inner, f"{block}.mlp.c_proj")
        head = a.get("lm_head.weight", a["transformer.wte.weight"])
        return self._layer_norm(h, "transformer.ln_f") @ head.T

    def _neox(self, tokens):
        record, heads = self.record, self.record["num_attention_heads"]
        rotation = record.get("rope_parameters") or record.get("rope_scaling") or {}
        share = rotation.get("partial_rotary_factor", record.get("rotary_pct"))
        base = rotation.get("rope_theta", record.get("rotary_emb_base"))
        size = int(record["hidden_size"] // heads * share)
        rates = base ** (-np.arange(0, size, 2.0) / size)
        if rotation.get("rope_type") == "dynamic":
            rates = dynamic_rates(base, size, rotation["factor"], len(tokens), record)
        h = self.arrays["gpt_neox.embed_in.weight"][tokens]
        for i in range(record["num_hidden_layers"]):
            block = f"gpt_neox.layers.{i}"
            joint = self._linear(
                self._layer_norm(h, f"{block}.input_layernorm"),
                f"{block}.attention.query_key_value",
            )
            triples = [np.split(head, 3, axis=1) for head in np.split(joint, heads, axis=1)]
            q, k, v = ([triple[j] for triple in triples] for j in range(3))
            mixed = attend([turn(x, rates) for x in q], [turn(x, rates) for x in k], v)
            update = self._linear(mixed, f"{block}.attention.dense")
            seen = h if record.get("use_parallel_residual", True) else h + update
            x = self._linear(
                self._layer_norm(seen, f"{block}.post_attention_layernorm"),
                f"{block}.mlp.dense_h_to_4h",
            )
            inner = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
            h = h + update + self._linear(inner, f"{block}.mlp.dense_4h_to_h")
        h = self._layer_norm(h, "gpt_neox.final_layer_norm")
        return h @ self.arrays["embed_out.weight"].T

    def _llama(self, tokens):
        """Llama, and what differs from it in Mistral, Qwen, Gemma, Phi-3, SmolLM3 and OLMo 2."""
        record, kind = self.record, self.record["model_type"]
        size = record.get("head_dim") or record["hidden_size"] // record["num_attention_heads"]
        gemma = kind.startswith("gemma")
        cap = record.get("attn_logit_softcapping", 50.0) if kind == "gemma2" else None
        scale = record["query_pre_attn_scalar"] if gemma else size
        h = self.arrays["model.embed_tokens.weight"][tokens]
        h = h * math.sqrt(record["hidden_size"]) if gemma else h
        for i, window in enumerate(windows(record)):
            block = f"model.layers.{i}"
            x = h if kind == "olmo2" else self._rms_norm(h, f"{block}.input_layernorm")
            q, k, v = self._heads(x, f"{block}.self_attn", size)
            if kind != "smollm3" or record["no_rope_layers"][i]:
                local = window is not None and kind == "gemma3_text"
                rates, factor = llama_rates(record, size, len(tokens), local)
                q, k = ([turn(head, rates, factor) for head in part] for part in (q, k))
            group = len(q) // len(k)
            k, v = ([part[j // group] for j in range(len(q))] for part in (k, v))
            mixed = attend(q, k, v, window, scale, cap)
            update = self._linear(mixed, f"{block}.self_attn.o_proj")
            before = "post_attention_layernorm"
            if gemma or kind == "olmo2":
                update = self._rms_norm(update, f"{block}.post_attention_layernorm")
                before = "pre_feedforward_layernorm"
            h = h + update
            x = h if kind == "olmo2" else self._rms_norm(h, f"{block}.{before}")
            update = self._gated(x, f"{block}.mlp")
            if gemma or kind == "olmo2":
                update = self._rms_norm(update, f"{block}.post_feedforward_layernorm")
            h = h + update
        head = self.arrays.get("lm_head.weight", self.arrays["model.embed_tokens.weight"])
        logits = self._rms_norm(h, "model.norm") @ head.T
        last = record.get("final_logit_softcapping", 30.0 if kind == "gemma2" else None)
        return logits if last is None else last * np.tanh(logits / last)

    def _heads(self, x, name, size):
        """Queries, keys and values by heads, normalized where there are weights for it."""
        if f"{name}.qkv_proj.weight" in self.arrays:
            few = self.record["num_key_value_heads"]
            heads = np.split(self._linear(x, f"{name}.qkv_proj"), 2 * few + 4, axis=1)
            return heads[:4], heads[4 : 4 + few], heads[4 + few :]
        return [self._split(x, f"{name}.{part}", size) for part in "qkv"]

    def _split(self, x, name, size):
        y = self._linear(x, f"{name}_proj")
        scale = self.arrays.get(f"{name}_norm.weight")
        if scale is not None and len(scale) > size:
            y = self._rms_norm(y, f"{name}_norm")
        heads = np.split(y, y.shape[1] // size, axis=1)
        if scale is not None and len(scale) == size:
            heads = [self._rms_norm(head, f"{name}_norm") for head in heads]
        return heads

    def _gated(self, x, name):
        if f"{name}.gate_up_proj.weight" in self.arrays:
            gate, up = np.split(self._linear(x, f"{name}.gate_up_proj"), 2, axis=1)
        else:
            gate, up = (self._linear(x, f"{name}.{part}_proj") for part in ("gate", "up"))
        if self.record["model_type"].startswith("gemma"):
            slope = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
            return self._linear(0.5 * gate * (1 + np.tanh(slope)) * up, f"{name}.down_proj")
        return self._linear(gate / (1 + np.exp(-gate)) * up, f"{name}.down_proj")

    def _linear(self, x, name):
        return x @ self.arrays[f"{name}.weight"].T + self.arrays.get(f"{name}.bias", 0.0)

    def _conv(self, x, name):
        return x @ self.arrays[f"{name}.weight"] + self.arrays[f"{name}.bias"]

    def _layer_norm(self, x, name):
        y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return y * self.arrays[f"{name}.weight"] + self.arrays[f"{name}.bias"]

    def _rms_norm(self, x, name):
        small = 1e-5 if self.record["model_type"] in ("phi3", "olmo2") else 1e-6
        least = 1 if self.record["model_type"].startswith("gemma") else 0
        y = x / np.sqrt((x**2).mean(1, keepdims=True) + small)
        return y * (least + self.arrays[f"{name}.weight"])


def windows(record):
    """The window of every block."""
    size, number = record.get("sliding_window"), record["num_hidden_layers"]
    default = [size is not None] * number
    match record["model_type"]:
        case "gemma2":
            default = [i % 2 == 0 for i in range(number)]
        case "gemma3_text":
            every = record.get("sliding_window_pattern", 6)
            default = [(i + 1) % every > 0 for i in range(number)]
        case "qwen2" | "qwen3":
            on = record.get("use_sliding_window", False)
            default = [on and i >= record["max_window_layers"] for i in range(number)]
        case "smollm3":
            default = [rotates == 0 for rotates in record["no_rope_layers"]]
    if "layer_types" in record:
        default = [kind == "sliding_attention" for kind in record["layer_types"]]
    return [size if local else None for local in default]


def attend(queries, keys, values, window=None, scale=None, cap=None):
    """Lists of heads (n, size); token i sees the last `window` tokens up to itself."""
    outputs = []
    for query, key, value in zip(queries, keys, values, strict=True):
        rows = []
        for i, q in enumerate(query):
            seen = slice(max(0, i + 1 - (window or i + 1)), i + 1)
            scores = key[seen] @ q / math.sqrt(scale or len(q))
            scores = scores if cap is None else cap * np.tanh(scores / cap)
            weights = np.exp(scores)
            rows.append(weights @ value[seen] / weights.sum())
        outputs.append(np.stack(rows))
    return np.concatenate(outputs, axis=1)


def turn(head, rates, factor=1.0):
    """Pairs of entries as complex numbers, times factor exp(i position rate)."""
    half = len(rates)
    pairs = factor * (head[:, :half] + 1j * head[:, half : 2 * half])
    pairs = pairs * np.exp(1j * np.outer(np.arange(len(head)), rates))
    return np.concatenate([pairs.real, pairs.imag, head[:, 2 * half :]], axis=1)


def llama_rates(record, size, length, local=False):
    """Radians per position from either format of config.json, and what is multiplied."""
    rotation = record.get("rope_parameters") or record.get("rope_scaling") or {}
    base = record.get("rope_theta") or rotation.get("rope_theta")
    if record["model_type"] == "gemma3_text":
        rotation = rotation.get("sliding_attention" if local else "full_attention", rotation)
        if local:
            rotation = {"rope_theta": record.get("rope_local_base_freq")} | (
                rotation if "rope_parameters" in record else {}
            )
            base = None
        base = base or rotation.get("rope_theta")
    base = base or (2e6 if record["model_type"] == "smollm3" else 10000.0)
    size = int(size * record.get("partial_rotary_factor", 1.0))
    kind = rotation.get("rope_type") or rotation.get("type")
    rates = [base ** (-2 * i / size) for i in range(size // 2)]
    if kind == "dynamic":
        return dynamic_rates(base, size, rotation["factor"], length, record), 1.0
    if kind == "linear":
        rates = [rate / rotation["factor"] for rate in rates]
    elif kind == "llama3":
        rates = [_llama3(rate, rotation) for rate in rates]
    elif kind == "yarn":
        return _yarn(rates, base, rotation)
    elif kind == "longrope":
        original = record["original_max_position_embeddings"]
        factors = rotation["long_factor" if length > original else "short_factor"]
        grown = record["max_position_embeddings"] / original
        factor = math.sqrt(1 + math.log(grown) / math.log(original))
        return np.array(rates) / factors, factor
    return np.array(rates), 1.0


def dynamic_rates(base, size, factor, length, record):
    """A larger base for longer texts."""
    longest = record["max_position_embeddings"]
    grown = factor * max(length, longest) / longest - factor + 1
    base = base * grown ** (size / (size - 2))
    return np.array([base ** (-2 * i / size) for i in range(size // 2)])


def _yarn(rates, base, rotation):
    """Between the places of two numbers of turns, a mean of the rate and a slower one."""
    size, factor = 2 * len(rates), rotation["factor"]

    def place(turns):
        wavelength = rotation["original_max_position_embeddings"] / turns
        return size * math.log(wavelength / (2 * math.pi), base) / 2

    first, last = place(rotation.get("beta_fast", 32)), place(rotation.get("beta_slow", 1))
    if rotation.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    mixed = []
    for i, rate in enumerate(rates):
        slowed = min(max((i - first) / (last - first), 0), 1)
        mixed.append(slowed * rate / factor + (1 - slowed) * rate)
    grown = lambda scale: 0.1 * scale * math.log(factor) + 1  # noqa: E731
    if "mscale" in rotation:
        return np.array(mixed), grown(rotation["mscale"]) / grown(rotation["mscale_all_dim"])
    return np.array(mixed), grown(1)


def _llama3(rate, rotation):
    wavelength = 2 * math.pi / rate
    low, high = rotation["low_freq_factor"], rotation["high_freq_factor"]
    length = rotation["original_max_position_embeddings"]
    if wavelength < length / high:
        return rate
    if wavelength > length / low:
        return rate / rotation["factor"]
    smooth = (length / wavelength - low) / (high - low)
    return (1 - smooth) * rate / rotation["factor"] + smooth * rate
