"""Weights and tokenizers of published networks, from files the user has; nothing is downloaded."""

from ctrl_jax.pretrained.inception import Inception, load_inception
from ctrl_jax.pretrained.key_table import Source, fill
from ctrl_jax.pretrained.language.adapters import save_adapters
from ctrl_jax.pretrained.language.folder import PretrainedDecoder, load_decoder, save_decoder
from ctrl_jax.pretrained.language.record import read_record
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors

__all__ = [
    "Inception",
    "PretrainedDecoder",
    "Source",
    "fill",
    "load_decoder",
    "load_inception",
    "read_record",
    "read_safetensors",
    "save_adapters",
    "save_decoder",
    "write_safetensors",
]
