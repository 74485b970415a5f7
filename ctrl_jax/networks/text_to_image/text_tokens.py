"""What encoders of texts take: whole numbers, and which of them are seen."""

import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._checks import refuse


def check_tokens(tokens: Array, mask: Array | None, longest: int | None = None) -> None:
    """Raise ValueError unless tokens are integers (batch, tokens), and their mask fits."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise refuse("tokens", tokens, "they must be integers (batch, tokens)", "tokenize the text")
    if longest is not None and tokens.shape[1] > longest:
        raise refuse("tokens", tokens, f"the model has {longest} positions", "cut the text")
    if mask is not None and (mask.shape != tokens.shape or mask.dtype != bool):
        rule = f"it must be booleans {tokens.shape}"
        raise refuse("mask", mask, rule, "give true at every token that is seen")
