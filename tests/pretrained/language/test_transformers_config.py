"""What is read of records against what transformers' own classes of configs take; no PyTorch."""

import copy

import pytest

from ctrl_jax.pretrained.language.record import FULL, READERS, SLIDING, read_record
from tests.pretrained.language.published import PUBLISHED
from tests.pretrained.language.records import RECORDS

transformers = pytest.importorskip("transformers", minversion="5.24")
RECORDS_READ = {name: p.record for name, p in PUBLISHED.items() if not p.refused} | RECORDS
# transformers takes the older name of LongRoPE only where the original length is inside, too.
del RECORDS_READ["Phi-3 mini 128k"]
KINDS = {
    "NoneType": "default",
    "LinearScaling": "linear",
    "Llama3Scaling": "llama3",
    "YarnScaling": "yarn",
    "LongScaling": "longrope",
    "DynamicScaling": "dynamic",
}


def ours(config):
    """The numbers of a description, and its rotations by type of layer where it has such layers."""
    found = {
        "tied": config.tied,
        "heads": config.heads,
        "depth": config.depth,
        "width": config.width,
    }
    if hasattr(config.positions, "length"):
        return found
    rotations = {FULL: config.positions}
    if any(config.windows):
        rotations[SLIDING] = config.window_positions or config.positions
    return found | {
        "key_heads": config.key_heads,
        "head_width": config.head_width,
        "epsilon": config.epsilon,
        "hidden": config.hidden,
        "windows": config.windows,
        "score_cap": config.score_cap,
        "logit_cap": config.logit_cap,
        "rotations": {
            kind: (r.base, r.fraction, KINDS[type(r.scaling).__name__])
            for kind, r in rotations.items()
        },
    }


def theirs(config):
    """The same of a config of transformers."""
    depth, heads, width = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
    found = {
        "tied": config.tie_word_embeddings,
        "heads": heads,
        "depth": depth,
        "width": width,
    }
    if config.model_type == "gpt2":
        return found
    window, types = (getattr(config, name, None) for name in ("sliding_window", "layer_types"))
    windows = tuple(window if kind == SLIDING else None for kind in types or ())
    rotations = config.rope_parameters
    if FULL not in rotations:
        rotations = {FULL: rotations, SLIDING: rotations}
    windows = windows or (window,) * depth
    return found | {
        "key_heads": getattr(config, "num_key_value_heads", heads),
        "head_width": getattr(config, "head_dim", None) or width // heads,
        "epsilon": getattr(config, "rms_norm_eps", None) or config.layer_norm_eps,
        "hidden": config.intermediate_size,
        "windows": windows,
        "score_cap": getattr(config, "attn_logit_softcapping", None),
        "logit_cap": getattr(config, "final_logit_softcapping", None),
        "rotations": {
            kind: (r["rope_theta"], r.get("partial_rotary_factor", 1.0), r["rope_type"])
            for kind, r in rotations.items()
            if kind == FULL or any(windows)
        },
    }


def test_records_mean_what_they_mean_to_transformers():
    for name, record in RECORDS_READ.items():
        config = transformers.AutoConfig.for_model(**copy.deepcopy(record))
        assert ours(read_record(record)) == theirs(config), name


@pytest.mark.parametrize("kind", sorted({*READERS} - {"gpt2"}))
def test_absent_entries_are_those_of_transformers(kind):
    """With sizes alone."""
    record = {"model_type": kind, "vocab_size": 37, "hidden_size": 128, "intermediate_size": 20}
    record |= {"num_attention_heads": 32, "num_hidden_layers": 8}
    if kind == "gpt_neox":
        record["num_attention_heads"] = 8  # a quarter of a head is rotated
    config = transformers.AutoConfig.for_model(**record)
    assert ours(read_record(record)) == theirs(config)
