"""Weights of published networks, from files the user has; nothing is ever downloaded."""

from ctrl_jax.pretrained.inception import Inception, load_inception
from ctrl_jax.pretrained.key_table import Source, fill
from ctrl_jax.pretrained.safetensors_file import read_safetensors

__all__ = ["Inception", "Source", "fill", "load_inception", "read_safetensors"]
