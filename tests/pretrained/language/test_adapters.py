"""Adapters as PEFT reads them: what it adds to every weight is what merging adds."""

import json

import jax
import numpy as np
import pytest

from ctrl_jax.networks import LoRA, language_model, lora
from ctrl_jax.pretrained import read_record, read_safetensors, save_adapters, save_decoder

SIZES = {"vocab_size": 11, "max_position_embeddings": 16}
LLAMA = SIZES | {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
RECORDS = {
    "llama": LLAMA | {"model_type": "llama", "num_key_value_heads": 1},
    "gpt2": {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2},
    "gpt_neox": LLAMA | {"model_type": "gpt_neox", "rotary_pct": 0.5},
}
RECORDS["gpt2"] |= {"model_type": "gpt2"}
RECORDS["phi3"] = RECORDS["llama"] | {"model_type": "phi3", "pad_token_id": None}
ALL = ("query", "key", "value", "out", "up", "down")
MODULES = {
    ("llama", "query value"): {"self_attn.q_proj", "self_attn.v_proj"},
    ("gpt2", "query value"): {"attn.c_attn"},
    ("gpt_neox", "query value"): {"attention.query_key_value"},
    ("gpt2", "all"): {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    ("phi3", "query key gate"): {"self_attn.qkv_proj", "mlp.gate_up_proj"},
    ("gpt_neox", "key out"): {"attention.query_key_value", "attention.dense"},
}


def random_params(record, adapters):
    """Random parameters, those of adapters among them."""
    model = language_model(read_record(record), lora=adapters)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32), shapes
    )


@pytest.mark.parametrize(
    ("kind", "targets", "rank"), [*((*case, 2) for case in MODULES), ("gpt2", "all", 9)]
)
def test_what_peft_adds_is_what_merging_adds(tmp_path, kind, targets, rank):
    record = RECORDS[kind]
    layers = ALL if targets == "all" else tuple(targets.split())
    adapters = LoRA(rank, 3.0, layers)
    params = random_params(record, adapters)
    factors, base = lora.split(params)
    save_decoder(tmp_path / "base", record, base)
    save_decoder(tmp_path / "merged", record, jax.device_get(lora.merge(params, adapters)))
    save_adapters(tmp_path / "alone", record, factors, adapters, base=tmp_path / "base")
    found = read_safetensors(tmp_path / "alone" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "alone" / "adapter_config.json").read_text())
    assert {*config["target_modules"]} == MODULES[kind, targets]
    assert config["peft_type"] == "LORA" and config["fan_in_fan_out"] == (kind == "gpt2")
    before, after = (
        read_safetensors(tmp_path / name / "model.safetensors") for name in ("base", "merged")
    )
    seen = set()
    for name, weight in before.items():
        module = name.removesuffix(".weight")
        part = next((t for t in config["target_modules"] if module.endswith(f".{t}")), None)
        added = np.zeros(())
        if part is not None and name.endswith(".weight"):
            r = config["rank_pattern"].get(part, config["r"])
            alpha = config["alpha_pattern"].get(part, config["lora_alpha"])
            keys = [f"base_model.model.{module}.lora_{letter}.weight" for letter in "AB"]
            a, b = (found[key] for key in keys)
            assert a.shape[0] == b.shape[1] == r
            seen |= {*keys}
            added = alpha / r * (b @ a)
            added = added.T if config["fan_in_fan_out"] else added
        np.testing.assert_allclose(weight + added, after[name], rtol=1e-5, atol=1e-5)
    assert seen == {*found}


def test_adapters_of_another_rank_or_model_are_refused(tmp_path):
    record, adapters = RECORDS["llama"], LoRA(2, 3.0)
    factors, _ = lora.split(random_params(record, adapters))
    shallow = record | {"num_hidden_layers": 1}
    for other, of in ((record, LoRA(3, 3.0)), (shallow, adapters)):
        with pytest.raises(ValueError, match=r"adapters: received '8 arrays'; blocks.* is no ad"):
            save_adapters(tmp_path / "a", other, factors, of, base="base")
    with pytest.raises(ValueError, match="there is nothing to save"):
        save_adapters(tmp_path / "a", record, {}, adapters, base="base")
    assert not [*tmp_path.iterdir()]
    save_adapters(tmp_path / "a", record, factors, adapters, base="base")
    with pytest.raises(ValueError, match=r"it holds adapter_config.json already; give another"):
        save_adapters(tmp_path / "a", record, factors, adapters, base="base")
