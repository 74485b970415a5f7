"""Published networks and pipelines, from files the user has; nothing is downloaded."""

from ctrl_jax.pretrained.diffusers.drawing import make_drawing
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline, load_pipeline
from ctrl_jax.pretrained.diffusers.saving import save_lora, save_pipeline
from ctrl_jax.pretrained.diffusers.small import write_small_pipeline
from ctrl_jax.pretrained.inception import Inception, load_inception
from ctrl_jax.pretrained.key_table import Source, fill
from ctrl_jax.pretrained.language.adapters import save_adapters
from ctrl_jax.pretrained.language.folder import PretrainedDecoder, load_decoder, save_decoder
from ctrl_jax.pretrained.language.record import read_record
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors

__all__ = [
    "Inception",
    "Pipeline",
    "PretrainedDecoder",
    "Source",
    "fill",
    "load_decoder",
    "load_inception",
    "load_pipeline",
    "make_drawing",
    "read_record",
    "read_safetensors",
    "save_adapters",
    "save_decoder",
    "save_lora",
    "save_pipeline",
    "write_safetensors",
    "write_small_pipeline",
]
