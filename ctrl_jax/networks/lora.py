"""Low-rank adapters (2106.09685): fine-tuning with few trained numbers.

An adapted linear layer with kernel W (inputs, outputs) computes

    y = x W + (alpha / r) (x A) B,   A (inputs, r) random,  B (r, outputs) zero at first,    (1)

so that the output is unchanged at first. In a convolution A has the kernel's window and B one of
1 x 1. Training moves A and B alone; afterwards
W + (alpha / r) A B is an ordinary kernel. Adapters lie in the tree of parameters beside their
kernel, as ``lora_a`` and ``lora_b``; `split` takes them out and `combine` puts them back. With
`base` the parameters of the network without adapters, which is the reference::

    adapters = jax.jit(lambda key: split(adapted.init(key))[0])(key)  # draws nothing else
    gradient = jax.grad(lambda adapters: loss(combine(adapters, base)))(adapters)
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from ctrl_jax._checks import check_count, check_positive, refuse
from ctrl_jax._typing import Params
from ctrl_jax.networks.layers.convolution import Convolution
from ctrl_jax.networks.layers.linear import Linear, at_least_single

A, B = "lora_a", "lora_b"


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which linear layers and convolutions are adapted, and how much.

    Args:
        rank: r, inner size of an adapter.
        alpha: the adapters' output is multiplied by alpha / rank.
        targets: layers by the ends of their paths in the network, such as "query" in every block
            or "attn1.to_q".

    Raises:
        ValueError: a rank below one, alpha not positive, no target.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "value")

    def __post_init__(self):
        check_count("LoRA.rank", self.rank)
        check_positive("LoRA.alpha", self.alpha)
        if not (self.targets and all(isinstance(name, str) and name for name in self.targets)):
            rule = "they must be names of layers"
            raise refuse("LoRA.targets", self.targets, rule, "give some, such as query")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


def adapt(network: nnx.Module, lora: LoRA, rngs: nnx.Rngs) -> None:
    """Put adapters into a network, in place.

    Args:
        network: whose layers are `Linear` and `Convolution`.
        lora: which of them, rank and scale.
        rngs: random streams; that of the adapters is ``lora``.

    Raises:
        ValueError: the network has no layer of the name of a target.
    """
    layers = {
        ".".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(network)
        if isinstance(layer, Linear | Convolution)
    }
    for target in lora.targets:
        if not any(_ends(path, target) for path in layers):
            rule, names = (
                "the network has no such layer",
                sorted({p.split(".")[-1] for p in layers}),
            )
            raise refuse("LoRA.targets", target, rule, f"give some of {', '.join(names)}")
    for path, layer in layers.items():
        if any(_ends(path, target) for target in lora.targets):
            layer.add_adapter(lora.rank, lora.scale, rngs)


def _ends(path: str, ending: str) -> bool:
    return f".{path}".endswith(f".{ending}")


def split(params: Params) -> tuple[Params, Params]:
    """Return the adapters alone, and the parameters without them, as nested dictionaries.

    Args:
        params: parameters of a network with adapters, nested dictionaries.
    """
    adapters, base = {}, {}
    for name, value in params.items():
        if isinstance(value, dict):
            inner, rest = split(value)
            if inner:
                adapters[name] = inner
            base[name] = rest
        else:
            (adapters if name in (A, B) else base)[name] = value
    return adapters, base


def combine(adapters: Params, base: Params) -> Params:
    """Return the parameters that `split` took apart.

    Args:
        adapters: nested dictionaries that hold `lora_a` and `lora_b` only.
        base: the parameters without adapters.

    Raises:
        ValueError: an adapter has no layer in `base`.
    """
    whole = dict(base)
    for name, value in adapters.items():
        if not isinstance(value, dict):
            whole[name] = value
        elif isinstance(base.get(name), dict):
            whole[name] = combine(value, base[name])
        else:
            repair = "give those that they were split from"
            raise refuse("adapters", name, "the parameters have no such layer", repair)
    return whole


def merge(params: Params, lora: LoRA) -> Params:
    """Return ordinary parameters with every adapter added to its kernel.

    Args:
        params: parameters of a model with adapters.
        lora: the description they were made with.

    Returns:
        Parameters of the model without adapters, the kernels in their own dtype.

    Raises:
        ValueError: the adapters have another rank.
    """
    if A in params:
        kernel, a, b = (params[name] for name in ("kernel", A, B))
        if a.shape[-1] != lora.rank:
            rule = f"the adapters have rank {a.shape[-1]}"
            raise refuse("lora.rank", lora.rank, rule, "give the LoRA they were made with")
        exact = at_least_single(kernel.dtype)
        # One product for matrices, stacked ones, and convolutions, whose b has a window of 1 x 1.
        product = jnp.matmul(a.astype(exact), b.astype(exact))
        merged = kernel.astype(exact) + lora.scale * product
        plain = {name: value for name, value in params.items() if name not in (A, B)}
        return plain | {"kernel": merged.astype(kernel.dtype)}
    return {
        name: merge(value, lora) if isinstance(value, dict) else value
        for name, value in params.items()
    }
