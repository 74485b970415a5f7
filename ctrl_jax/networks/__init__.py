"""Flax NNX networks, seen from above only as callables (`as_model`)."""

from ctrl_jax._typing import Model
from ctrl_jax.networks import lora
from ctrl_jax.networks.functional import as_model, count_parameters
from ctrl_jax.networks.inception import InceptionV3
from ctrl_jax.networks.language.config import DecoderConfig, Learned
from ctrl_jax.networks.language.decoder import LanguageModel, language_model
from ctrl_jax.networks.language.decoding import Decoding, make_decoding
from ctrl_jax.networks.language.mask import causal_mask, positions_of, text_mask
from ctrl_jax.networks.layers.rotary import Rotary
from ctrl_jax.networks.layers.rotary_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    YarnScaling,
)
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.score.dit import DiT
from ctrl_jax.networks.score.mlp import MLP
from ctrl_jax.networks.score.ncsnpp import DDPMPP, NCSNPP, NCSNpp, NCSNppConfig
from ctrl_jax.networks.score.unet import UNet
from ctrl_jax.networks.sharding import partition_specs
from ctrl_jax.networks.values import ValueMLP, anchored_value

__all__ = [
    "DDPMPP",
    "MLP",
    "NCSNPP",
    "DecoderConfig",
    "Decoding",
    "DiT",
    "DynamicScaling",
    "InceptionV3",
    "LanguageModel",
    "Learned",
    "LinearScaling",
    "Llama3Scaling",
    "LoRA",
    "LongScaling",
    "Model",
    "NCSNpp",
    "NCSNppConfig",
    "Rotary",
    "UNet",
    "ValueMLP",
    "YarnScaling",
    "anchored_value",
    "as_model",
    "causal_mask",
    "count_parameters",
    "language_model",
    "lora",
    "make_decoding",
    "partition_specs",
    "positions_of",
    "text_mask",
]
