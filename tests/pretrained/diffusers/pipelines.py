"""Small pipelines on disk with the weights of `named_weights`."""

from ctrl_jax.pretrained.diffusers.small import filled, write_small_pipeline
from tests.oracles.named_weights import named_weight
from tests.pretrained.diffusers.letters import use_letters_without_transformers

use_letters_without_transformers()
FEWEST = {"transformer": {"num_layers": 2, "dual_attention_layers": []}}
"""Records of the sd3 pipeline whose transformer has a block of each necessary kind, and no more."""


def write_pipeline(folder, kind, **options):
    """Write a whole pipeline of a kind."""
    named = lambda part: filled(part, named_weight)  # noqa: E731
    return write_small_pipeline(folder, kind, weights=named, **options)
