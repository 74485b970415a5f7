"""What is read from the disk of a user: images, preferences and prompts."""

from ctrl_jax.data.class_folders import class_names
from ctrl_jax.data.images import Digits, Images, load_digits, load_folder
from ctrl_jax.data.preferences.file import read_preferences
from ctrl_jax.data.preferences.record import PreferenceRecord
from ctrl_jax.data.preferences.rows import PreferenceRows, TokenPair, pack_pairs
from ctrl_jax.data.preferences.tokenizer import Tokenizer, load_tokenizer
from ctrl_jax.data.preferences.tokens import tokenize_preferences
from ctrl_jax.data.prompts import Distinct, Prompt, distinct, read_prompts

__all__ = [
    "Digits",
    "Distinct",
    "Images",
    "PreferenceRecord",
    "PreferenceRows",
    "Prompt",
    "TokenPair",
    "Tokenizer",
    "class_names",
    "distinct",
    "load_digits",
    "load_folder",
    "load_tokenizer",
    "pack_pairs",
    "read_preferences",
    "read_prompts",
    "tokenize_preferences",
]
