"""Small pipelines on disk with the weights of `named_weights`."""

from ctrl_jax.pretrained.diffusers.small import filled, write_small_pipeline
from tests.oracles.named_weights import named_weight


def write_pipeline(folder, kind):
    """Write a whole pipeline of a kind."""
    return write_small_pipeline(folder, kind, weights=lambda part: filled(part, named_weight))
