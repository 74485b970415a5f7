"""Entries of a config.json that say nothing of the network.

Three sorts. Those that nearly every file carries are passed over silently. Others are read over and
named: notes of libraries and trainers, defaults of sampling, and whatever is switched off. Only
what may change the result is refused.
"""

import re
from collections.abc import Mapping
from typing import Any

# What says nothing about the hidden states: bookkeeping, tokens, generation, dropout, other tasks.
USUAL = {
    *("model_type", "architectures", "transformers_version", "_name_or_path", "name_or_path"),
    *("dtype", "torch_dtype", "use_cache", "return_dict", "output_attentions"),
    *("output_hidden_states", "torchscript", "gradient_checkpointing", "is_decoder"),
    *("is_encoder_decoder", "chunk_size_feed_forward", "pretraining_tp", "use_bfloat16"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("unk_token_id", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
    *("task_specific_params", "max_position_embeddings", "n_ctx", "max_window_layers"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout"),
    *("classifier_dropout", "summary_type", "summary_use_proj", "summary_activation"),
    *("summary_proj_to_labels", "summary_first_dropout", "reorder_and_upcast_attn"),
    *("_attn_implementation_autoset", "_attn_implementation", "attn_implementation"),
    *("_sliding_window_pattern",),
}
# How transformers generates text where its generation_config.json says nothing.
GENERATION = {
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample", "temperature"),
    *("early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "length_penalty"),
    *("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "penalty_alpha"),
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
    *("exponential_decay_length_penalty", "remove_invalid_values", "renormalize_logits"),
    *("num_return_sequences", "output_scores", "return_dict_in_generate", "cache_implementation"),
    *("assistant_confidence_threshold", "assistant_lookbehind", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "target_lookbehind", "generation_config"),
}
# What libraries, trainers and files of single models leave behind.
NOTES = {
    *("n_special", "predict_special_tokens", "output_past", "is_llama_config", "tokenizer_class"),
    *("tokenizer_type", "prefix", "tf_legacy_loss", "use_return_dict", "custom_pipelines"),
    *("transformers.js_config", "transformers_js_config", "model_max_length", "max_seq_len"),
    *("max_seq_length", "max_sequence_length", "language", "license", "tags", "datasets"),
    *("interpolate_factor", "full_attn_mod", "dual_chunk_attention_config", "hidden_act"),
    *(
        "type_vocab_size",
        "trust_remote_code",
        "use_flash_attn",
        "use_flash_attention",
        "flash_attn",
    ),
    *("use_flash_attention_2", "padding_side", "truncation_side", "run_name", "hub_model_id"),
}
PATTERNS = re.compile(
    r"_.*|unsloth_.*|summary_.*|.*drop(out)?(_.*)?|.*_pdrop|.*_token_ids?|.*_token_index"
    r"|(bos|eos|pad|unk|sep|cls|mask)_token|.*_version|.*_(revision|commit|hash|date|author|url|path)"
)
MEANT_WHEN_OFF = {"is_causal"}  # transformers looks for it in every family


def is_bookkeeping(key: str, value: Any) -> bool:
    """Return whether an entry that no reader asks for can be read over.

    Args:
        key: its name.
        value: what stands there; None, False, 0 and what is empty switch nothing on.
    """
    if key in GENERATION or key in NOTES or PATTERNS.fullmatch(key):
        return True
    return not value and key not in MEANT_WHEN_OFF


def foreign_class(record: Mapping[str, Any], causal: str) -> str | None:
    """Return the class that ``auto_map`` names in place of one of transformers', if it does.

    Args:
        record: the content of config.json.
        causal: the class of transformers that loads such models; where the folder's own has the
            same name, transformers takes its own.
    """
    places = record.get("auto_map") or {}
    if not isinstance(places, Mapping):
        return str(places)
    stem = causal.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    known = {
        "AutoModelForCausalLM": {causal},
        "AutoModel": {f"{stem}Model", f"{stem}TextModel", causal},
        "AutoConfig": {f"{stem}Config", f"{stem}TextConfig"},
    }
    found = [str(place) for auto, place in places.items() if auto in known]
    own = [
        p for auto, p in places.items() if str(p).split(".")[-1] not in known.get(auto, {str(p)})
    ]
    return next((p for p in found if p in own), None)
