"""Weights of the Inception network behind FID, from a local safetensors file.

The file holds the PyTorch form of the published 2015 weights, keys such as
``Mixed_5b.branch1x1.conv.weight``, float32. Whoever has them as a PyTorch file converts it once,
where that file is trusted::

    torch_state = torch.load("pt_inception-2015-12-05-6726825d.pth", weights_only=True)
    safetensors.torch.save_file(torch_state, "inception.safetensors")
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array

from ctrl_jax._typing import Params
from ctrl_jax.networks.inception import BLOCKS, InceptionOutput, InceptionV3
from ctrl_jax.networks.layers.making import describe, streams
from ctrl_jax.pretrained.key_table import Source, fill
from ctrl_jax.pretrained.safetensors_file import read_safetensors

CONVOLUTION = (2, 3, 1, 0)  # PyTorch: (outputs, inputs, h, w); ours: (h, w, inputs, outputs)
NORMALISATION = {
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}


class Inception(NamedTuple):
    """The network with its weights.

    Fields:
        params: the weights.
        apply: ``apply(params, images)``, images (batch, h, w, 3) in [-1, 1], returns
            `InceptionOutput`; pure.
    """

    params: Params
    apply: Callable[[Params, Array], InceptionOutput]


def load_inception(path: str | os.PathLike[str]) -> Inception:
    """Return Inception-v3 with the weights of a safetensors file.

    Args:
        path: the file.

    Raises:
        ValueError: the file is missing, truncated, of another format or of another network.
    """
    arrays = read_safetensors(path)
    graph, state = describe(lambda: InceptionV3(rngs=streams(default=0)))
    target = nnx.to_pure_dict(state)
    # How many batches the moments were averaged over is kept by PyTorch and used by nobody.
    counts = [key for key in arrays if key.endswith(".bn.num_batches_tracked")]
    params = fill(target, inception_table(target), arrays, ignored=counts)
    return Inception(params, lambda params, images: nnx.merge(graph, params)(images))


def inception_table(target: Any) -> dict[str, Source]:
    """Return the key table of `InceptionV3`, for its parameters as nested dictionaries."""
    table = {
        "classes.kernel": Source("fc.weight", (1, 0)),
        "classes.bias": Source("fc.bias"),
    }
    for name in target["stem"]:
        table |= _layer(f"stem.{name}", name)
    for block in BLOCKS:
        for name in target["blocks"][block]["layers"]:
            table |= _layer(f"blocks.{block}.layers.{name}", f"{block}.{name}")
    return table


def _layer(path: str, key: str) -> dict[str, Source]:
    kernel = {f"{path}.kernel": Source(f"{key}.conv.weight", CONVOLUTION)}
    return kernel | {
        f"{path}.{ours}": Source(f"{key}.{theirs}") for ours, theirs in NORMALISATION.items()
    }
