"""Weights and tokenizers of published networks, from files the user has; nothing is downloaded."""

from ctrl_jax.pretrained.decoder import PretrainedDecoder, load_decoder, save_decoder
from ctrl_jax.pretrained.inception import Inception, load_inception
from ctrl_jax.pretrained.key_table import Source, fill
from ctrl_jax.pretrained.model_record import read_record
from ctrl_jax.pretrained.preference_record import PreferenceRecord
from ctrl_jax.pretrained.preference_tokens import tokenize_preferences
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors
from ctrl_jax.pretrained.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "Inception",
    "PreferenceRecord",
    "PretrainedDecoder",
    "Source",
    "Tokenizer",
    "fill",
    "load_decoder",
    "load_inception",
    "load_tokenizer",
    "read_record",
    "read_safetensors",
    "save_decoder",
    "tokenize_preferences",
    "write_safetensors",
]
