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
        rotation = record.get("rope_parameters", {})
        share = rotation.get("partial_rotary_factor", record.get("rotary_pct"))
        base = rotation.get("rope_theta", record.get("rotary_emb_base"))
        rates = base ** -(np.arange(0, int(record["hidden_size"] // heads * share), 2.0))
        rates = rates ** (1 / (2 * len(rates)))
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
        record = self.record
        size = record.get("head_dim") or record["hidden_size"] // record["num_attention_heads"]
        rates = llama_rates(record, size)
        window = record.get("sliding_window") or len(tokens)
        group = record["num_attention_heads"] // record["num_key_value_heads"]
        h = self.arrays["model.embed_tokens.weight"][tokens]
        for i in range(record["num_hidden_layers"]):
            block = f"model.layers.{i}"
            x = self._rms_norm(h, f"{block}.input_layernorm")
            q, k, v = (
                self._split(x, f"{block}.self_attn.{name}", size) for name in ("q", "k", "v")
            )
            q, k = ([turn(head, rates) for head in part] for part in (q, k))
            k, v = ([part[j // group] for j in range(len(q))] for part in (k, v))
            h = h + self._linear(attend(q, k, v, window), f"{block}.self_attn.o_proj")
            x = self._rms_norm(h, f"{block}.post_attention_layernorm")
            gate = self._linear(x, f"{block}.mlp.gate_proj")
            inner = gate / (1 + np.exp(-gate)) * self._linear(x, f"{block}.mlp.up_proj")
            h = h + self._linear(inner, f"{block}.mlp.down_proj")
        head = self.arrays.get("lm_head.weight", self.arrays["model.embed_tokens.weight"])
        return self._rms_norm(h, "model.norm") @ head.T

    def _split(self, x, name, size):
        """Heads of a projection, normalized where there are weights for it."""
        y = self._linear(x, f"{name}_proj")
        heads = np.split(y, y.shape[1] // size, axis=1)
        normed = f"{name}_norm.weight" in self.arrays
        return [self._rms_norm(head, f"{name}_norm") if normed else head for head in heads]

    def _linear(self, x, name):
        return x @ self.arrays[f"{name}.weight"].T + self.arrays.get(f"{name}.bias", 0.0)

    def _conv(self, x, name):
        return x @ self.arrays[f"{name}.weight"] + self.arrays[f"{name}.bias"]

    def _layer_norm(self, x, name):
        y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return y * self.arrays[f"{name}.weight"] + self.arrays[f"{name}.bias"]

    def _rms_norm(self, x, name):
        y = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6)
        return y * self.arrays[f"{name}.weight"]


def attend(queries, keys, values, window=None):
    """Lists of heads (n, size); token i sees the last `window` tokens up to itself."""
    outputs = []
    for query, key, value in zip(queries, keys, values, strict=True):
        rows = []
        for i, q in enumerate(query):
            seen = slice(max(0, i + 1 - (window or i + 1)), i + 1)
            weights = np.exp(key[seen] @ q / math.sqrt(len(q)))
            rows.append(weights @ value[seen] / weights.sum())
        outputs.append(np.stack(rows))
    return np.concatenate(outputs, axis=1)


def turn(head, rates):
    """Pairs of entries as complex numbers, times exp(i position rate)."""
    half = len(rates)
    pairs = head[:, :half] + 1j * head[:, half : 2 * half]
    pairs = pairs * np.exp(1j * np.outer(np.arange(len(head)), rates))
    return np.concatenate([pairs.real, pairs.imag, head[:, 2 * half :]], axis=1)


def llama_rates(record, size):
    """Radians per position, from either format of config.json."""
    rotation = record.get("rope_parameters") or record.get("rope_scaling") or {}
    base = record.get("rope_theta") or rotation.get("rope_theta", 10000.0)
    rates = []
    for i in range(size // 2):
        rate = base ** (-2 * i / size)
        kind = rotation.get("rope_type") or rotation.get("type")
        if kind == "linear":
            rate /= rotation["factor"]
        elif kind == "llama3":
            rate = _llama3(rate, rotation)
        rates.append(rate)
    return np.array(rates)


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
