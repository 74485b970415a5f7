"""Flax NNX networks, seen from above only as callables (`as_model`)."""

from ctrl_jax._typing import Model
from ctrl_jax.networks import lora
from ctrl_jax.networks.attention_mask import causal_mask, positions_of, text_mask
from ctrl_jax.networks.decoder_config import (
    DecoderConfig,
    Learned,
    LinearScaling,
    Llama3Scaling,
    Rotary,
)
from ctrl_jax.networks.decoding import Decoding, make_decoding
from ctrl_jax.networks.diffusion_model import DiffusionSpec
from ctrl_jax.networks.dit import DiT
from ctrl_jax.networks.functional import as_model, count_parameters
from ctrl_jax.networks.image_diffusion import ImageDiffusionSpec
from ctrl_jax.networks.inception import InceptionV3
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.mlp import MLP
from ctrl_jax.networks.ncsnpp import DDPMPP, NCSNPP, NCSNpp, NCSNppConfig
from ctrl_jax.networks.partition import partition_specs
from ctrl_jax.networks.preference_rows import PreferenceRows, TokenPair, pack_pairs
from ctrl_jax.networks.steering_model import SteeringSpec
from ctrl_jax.networks.transformer import LanguageModel, language_model
from ctrl_jax.networks.unet import UNet
from ctrl_jax.networks.value import ValueMLP

__all__ = [
    "DDPMPP",
    "MLP",
    "NCSNPP",
    "DecoderConfig",
    "Decoding",
    "DiT",
    "DiffusionSpec",
    "ImageDiffusionSpec",
    "InceptionV3",
    "LanguageModel",
    "Learned",
    "LinearScaling",
    "Llama3Scaling",
    "LoRA",
    "Model",
    "NCSNpp",
    "NCSNppConfig",
    "PreferenceRows",
    "Rotary",
    "SteeringSpec",
    "TokenPair",
    "UNet",
    "ValueMLP",
    "as_model",
    "causal_mask",
    "count_parameters",
    "language_model",
    "lora",
    "make_decoding",
    "pack_pairs",
    "partition_specs",
    "positions_of",
    "text_mask",
]
