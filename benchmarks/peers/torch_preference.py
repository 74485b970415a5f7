"""A DPO step as a plain PyTorch loop, with the decoders of `benchmarks.preference_lm` written out.

What one writes without a library: prompt and answer in one row, so that the prompt is computed for
both answers; the head on the completions only; fused attention, cross-entropy and AdamW. Weights
are those of a Hugging Face folder.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.threads import cores
from ctrl_jax.pretrained import read_safetensors

torch.set_num_threads(cores())
Weights = Mapping[str, torch.Tensor]


class Loop:
    """The loop's state.

    Args:
        record: the content of the folder's config.json.
        file: the folder's weights.
        settings: of `benchmarks.preference_lm`.
        batches: of tokens, each (pairs, prompt), (pairs, completion), (pairs, completion).
        compiled: whether loss and gradient go through torch.compile.
    """

    def __init__(self, record: Mapping[str, Any], file, settings: Any, batches, *, compiled: bool):
        self.record, self.settings = record, settings
        self.weights = load(record, file)
        self.rows = [join(*batch) for batch in batches]
        score = torch.compile(self._log_probs, dynamic=False) if compiled else self._log_probs
        self.log_probs: Callable[[torch.Tensor], torch.Tensor] = score
        leaves = [*self.weights.values()]
        groups = [
            {"params": [w for w in leaves if w.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [w for w in leaves if w.ndim < 2], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        with torch.no_grad():
            self.reference = [self._log_probs(rows) for rows in self.rows]
        for leaf in leaves:
            leaf.requires_grad_()
        self.count = 0

    def step(self) -> float:
        """Take one step on the next batch; return its loss."""
        number = self.count % len(self.rows)
        ratio = self.log_probs(self.rows[number]) - self.reference[number]
        chosen, rejected = ratio.chunk(2)
        loss = -F.logsigmoid(self.settings.beta * (chosen - rejected)).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.count += 1
        return float(loss.detach())

    def _log_probs(self, rows: torch.Tensor) -> torch.Tensor:
        """Log-probability of the completion of every row."""
        decoder, table = DECODERS[self.record["model_type"]]
        first = self.settings.prompt
        hidden = decoder(self.record, self.weights, rows)[:, first - 1 : -1]
        logits = F.linear(hidden.flatten(0, 1), self.weights[table])
        nats = F.cross_entropy(logits, rows[:, first:].flatten(), reduction="none")
        return -nats.view(rows.shape[0], -1).sum(1)


def join(prompt, chosen, rejected) -> torch.Tensor:
    """Return rows of prompt and answer, the chosen answers first."""
    prompt, chosen, rejected = (torch.tensor(part).long() for part in (prompt, chosen, rejected))
    return torch.cat([torch.cat([prompt, answer], dim=1) for answer in (chosen, rejected)])


def load(record: Mapping[str, Any], file) -> dict[str, torch.Tensor]:
    """Return the weights by name, matrices as (out, in)."""
    turned = record["model_type"] == "gpt2"  # its files hold (in, out), but for the tables
    weights = {name: torch.tensor(array) for name, array in read_safetensors(file).items()}
    for name, weight in weights.items():
        if turned and weight.ndim == 2 and not name.endswith(("wte.weight", "wpe.weight")):
            weights[name] = weight.T.contiguous()
    return weights


def gpt2(record: Mapping[str, Any], weights: Weights, rows: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states of GPT-2."""

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    table = weights["transformer.wpe.weight"][: rows.shape[1]]
    h = F.embedding(rows, weights["transformer.wte.weight"]) + table
    for layer in range(record["n_layer"]):
        at = f"transformer.h.{layer}"
        parts = linear(f"{at}.attn.c_attn", norm(f"{at}.ln_1", h)).chunk(3, dim=-1)
        mixed = attend(*(split(part, record["n_head"]) for part in parts))
        h = h + linear(f"{at}.attn.c_proj", mixed)
        hidden = F.gelu(linear(f"{at}.mlp.c_fc", norm(f"{at}.ln_2", h)), approximate="tanh")
        h = h + linear(f"{at}.mlp.c_proj", hidden)
    return norm("transformer.ln_f", h)


def llama(record: Mapping[str, Any], weights: Weights, rows: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states of Llama."""
    heads, key_heads = record["num_attention_heads"], record["num_key_value_heads"]

    def linear(name, x):
        return F.linear(x, weights[f"{name}_proj.weight"])

    def norm(name, x):
        return F.rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], record["rms_norm_eps"])

    h = F.embedding(rows, weights["model.embed_tokens.weight"])
    half = h.shape[-1] // heads // 2
    rates = record["rope_theta"] ** (-torch.arange(half) / half)
    phase = torch.arange(rows.shape[1])[:, None] * rates
    turn = torch.cos(phase), torch.sin(phase)
    for layer in range(record["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        x = norm(f"{at}.input_layernorm", h)
        query = rotate(split(linear(f"{at}.self_attn.q", x), heads), *turn)
        key = rotate(split(linear(f"{at}.self_attn.k", x), key_heads), *turn)
        value = split(linear(f"{at}.self_attn.v", x), key_heads)
        h = h + linear(f"{at}.self_attn.o", attend(query, key, value))
        x = norm(f"{at}.post_attention_layernorm", h)
        hidden = F.silu(linear(f"{at}.mlp.gate", x)) * linear(f"{at}.mlp.up", x)
        h = h + linear(f"{at}.mlp.down", hidden)
    return norm("model.norm", h)


DECODERS: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "gpt2": (gpt2, "transformer.wte.weight"),
    "llama": (llama, "lm_head.weight"),
}
"""A family's last hidden states, and the name of its head."""


def split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Return (rows, heads, tokens, width of a head)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Return x with its halves rotated."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return causal attention, the heads joined."""
    shared = key.shape[1] < query.shape[1]
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shared)
    return mixed.transpose(1, 2).flatten(2)


def losses(loop: Loop, steps: int) -> Sequence[float]:
    """Return the losses of the next steps."""
    return [loop.step() for _ in range(steps)]
