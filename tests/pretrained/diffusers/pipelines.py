"""Small pipelines on disk with the weights of `named_weights`."""

from ctrl_jax.pretrained.diffusers.small import filled, write_small_pipeline
from tests.oracles.named_weights import named_weight
from tests.pretrained.diffusers.letters import use_letters_without_transformers

use_letters_without_transformers()


def write_pipeline(folder, kind):
    """Write a whole pipeline of a kind."""
    return write_small_pipeline(folder, kind, weights=lambda part: filled(part, named_weight))
